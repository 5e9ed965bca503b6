"""Feature maps: from points to vectors whose products are kernels."""

from .arc_cosine import ArcCosineFeatures, rectified
from .base import FeatureMap
from .composed import Preconditioned, Sum
from .gradient import GradientFeatures
from .positive import PositiveFeatures
from .projected import Projected, ProjectionError
from .random import RandomFourier, cosines

__all__ = ["ArcCosineFeatures", "FeatureMap", "GradientFeatures", "PositiveFeatures", "Preconditioned", "Projected",
           "ProjectionError", "RandomFourier", "Sum", "cosines", "rectified"]
