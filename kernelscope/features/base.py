r"""Feature maps: from a point to a vector, whose products are a kernel.

A map has for each point a vector of features :math:`\phi(x)`, or one for each output. The matrix :math:`\Phi` with a
row for each point is multiplied from both sides without being kept: ``push`` is :math:`\Phi u`, ``pull`` is
:math:`\Phi^T v`. A map with an abstract ``phi`` alone is complete; what a map can do faster, it overrides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..data.points import Points, as_points
from ..errors import DataError

#: How many points are taken at a time where a map does not know better.
BLOCK = 256


class FeatureMap(ABC):
    r"""A map :math:`\phi` from points to vectors.

    Attributes:
        size: The number of features p.
        columns: The number of outputs c; ``None`` for a map with one vector for each point.
    """

    size: int
    columns: int | None = None

    @abstractmethod
    def phi(self, x: Any) -> Tensor:
        r"""The features, with shape :math:`(n, p)`, or :math:`(n, c, p)` for c outputs."""

    def points(self, x: Any) -> Points:
        """What was handed in, as points."""
        return as_points(x)

    def push(self, x: Any, u: Tensor) -> Tensor:
        r""":math:`\Phi(x) u` for u with shape :math:`(p, *)`: shape :math:`(n, *)`, or :math:`(n, c, *)`."""
        self._check_u(u)
        points = self.points(x)
        blocks = [self.phi(points_between(points, i, i + BLOCK)) for i in range(0, len(points), BLOCK)]
        return torch.cat([torch.tensordot(block, u, 1) for block in blocks])

    def pull(self, x: Any, v: Tensor) -> Tensor:
        r""":math:`\Phi(x)^T v` for v with shape :math:`(n, *)`, or :math:`(n, c, *)`: shape :math:`(p, *)`."""
        points = self.points(x)
        self._check_v(points, v)
        axes = 1 if self.columns is None else 2
        total = None
        for i in range(0, len(points), BLOCK):
            block = self.phi(points_between(points, i, i + BLOCK)).movedim(-1, 0)
            term = torch.tensordot(block, v[i:i + BLOCK], axes)
            total = term if total is None else total + term
        assert total is not None
        return total

    def inner(self, x: Any, z: Any = None, full: bool = False) -> Tensor:
        r"""Products of features, with shape :math:`(n, m)`, summed over outputs; or :math:`(n, c, m, c)`."""
        left = self.phi(x)
        right = left if z is None else self.phi(z)
        if full and left.ndim == 3:
            return torch.tensordot(left, right, ([2], [2]))
        return left.flatten(1) @ right.flatten(1).T

    def squares(self, x: Any, full: bool = False) -> Tensor:
        r"""Squared norms of features, with shape :math:`(n,)`, summed over outputs; or :math:`(n, c)`."""
        found = self.phi(x).square().sum(-1)
        return found if full or found.ndim == 1 else found.sum(1)

    def _check_u(self, u: Tensor) -> None:
        if u.ndim == 0 or len(u) != self.size:
            raise DataError(
                f"push needs one entry for each of the {self.size} features; u has shape {tuple(u.shape)}. "
                "To multiply on the other side, use pull."
            )

    def _check_v(self, points: Points, v: Tensor) -> None:
        wanted = (len(points),) if self.columns is None else (len(points), self.columns)
        if tuple(v.shape[:len(wanted)]) != wanted:
            raise DataError(
                f"pull needs one entry for each point{'' if self.columns is None else ' and output'}, {wanted}; v has "
                f"shape {tuple(v.shape)}. To multiply on the other side, use push."
            )


def points_between(points: Points, start: int, stop: int) -> Points:
    """The points from ``start`` to ``stop`` as points."""
    return points.chosen(range(start, min(stop, len(points))))
