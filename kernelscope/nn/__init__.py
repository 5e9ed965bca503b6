"""Layers that are kernels: trained layers as products of features, networks bundled into them, and adapters."""

from .adapters.adapter import SNNKAdapter
from .adapters.injecting import Injected, inject
from .adapters.keeping_adapters import load_adapters, save_adapters
from .bundles.bundle_report import BundleReport
from .bundles.bundled import BundledLayer, BundledModel
from .bundles.bundling import bundle
from .bundles.finding import Block, find_blocks
from .bundles.keeping_blocks import load_blocks, save_blocks
from .layers.comparing import ModeComparison, compare_modes
from .layers.conversion import convert
from .layers.layer import SNNKLinear
from .layers.report import ConversionReport

__all__ = ["Block", "BundleReport", "BundledLayer", "BundledModel", "ConversionReport", "Injected", "ModeComparison",
           "SNNKAdapter", "SNNKLinear", "bundle", "compare_modes", "convert", "find_blocks", "inject", "load_adapters",
           "load_blocks", "save_adapters", "save_blocks"]
