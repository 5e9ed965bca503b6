"""A map whose features are given in double precision.

Coefficients of samples are large where the ridge is small, and of terms that are large beside their sum single
precision leaves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.points import Part, Points
from .base import FeatureMap


class Doubled(FeatureMap):
    r"""The features of a map in double precision.

    Args:
        features: The map.
        points: Whether points are made double before, for a map that computes in the precision of its points;
            without it the features are those of the map itself, with its rounding.

    Example:
        >>> from kernelscope.features import RandomFourier
        >>> x = torch.tensor([[0.1, 0.2]])
        >>> found = Doubled(RandomFourier(8)).phi(x)
        >>> torch.equal(found, RandomFourier(8).phi(x.double()))
        True
    """

    def __init__(self, features: FeatureMap, points: bool = True):
        self.features, self.widened = features, points
        self.size, self.columns, self.targets = features.size, features.columns, features.targets
        self.memory = features.memory

    def __repr__(self) -> str:
        return f"Doubled({self.features!r})"

    def points(self, x: Any) -> Points:
        return self.features.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.features.columns_of(x)

    def phi(self, x: Any) -> Tensor:
        return self.features.phi(_widened(self.points(x)) if self.widened else x).double()


def _widened(points: Points) -> Points:
    def read(numbers: Sequence[int]) -> Part:
        part = points.chosen(numbers).part(0, len(numbers))
        return Part(_double(part.args), _double(part.kwargs), part.targets)

    return Points(len(points), read)


def _double(values: Any) -> Any:
    """Numbers in double precision, wherever they are."""
    if isinstance(values, dict):
        return {name: _double(value) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return type(values)(_double(value) for value in values)
    return values.double() if isinstance(values, Tensor) and torch.is_floating_point(values) else values
