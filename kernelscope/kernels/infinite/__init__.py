"""Kernels of infinitely wide networks."""

from .affine import Conv, Dense
from .angular import Abs, HalfLines, LeakyReLU, ReLU
from .attention import SelfAttention
from .graph import Aggregate
from .layer import Layer
from .pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool
from .residual import Residual
from .serial import Both, Serial

__all__ = ["Abs", "Aggregate", "AvgPool", "Both", "Conv", "Dense", "Flatten", "GlobalAvgPool", "GlobalSumPool",
           "HalfLines", "Layer", "LeakyReLU", "ReLU", "Residual", "SelfAttention", "Serial"]
