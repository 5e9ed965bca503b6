r"""Layers that are kernels: trained layers as products of features, networks bundled into them, and adapters.

.. math:: f(Wx + b) \approx \Phi(x)\, \Psi^T + Lx + c

The features are fixed, so that a layer is linear in all that it learns: it is solved for, and it is a kernel machine,
which knows what each sample adds to an answer and what it would say without one. :func:`convert` does so with a layer,
:func:`bundle` with the blocks of a network or with all of it, and :func:`inject` places such layers, small and
trainable, in a network that is frozen. No call changes the model that it is given, unless it is asked to
(``in_place=True``), and each gives a report or tells in words what it made.

Example:
    >>> import torch, kernelscope as ks
    >>> train = ks.data.digits("train")
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10))
    >>> layer, report = ks.nn.SNNKLinear.from_linear(model[0], model[1], train.x, features=32)
    >>> report.rel_frob < report.linear_rel
    True
    >>> bundled, report = ks.nn.bundle(model, train.x, train.y, mode="full", features=64)
    >>> bundled.without([0, 1]).samples.shape
    torch.Size([1435, 64])
"""

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
