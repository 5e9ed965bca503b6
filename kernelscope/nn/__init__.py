"""Layers that are kernels: networks bundled into features that are fixed and matrices that are solved for."""

from .bundle_report import BundleReport
from .bundled import BundledLayer, BundledModel
from .bundling import bundle
from .finding import Block, find_blocks
from .keeping_blocks import load_blocks, save_blocks

__all__ = ["Block", "BundleReport", "BundledLayer", "BundledModel", "bundle", "find_blocks", "load_blocks",
           "save_blocks"]
