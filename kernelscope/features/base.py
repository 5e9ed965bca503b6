r"""Feature maps: from a point to a vector, whose products are a kernel.

A map has for each point a vector of features :math:`\phi(x)`, or one for each output. The matrix :math:`\Phi` with a
row for each point is multiplied from both sides without being kept: ``push`` is :math:`\Phi u`, ``pull`` is
:math:`\Phi^T v`. A map with an abstract ``phi`` alone is complete; what a map can do faster, it overrides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..data.points import Points, as_points
from ..errors import DataError, NonFiniteError

#: How many points are taken at a time where a map does not know better.
BLOCK = 256

#: The share of the memory that the features of some points may fill.
SHARE = 0.25


class FeatureMap(ABC):
    r"""A map :math:`\phi` from points to vectors.

    Attributes:
        size: The number of features p.
        columns: The number of outputs c; ``None`` for a map with one vector for each point.
        memory: About how many bytes may be used.
        targets: Whether points come with their targets.
    """

    size: int
    columns: int | None = None
    targets: bool = False
    memory: int = 10**9

    @abstractmethod
    def phi(self, x: Any) -> Tensor:
        r"""The features, with shape :math:`(n, p)`, or :math:`(n, c, p)` for c outputs."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size} features)"

    def __add__(self, other: FeatureMap) -> FeatureMap:
        from .composed import Sum  # The sum of two maps is a map made of others, and lives with them.

        return Sum(self, other) if isinstance(other, FeatureMap) else NotImplemented

    def points(self, x: Any) -> Points:
        """What was handed in, as points."""
        return as_points(x, self.targets)

    def columns_of(self, x: Any) -> int | None:
        """The number of outputs c for points like these; ``None`` for a map with one vector for each point."""
        return self.columns

    def coordinates_of(self, x: Any) -> int | None:
        """The number of coordinates of points like these, where for points of another number the map is another one.

        ``None`` for a map that looks at the size of points by itself, or takes any.
        """
        return None

    def fitted(self, x: Any) -> FeatureMap:
        """The map with what it leaves to points taken from x, as a bandwidth; itself where it leaves nothing."""
        return self

    def parts(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        r"""The features in parts that fit in memory: the rows, the numbers of q features, and their values.

        Values have shape :math:`(r, q)` or :math:`(r, c, q)`. No entry comes twice; what never comes is nought.
        """
        points = self.points(x)
        for rows in self.steps(points):
            values = self.phi(points_between(points, rows.start, rows.stop))
            yield rows, torch.arange(self.size, device=values.device), values

    def steps(self, points: Points, most: int = BLOCK) -> Iterator[slice]:
        """The points, as many at a time as have room for their features."""
        each = 8 * self.size * (self.columns_of(points) or 1)
        step = max(1, min(most, int(SHARE * self.memory // max(each, 1))))
        for i in range(0, len(points), step):
            yield slice(i, min(i + step, len(points)))

    def push(self, x: Any, u: Tensor) -> Tensor:
        r""":math:`\Phi(x) u` for u with shape :math:`(p, *)`: shape :math:`(n, *)`, or :math:`(n, c, *)`."""
        self._check_u(u)
        points = self.points(x)
        blocks = (self.phi(points_between(points, rows.start, rows.stop)) for rows in self.steps(points))
        return torch.cat([torch.tensordot(block, u.to(block), 1) for block in blocks])

    def pull(self, x: Any, v: Tensor) -> Tensor:
        r""":math:`\Phi(x)^T v` for v with shape :math:`(n, *)`, or :math:`(n, c, *)`: shape :math:`(p, *)`."""
        points = self.points(x)
        self._check_v(points, v)
        axes = 1 if self.columns_of(points) is None else 2
        total = None
        for rows in self.steps(points):
            block = self.phi(points_between(points, rows.start, rows.stop)).movedim(-1, 0)
            term = torch.tensordot(block, v[rows].to(block), axes)
            total = term if total is None else total + term
        assert total is not None
        return total

    def inner(self, x: Any, z: Any = None, full: bool = False) -> Tensor:
        r"""Products of features, with shape :math:`(n, m)`, summed over outputs; or :math:`(n, c, m, c)`."""
        return products(self, x, self, z, full)

    def squares(self, x: Any, full: bool = False) -> Tensor:
        r"""Squared norms of features, with shape :math:`(n,)`, summed over outputs; or :math:`(n, c)`."""
        points = self.points(x)
        found = torch.cat([self.phi(points_between(points, rows.start, rows.stop)).square().sum(-1)
                           for rows in self.steps(points)])
        return found if full or found.ndim == 1 else found.sum(1)

    def _check_u(self, u: Tensor) -> None:
        check_factor(u, "push", "u")
        if u.ndim == 0 or len(u) != self.size:
            raise DataError(
                f"push needs one entry for each of the {self.size} features; u has shape {tuple(u.shape)}. "
                "To multiply on the other side, use pull."
            )

    def _check_v(self, points: Points, v: Tensor) -> None:
        check_factor(v, "pull", "v")
        c = self.columns_of(points)
        wanted = (len(points),) if c is None else (len(points), c)
        if tuple(v.shape[:len(wanted)]) != wanted:
            raise DataError(
                f"pull needs one entry for each point{'' if c is None else ' and output'}, {wanted}; v has "
                f"shape {tuple(v.shape)}. To multiply on the other side, use push."
            )


def products(left: FeatureMap, x: Any, right: FeatureMap, z: Any, full: bool) -> Tensor:
    r"""Products of the features of two maps, with shape :math:`(n, m)`, summed over outputs; or :math:`(n, c, m, c)`.

    Features are made for as many points at a time as have room; those of z once for each such block of x.
    """
    near = left.points(x)
    same = z is None and left is right
    far = near if z is None else right.points(z)
    check_alike(left, near, right, far)
    bands = []
    for rows in left.steps(near, len(near)):
        one = left.phi(points_between(near, rows.start, rows.stop))
        blocks = []
        for columns in right.steps(far, len(far)):
            other = one if same and columns == rows else right.phi(points_between(far, columns.start, columns.stop))
            blocks.append(torch.tensordot(one, other, ([2], [2])) if full and one.ndim == 3
                          else one.flatten(1) @ other.flatten(1).T)
        bands.append(torch.cat(blocks, 2 if blocks[0].ndim == 4 else 1))
    return torch.cat(bands)


def check_alike(left: FeatureMap, x: Points, right: FeatureMap, z: Points) -> None:
    """Whether the features of points can be multiplied: those of another number of coordinates are of another map.

    Raises:
        DataError: If they cannot.
    """
    if z is x:
        return
    one, other = left.coordinates_of(x), right.coordinates_of(z)
    if one is not None and other is not None and one != other:
        raise DataError(f"Features are compared for points of one size: those of x have {_numbers(one)}, those of z "
                        f"{_numbers(other)}. Pass points with as many numbers on both sides, and one alone as x[None].")


def _numbers(count: int) -> str:
    return f"{count:,} number{'s' * (count != 1)}"


def check_factor(v: Any, what: str, name: str) -> None:
    """Whether something can be multiplied by: a tensor of real, finite numbers.

    Raises:
        DataError: If it is none.
        NonFiniteError: If it holds NaN or an infinite value.
    """
    if not isinstance(v, Tensor) or v.is_complex() or v.ndim == 0:
        kind = f"{v.dtype} of shape {tuple(v.shape)}" if isinstance(v, Tensor) else f"a {type(v).__name__}"
        raise DataError(f"{what} needs a tensor of real numbers with at least one axis; {name} is {kind}. "
                        "Use torch.as_tensor.")
    if v.is_meta or (len(v) and not v.numel()):
        what_came = "has only a shape (device meta)" if v.is_meta else f"has no columns, with shape {tuple(v.shape)}"
        raise DataError(f"{what} needs numbers to multiply by, and {name} {what_came}. Pass at least one column.")
    if not bool(v.isfinite().all()):
        raise NonFiniteError(f"{what} would spread NaN or infinite values: {name} holds some. Remove them first.")


def points_between(points: Points, start: int, stop: int) -> Points:
    """The points from ``start`` to ``stop`` as points."""
    return points.chosen(range(start, min(stop, len(points))))
