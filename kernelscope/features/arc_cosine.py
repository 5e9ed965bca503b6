r"""Rectified random features, whose products are the arc-cosine kernels: the hidden layer of a network at its start.

A layer of ReLU features and its weights is *not* a layer of ReLU neurons: the mean of
:math:`\max(0, g \cdot x) \max(0, g \cdot w)` depends on both lengths and the angle, not on :math:`w \cdot x` alone.

References:
    | Kernel Methods for Deep Learning (Cho and Saul, 2009)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError
from .of_vectors import OfVectors


class ArcCosineFeatures(OfVectors):
    r"""Features :math:`\sqrt{2/p}\, \max(0, G x)^n` whose products are, on average, the arc-cosine kernel of order n.

    .. math:: k(x, z) = 2\, E \max(0, g \cdot x)^n \max(0, g \cdot z)^n = \tfrac1\pi |x|^n |z|^n J_n(\theta)

    Args:
        size: The number of features p.
        order: The order n: 0, steps; 1, ReLU features; 2, their squares.
        kind: How directions are drawn: ``"independent"``, ``"orthogonal"``, ``"structured"``, ``"unscaled"`` or
            ``"sobol"``.
        seed: Which ones.

    Raises:
        DataError: If an argument is none of these.

    Example:
        >>> found = ArcCosineFeatures(4000, order=1).inner(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> true = torch.tensor([[1.0, 2 / math.pi], [2 / math.pi, 4.0]])
        >>> (found / true - 1).abs().max() < 0.1
        tensor(True)
    """

    def __init__(self, size: int, order: int = 1, kind: str = "orthogonal", seed: int = 0):
        super().__init__(size, kind, seed)
        self.order = _order(order)

    def __repr__(self) -> str:
        return f"ArcCosineFeatures({self.size}, order={self.order}, kind={self.kind!r}, seed={self.seed})"

    def of(self, x: Tensor) -> Tensor:
        return rectified(self._project(x), self.order) * math.sqrt(2 / self.size)


def rectified(projected: Tensor, order: int = 1) -> Tensor:
    r"""What is positive of numbers, :math:`\max(0, t)^n`: for n = 0 whether they are.

    Example:
        >>> rectified(torch.tensor([-1.0, 3.0]), 2)
        tensor([0., 9.])
    """
    order = _order(order)
    if order == 0:
        return (projected > 0).to(projected)
    return torch.relu(projected) if order == 1 else torch.relu(projected).square()


def _order(order: int) -> int:
    if isinstance(order, bool) or order not in (0, 1, 2):
        raise DataError(f"order must be 0, 1 or 2; {what_came(order)} came. 1 is that of ReLU features.")
    return int(order)
