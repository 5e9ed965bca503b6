"""Kernels as plain words, from which they can be made again.

A kernel that is a formula is its name and its numbers; sums, products and multiples of such kernels are made of theirs,
the kernels of a network of infinite width of its layers, and those of random features of their maps.
Only what stands in the table is ever made: a file gives names and numbers, never code.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor

from ..budget import as_bytes
from ..errors import KernelscopeError, StoreCorrupt
from ..kernels.arc_cosine import ArcCosine, ReLUNTK
from ..kernels.base import Kernel, Product, Scaled, Sum
from ..kernels.dot_product import Cosine, Polynomial
from ..kernels.infinite.images import OfImages
from ..kernels.infinite.vectors import OfVectors
from ..kernels.of_features import FeatureKernel
from ..kernels.stationary import Cauchy, Dispersal, Gaussian, Laplacian, Matern, RationalQuadratic
from .describing_features import map_from, map_in_words
from .describing_networks import network_in_words, serial_from

#: Kernels that are a formula: each is made from its arguments, which it keeps under their names.
FORMULAS: tuple[type[Kernel], ...] = (Gaussian, Laplacian, Cauchy, Matern, RationalQuadratic, Dispersal, Polynomial,
                                      Cosine, ArcCosine, ReLUNTK)

#: What changes how a kernel is computed, and not what it is.
MEANS = ("memory", "fused")

#: Kernels made of two others.
PAIRS: tuple[type[Sum] | type[Product], ...] = (Sum, Product)

#: The kernels of a network, by the names of its properties.
WHICH = ("nngp", "ntk")

#: The names of all of them.
KNOWN = {"Scaled", "Network", "FeatureKernel",
         *(pair.__name__ for pair in PAIRS), *(kind.__name__ for kind in FORMULAS)}


def described(kernel: Kernel) -> dict[str, Any] | None:
    """The kernel in words and numbers; ``None`` for one that holds more than these, such as a model.

    Example:
        >>> described(2 * Cosine(memory=1000))
        {'kernel': 'Scaled', 'factor': 2.0, 'part': {'kernel': 'Cosine', 'memory': 1000}}
        >>> described(Laplacian() + Cosine()) == described(Laplacian() + Cosine())
        True
    """
    kind: Any = type(kernel)
    if type(kernel) is Scaled:
        part = described(kernel.parts[0])
        return None if part is None else {"kernel": "Scaled", "factor": kernel.factor, "part": part}
    if isinstance(kernel, PAIRS) and kind in PAIRS:
        left, right = (described(part) for part in kernel.parts)
        return None if left is None or right is None else {"kernel": kind.__name__, "left": left, "right": right}
    if isinstance(kernel, OfVectors | OfImages):
        net = network_in_words(kernel.net)
        return None if net is None else {"kernel": "Network", "which": kernel.which, "net": net,
                                         "memory": kernel.memory}
    if isinstance(kernel, FeatureKernel) and kind is FeatureKernel:
        left = map_in_words(kernel.left)
        right = left if kernel.right is None else map_in_words(kernel.right)
        return None if left is None or right is None else {
            "kernel": "FeatureKernel", "left": left, "right": None if kernel.right is None else right,
            "outputs": kernel.outputs}
    if kind not in FORMULAS:
        return None
    return {"kernel": kind.__name__} | {name: _plain(getattr(kernel, name)) for name in signature(kind).parameters}


def same(one: Kernel, other: Kernel) -> bool:
    """Whether two kernels are the same function, as far as one can see."""
    return one is other or (described(one) is not None and _meant(described(one)) == _meant(described(other)))


def rebuilt(words: Any, where: str) -> Kernel:
    """The kernel that a description is of.

    Raises:
        StoreCorrupt: If no kernel has this description.

    Example:
        >>> rebuilt(described(2 * Laplacian(bandwidth=3.0)), "a file").parts
        (Laplacian(bandwidth=3),)
    """
    try:
        match words:
            case {"kernel": "Scaled", "factor": float(factor), "part": part, **rest} if not rest:
                return Scaled(rebuilt(part, where), factor)
            case {"kernel": str(name), "left": left, "right": right, **rest} if not rest:
                pair = next(kind for kind in PAIRS if kind.__name__ == name)
                return pair(rebuilt(left, where), rebuilt(right, where))
            case {"kernel": "Network", "which": str(which), "net": net, "memory": int(memory), **rest} if not rest:
                if which in WHICH:
                    network = getattr(serial_from(net), which)
                    network.memory = as_bytes(memory)
                    return network
            case {"kernel": "FeatureKernel", "left": left, "right": right, "outputs": str(outputs), **rest} if not rest:
                return FeatureKernel(map_from(left), None if right is None else map_from(right), outputs)
            case {"kernel": str(name)}:
                make: Any = next(kind for kind in FORMULAS if kind.__name__ == name)
                arguments = {key: value for key, value in words.items() if key != "kernel"}
                if set(arguments) <= set(signature(make).parameters):
                    return make(**arguments)
    except (StopIteration, LookupError, KernelscopeError) as error:
        if isinstance(error, StoreCorrupt):
            raise
    raise StoreCorrupt(
        f"{where} names a kernel that is not known here: {str(words)[:120]}. It was changed, or written by a later "
        f"version. Known are {', '.join(sorted(KNOWN))}; or pass kernel=."
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _meant(words: Any) -> Any:
    """A description without what does not change the values."""
    if not isinstance(words, dict):
        return words
    return {key: _meant(value) for key, value in words.items() if key not in MEANS}
