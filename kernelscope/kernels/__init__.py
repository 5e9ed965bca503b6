"""Kernels: functions of two points."""

from .base import FeatureKernel, Kernel, Product, Scaled, Sum, Transposed
from .tangent import Tangent

__all__ = ["FeatureKernel", "Kernel", "Product", "Scaled", "Sum", "Tangent", "Transposed"]
