"""Kernels of infinitely wide networks."""

from .activations import Activation
from .affine import Conv, Dense
from .angular import Abs, HalfLines, LeakyReLU, ReLU
from .growing import Exp, ExpNormalized, Gaussian, Hermite, Monomial
from .layer import Layer
from .named import convolutional, fully_connected, myrtle, named
from .normalization import Dropout, LayerNorm
from .pooling import AvgPool, Flatten, GlobalAvgPool
from .quadrature import Elementwise
from .residual import Residual
from .serial import Both, Serial
from .smooth import GELU, RBF, Cos, Erf, Sign, Sin

__all__ = ["Abs", "Activation", "AvgPool", "Both", "Conv", "Cos", "Dense", "Dropout", "Elementwise", "Erf", "Exp",
           "ExpNormalized", "Flatten", "GELU", "Gaussian", "GlobalAvgPool", "HalfLines", "Hermite", "Layer",
           "LayerNorm", "LeakyReLU", "Monomial", "RBF", "ReLU", "Residual", "Serial", "Sign", "Sin", "convolutional",
           "fully_connected", "myrtle", "named"]
