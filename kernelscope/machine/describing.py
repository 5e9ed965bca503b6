"""Kernels as plain words, from which they can be made again.

A kernel that is a formula is its name and its numbers; sums, products and multiples of such kernels are made of theirs.
Only what stands in the table is ever made: a file gives names and numbers, never code.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import KernelscopeError, StoreCorrupt
from ..kernels.arc_cosine import ArcCosine, ReLUNTK
from ..kernels.base import Kernel, Product, Scaled, Sum
from ..kernels.dot_product import Cosine, Polynomial
from ..kernels.stationary import Cauchy, Dispersal, Gaussian, Laplacian, Matern, RationalQuadratic

#: The numbers that each kernel is made from.
NUMBERS: dict[type[Kernel], tuple[str, ...]] = {
    Gaussian: ("bandwidth", "memory"),
    Laplacian: ("bandwidth", "memory"),
    Cauchy: ("bandwidth", "memory"),
    Matern: ("nu", "bandwidth", "memory"),
    RationalQuadratic: ("alpha", "bandwidth", "memory"),
    Dispersal: ("exponent", "bandwidth", "memory"),
    Polynomial: ("degree", "offset", "bandwidth", "memory"),
    Cosine: ("memory",),
    ArcCosine: ("order", "memory"),
    ReLUNTK: ("depth", "W_std", "b_std", "memory"),
}

#: Kernels made of two others.
PAIRS: tuple[type[Sum] | type[Product], ...] = (Sum, Product)

#: The names of all of them.
KNOWN = {"Scaled", *(pair.__name__ for pair in PAIRS), *(kind.__name__ for kind in NUMBERS)}


def described(kernel: Kernel) -> dict[str, Any] | None:
    """The kernel in words and numbers; ``None`` for one that holds more than these, such as a model.

    Example:
        >>> described(2 * Laplacian(bandwidth=3.0, memory=1000))
        {'kernel': 'Scaled', 'factor': 2.0, 'part': {'kernel': 'Laplacian', 'bandwidth': 3.0, 'memory': 1000}}
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
    if kind not in NUMBERS:
        return None
    return {"kernel": kind.__name__} | {name: _number(getattr(kernel, name)) for name in NUMBERS[kind]}


def same(one: Kernel, other: Kernel) -> bool:
    """Whether two kernels are the same function, as far as one can see."""
    return one is other or (described(one) is not None and without_memory(one) == without_memory(other))


def without_memory(kernel: Kernel) -> dict[str, Any] | None:
    """The description of a kernel, without what does not change its values."""
    return _without(described(kernel), "memory")


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
            case {"kernel": str(name)}:
                make: Any = next(kind for kind in NUMBERS if kind.__name__ == name)
                numbers = {key: value for key, value in words.items() if key != "kernel"}
                if set(numbers) == set(NUMBERS[make]):
                    return make(**numbers)
    except (StopIteration, KernelscopeError) as error:
        if isinstance(error, StoreCorrupt):
            raise
    raise StoreCorrupt(
        f"{where} names a kernel that is not known here: {str(words)[:120]}. It was changed, or written by a later "
        f"version. Known are {', '.join(sorted(KNOWN))}; or pass kernel=."
    )


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Tensor) else value


def _without(words: Any, name: str) -> Any:
    if not isinstance(words, dict):
        return words
    return {key: _without(value, name) for key, value in words.items() if key != name}
