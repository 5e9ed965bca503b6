"""Kernels: functions of two points."""

from . import infinite
from .arc_cosine import ArcCosine, ReLUNTK
from .bandwidth import median_bandwidth
from .base import Kernel, Product, Scaled, Sum, Transposed
from .dot_product import Cosine, Polynomial
from .of_features import FeatureKernel
from .orbit import OrbitAverage
from .precomputed import Precomputed
from .stationary import Cauchy, Dispersal, Gaussian, Laplacian, Matern, RationalQuadratic
from .tangent import Tangent

__all__ = ["ArcCosine", "Cauchy", "Cosine", "Dispersal", "FeatureKernel", "Gaussian", "Kernel", "Laplacian", "Matern",
           "OrbitAverage", "Polynomial", "Precomputed", "Product", "RationalQuadratic", "ReLUNTK", "Scaled", "Sum",
           "Tangent", "Transposed", "infinite", "median_bandwidth"]
