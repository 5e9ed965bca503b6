"""Feature maps: from points to vectors whose products are kernels."""

from .base import FeatureMap
from .gradient import GradientFeatures

__all__ = ["FeatureMap", "GradientFeatures"]
