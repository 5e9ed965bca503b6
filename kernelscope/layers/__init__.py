"""Per-sample gradients of any module, by the factors they are made of."""

from .batch import Batch
from .factors import Factor, Outer, Rows, merge
from .gradients import Gradients, ModuleGradients, Plan, Values

__all__ = ["Batch", "Factor", "Gradients", "ModuleGradients", "Outer", "Plan", "Rows", "Values", "merge"]
