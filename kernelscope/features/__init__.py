"""Feature maps: from points to vectors whose products are kernels."""

from .arc_cosine import ArcCosineFeatures, rectified
from .balancing import Balanced, balance
from .base import FeatureMap
from .composed import Preconditioned, Sum
from .gradient import GradientFeatures
from .planning import LayerPlan, plan_layer
from .positive import PositiveFeatures
from .projected import Projected, ProjectionError
from .random import RandomFourier, cosines
from .spectra import LineSpectrum
from .spectrum_fitting import fit_spectrum
from .universal import UniversalRandomFeatures

__all__ = ["ArcCosineFeatures", "Balanced", "FeatureMap", "GradientFeatures", "LayerPlan", "LineSpectrum",
           "PositiveFeatures", "Preconditioned", "Projected", "ProjectionError", "RandomFourier", "Sum",
           "UniversalRandomFeatures", "balance", "cosines", "fit_spectrum", "plan_layer", "rectified"]
