r"""Kernels averaged over orbits: what stays the same under transforms is learned once.

With transforms g of points, as mirror images or shifts, and the points as they are among them, m in all,

.. math:: k_G(x, z) = \frac1{m^2} \sum_{g, h} k(g x, h z),

is the kernel of the functions of k averaged over the orbit of a point. Where the transforms are a group and the kernel
does not change when both points are transformed alike, :math:`k(g x, g z) = k(x, z)`, one of the sums is superfluous,
:math:`k_G(x, z) = \frac1m \sum_g k(x, g z)`; and ridge regression with it is that with all transformed samples beside
the samples, from m times fewer.

References:
    | Invariant kernel functions for pattern analysis and machine learning (Haasdonk and Burkhardt, 2007)
    | Enhanced Convolutional Neural Tangent Kernels (Li et al., 2019)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..arguments import as_choice, as_function, what_came
from ..data.points import Part, Points
from ..errors import DataError
from .base import Kernel, turned

#: How far a matrix that should be symmetric may be from it, relative to its largest entry.
ASKEW = 1e-4

#: From points to as many points of the same shape.
Transform = Callable[[Tensor], Tensor]


class OrbitAverage(Kernel):
    r"""The average of a kernel over the transforms of its points.

    Args:
        kernel: A symmetric kernel.
        transforms: Functions from some points, with shape :math:`(n, *)`, to the transformed ones, of the same shape.
            The points as they are always belong to the orbit, and are not listed.
        sides: ``"both"`` for the average over transforms of both points, which is right for all transforms;
            ``"one"`` for those of the second alone, which takes m times fewer entries, where the transforms (with the
            identity) are a group, and the kernel does not change when both points are transformed alike.

    Attributes:
        size: The number m of members of an orbit.

    Raises:
        DataError: If the kernel is not symmetric, or a transform is no function.

    Example:
        >>> import torch, kernelscope as ks
        >>> k = ks.kernels.OrbitAverage(ks.kernels.Polynomial(1, offset=0.0), [lambda x: x.flip(-1)])
        >>> k(torch.tensor([[1.0, 3.0]]))   # of the mean of both, (2, 2), with itself
        tensor([[8.]])
    """

    def __init__(self, kernel: Kernel, transforms: Sequence[Transform], sides: str = "both"):
        if not isinstance(kernel, Kernel) or not kernel.symmetric or kernel.targets:
            raise DataError(f"Orbits are averaged for a symmetric kernel of points; {what_came(kernel)} came. Pass for "
                            "example ks.kernels.Gaussian(bandwidth=1.0).")
        if not isinstance(transforms, list | tuple):
            raise DataError(f"transforms are a list of functions; {what_came(transforms)} came. Pass for example "
                            "[lambda x: x.flip(-1)].")
        self.kernel, self.sides = kernel, as_choice(sides, "sides", ("both", "one"))
        self.transforms = tuple(as_function(g, "transforms", "from points to points") for g in transforms)
        self.size = 1 + len(self.transforms)

    def __repr__(self) -> str:
        side = "" if self.sides == "both" else ', sides="one"'
        return f"OrbitAverage({self.kernel!r}, {self.size} in an orbit{side})"

    def points(self, x: Any) -> Points:
        return self.kernel.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.kernel.columns_of(x)

    def fitted(self, x: Any) -> Kernel:
        return OrbitAverage(self.kernel.fitted(self.points(x)), self.transforms, self.sides)

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        left = self.points(x)
        same = z is None or z is x
        rows = self._orbit(left) if self.sides == "both" else [left]
        columns = (rows if self.sides == "both" else self._orbit(left)) if same else self._orbit(self.points(z))
        total: Tensor | None = None
        for h, far in enumerate(columns):
            # The product of g and h is the transpose of that of h and g.
            for near in rows[:h + 1] if same else rows:
                block = self.kernel(near, None if near is far else far)
                if same and near is not far and self.sides == "both":
                    block = block + turned(block)
                total = block if total is None else total + block
        assert total is not None
        found = total / (len(rows) * len(columns))
        if same and self.sides == "one":
            self._check_symmetric(found)
        return found

    def _orbit(self, points: Points) -> list[Points]:
        """The points, and what each transform makes of them."""
        return [points, *(_moved(points, g) for g in self.transforms)]

    def _check_symmetric(self, found: Tensor) -> None:
        gap = float((found - turned(found)).abs().max())
        if gap > ASKEW * float(found.abs().max()):
            raise DataError(
                f'With sides="one" the matrix of points with themselves is not symmetric: it differs from its '
                f"transpose by {gap:.1e}. The transforms are no group, or change {self.kernel!r}. Take "
                'sides="both".'
            )


def _moved(points: Points, transform: Transform) -> Points:
    """Points that are transformed when they are read."""

    def read(numbers: Sequence[int]) -> Part:
        part = points.chosen(numbers).part(0, len(numbers))
        entries = (*part.args, *part.kwargs.values())
        if len(entries) != 1 or not isinstance(entries[0], Tensor):
            raise DataError(f"A transform takes one tensor of points, and each point has {len(entries)} entries. Pass "
                            "the one that is transformed.")
        given = entries[0]
        found = transform(given)
        if not isinstance(found, Tensor) or found.shape != given.shape:
            came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else what_came(found)
            raise DataError(f"A transform keeps the shape of points, and of shape {tuple(given.shape)} it made {came}. "
                            "The first axis counts the points: take for example lambda x: x.flip(-1).")
        return Part((found.to(given.dtype),), {}, None)

    return Points(len(points), read)
