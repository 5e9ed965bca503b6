"""Feature maps: from points to vectors whose products are kernels."""

from .base import FeatureMap
from .composed import Preconditioned, Sum
from .gradient import GradientFeatures
from .projected import Projected, ProjectionError

__all__ = ["FeatureMap", "GradientFeatures", "Preconditioned", "Projected", "ProjectionError", "Sum"]
