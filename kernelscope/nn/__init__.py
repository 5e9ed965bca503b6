"""Layers that are kernels: networks bundled into features that are fixed and matrices that are solved for."""

from .bundles.bundle_report import BundleReport
from .bundles.bundled import BundledLayer, BundledModel
from .bundles.bundling import bundle
from .bundles.finding import Block, find_blocks
from .bundles.keeping_blocks import load_blocks, save_blocks

__all__ = ["Block", "BundleReport", "BundledLayer", "BundledModel", "bundle", "find_blocks", "load_blocks",
           "save_blocks"]
