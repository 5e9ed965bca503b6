"""Per-sample gradients of any module, by the factors they are made of."""

from .batch import Batch
from .capture import Gradients
from .factors import Factor, Outer, Rows, merge
from .function import Function, Values
from .gradients import ModuleGradients
from .plan import OtherUses

__all__ = ["Batch", "Factor", "Function", "Gradients", "ModuleGradients", "OtherUses", "Outer", "Rows", "Values",
           "merge"]
