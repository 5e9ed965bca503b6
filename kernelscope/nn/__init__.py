"""Layers that are kernels: trained layers as products of features of inputs and of parameters."""

from .layers.comparing import ModeComparison, compare_modes
from .layers.conversion import convert
from .layers.layer import SNNKLinear
from .layers.report import ConversionReport

__all__ = ["ConversionReport", "ModeComparison", "SNNKLinear", "compare_modes", "convert"]
