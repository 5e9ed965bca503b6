"""Layers that are kernels: they meet their inputs and their parameters in one product of two feature maps."""

from .adapters.adapter import SNNKAdapter
from .adapters.injecting import Injected, inject
from .adapters.keeping_adapters import load_adapters, save_adapters

__all__ = ["Injected", "SNNKAdapter", "inject", "load_adapters", "save_adapters"]
