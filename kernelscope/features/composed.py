r"""Feature maps made of others: side by side, and with a scale for each feature.

Side by side, features make the sum of kernels: :math:`\langle\phi(x), \phi(z)\rangle + \langle\psi(x), \psi(z)\rangle`.
With scales s, as an optimizer has them for its parameters, they make :math:`\sum_p s_p^2\, \phi_p(x)\, \phi_p(z)`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError
from .base import FeatureMap

Made = TypeVar("Made")


class Sum(FeatureMap):
    r"""The features of two maps side by side, :math:`(\phi(x), \psi(x))`; written ``left + right``.

    Args:
        left: A map.
        right: A map with as many outputs.

    Raises:
        DataError: On the first use, if one has outputs that the other has not.

    Example:
        >>> from kernelscope.features import GradientFeatures
        >>> both = GradientFeatures(torch.nn.Linear(2, 1)) + GradientFeatures(torch.nn.Linear(2, 1, bias=False))
        >>> both.phi(torch.tensor([[3.0, 4.0]]))
        tensor([[[3., 4., 1., 3., 4.]]])
    """

    def __init__(self, left: FeatureMap, right: FeatureMap):
        self.left, self.right = left, right
        self.size = left.size + right.size
        self.memory = min(left.memory, right.memory)
        self.targets = left.targets or right.targets

    def __repr__(self) -> str:
        return f"{self.left!r} + {self.right!r}"

    def points(self, x: Any) -> Points:
        # What reads targets reads inputs too.
        return (self.right if self.right.targets else self.left).points(x)

    def columns_of(self, x: Any) -> int | None:
        points = self.points(x)
        c, other = self.left.columns_of(points), self.right.columns_of(points)
        if c != other:
            raise DataError(
                f"Features stand side by side output by output; the left map has {_words(c)}, the right one "
                f"{_words(other)}. Select as many with output=."
            )
        return c

    def coordinates_of(self, x: Any) -> int | None:
        points = self.points(x)
        own = self.left.coordinates_of(points)
        return self.right.coordinates_of(points) if own is None else own

    def fitted(self, x: Any) -> FeatureMap:
        points = self.points(x)
        return with_maps(self, left=self.left.fitted(points), right=self.right.fitted(points))

    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        self.columns_of(points)
        return torch.cat([self.left.phi(points), self.right.phi(points)], -1)

    def parts(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        points = self.points(x)
        self.columns_of(points)
        yield from self.left.parts(points)
        for rows, numbers, values in self.right.parts(points):
            yield rows, self.left.size + numbers, values

    def push(self, x: Any, u: Tensor) -> Tensor:
        self._check_u(u)
        points = self.points(x)
        self.columns_of(points)
        return self.left.push(points, u[:self.left.size]) + self.right.push(points, u[self.left.size:])

    def pull(self, x: Any, v: Tensor) -> Tensor:
        points = self.points(x)
        self._check_v(points, v)
        return torch.cat([self.left.pull(points, v), self.right.pull(points, v)])

    def inner(self, x: Any, z: Any = None, full: bool = False) -> Tensor:
        x, z = self.points(x), None if z is None else self.points(z)
        self.columns_of(x)
        return self.left.inner(x, z, full) + self.right.inner(x, z, full)

    def squares(self, x: Any, full: bool = False) -> Tensor:
        points = self.points(x)
        self.columns_of(points)
        return self.left.squares(points, full) + self.right.squares(points, full)


class Preconditioned(FeatureMap):
    r"""Features times a scale for each, :math:`s \odot \phi(x)`.

    Their kernel is :math:`\langle\phi(x), S^2 \phi(z)\rangle`: to precondition a kernel with D, pass :math:`\sqrt D`.

    Args:
        features: The map :math:`\phi`.
        scale: The scales s, with shape :math:`(p,)`.

    Raises:
        DataError: If there is not one finite scale for each feature.

    Example:
        >>> from kernelscope.features import GradientFeatures
        >>> features = GradientFeatures(torch.nn.Linear(2, 1, bias=False))
        >>> Preconditioned(features, torch.tensor([1.0, 10.0])).phi(torch.tensor([[3.0, 4.0]]))
        tensor([[[ 3., 40.]]])
    """

    def __init__(self, features: FeatureMap, scale: Tensor):
        if tuple(scale.shape) != (features.size,) or not bool(torch.isfinite(scale).all()):
            raise DataError(
                f"Each of the {features.size} features needs one finite scale, shape ({features.size},); scale has "
                f"shape {tuple(scale.shape)}{'' if bool(torch.isfinite(scale).all()) else ' and values that are not'}. "
                "Flatten the scales of parameters in the order of the features."
            )
        self.features, self.scale = features, scale.detach().clone()
        self.size, self.memory, self.targets = features.size, features.memory, features.targets

    def __repr__(self) -> str:
        return f"Preconditioned({self.features!r})"

    def points(self, x: Any) -> Points:
        return self.features.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.features.columns_of(x)

    def coordinates_of(self, x: Any) -> int | None:
        return self.features.coordinates_of(x)

    def fitted(self, x: Any) -> FeatureMap:
        return with_maps(self, features=self.features.fitted(x))

    def phi(self, x: Any) -> Tensor:
        found = self.features.phi(x)
        return found * self.scale.to(found)

    def parts(self, x: Any) -> Iterator[tuple[slice, Tensor, Tensor]]:
        for rows, numbers, values in self.features.parts(x):
            yield rows, numbers, values * self.scale.to(values)[numbers]

    def push(self, x: Any, u: Tensor) -> Tensor:
        self._check_u(u)
        return self.features.push(x, self._by_feature(u) * u)

    def pull(self, x: Any, v: Tensor) -> Tensor:
        found = self.features.pull(x, v)
        return self._by_feature(found) * found

    def squares(self, x: Any, full: bool = False) -> Tensor:
        points = self.points(x)
        c = self.columns_of(points)
        total = torch.zeros(len(points), *(() if c is None else (c,)))
        for k, (rows, _, values) in enumerate(self.parts(points)):
            total = total.to(values) if k == 0 else total
            total[rows] += values.square().sum(-1)
        return total if full or total.ndim == 1 else total.sum(1)

    def _by_feature(self, t: Tensor) -> Tensor:
        return self.scale.to(t)[(..., *[None] * (t.ndim - 1))]


def with_maps(made: Made, **maps: FeatureMap | None) -> Made:
    """What is made of maps with others in their place; itself where they are the same ones."""
    if all(getattr(made, name) is value for name, value in maps.items()):
        return made
    other = copy.copy(made)
    other.__dict__.update(maps)
    return other


def _words(columns: int | None) -> str:
    return "one vector for each point" if columns is None else f"{columns} outputs"
