"""Kernels: functions of two points."""

from .base import Kernel, Product, Scaled, Sum, Transposed
from .of_features import FeatureKernel
from .tangent import Tangent

__all__ = ["FeatureKernel", "Kernel", "Product", "Scaled", "Sum", "Tangent", "Transposed"]
