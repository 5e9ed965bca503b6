"""Layers that are kernels: trained layers as products of features of inputs and of parameters."""

from .comparing import ModeComparison, compare_modes
from .conversion import convert
from .layer import SNNKLinear
from .report import ConversionReport

__all__ = ["ConversionReport", "ModeComparison", "SNNKLinear", "compare_modes", "convert"]
