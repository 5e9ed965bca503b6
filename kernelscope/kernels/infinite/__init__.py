"""Kernels of infinitely wide networks."""

from .affine import Conv, Dense
from .angular import Abs, HalfLines, LeakyReLU, ReLU
from .layer import Layer
from .pooling import AvgPool, Flatten, GlobalAvgPool
from .residual import Residual
from .serial import Both, Serial

__all__ = ["Abs", "AvgPool", "Both", "Conv", "Dense", "Flatten", "GlobalAvgPool", "HalfLines", "Layer", "LeakyReLU",
           "ReLU", "Residual", "Serial"]
