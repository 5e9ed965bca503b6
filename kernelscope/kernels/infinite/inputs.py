r"""The first covariances: of the points themselves, :math:`K_0 = x \cdot z / \text{channels}`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..distances import root
from .covariances import Beside, Covariances, Layout


def of_themselves(x: Tensor, beside: Beside, paired: bool, lacking: bool, tangent: bool, standard: bool) -> Covariances:
    """The covariances of points with themselves.

    Args:
        x: The points, with shape (n, channels, *pixels).
        beside: What they bring.
        paired: Whether every pixel of a point meets every other.
        lacking: Whether what covariances lack is carried.
        tangent: Whether the tangent kernel is.
        standard: Whether the network has the standard parameterisation.
    """
    layout = Layout(x.ndim - 2, paired and x.ndim > 2, False)
    return _begun(x, x, beside, beside, layout, lacking, tangent, standard)


def of_pairs(x: Tensor, z: Tensor, x_beside: Beside, z_beside: Beside, paired: bool, lacking: bool, tangent: bool,
             standard: bool) -> Covariances:
    """The covariances of all points on the left with all on the right."""
    layout = Layout(x.ndim - 2, paired and x.ndim > 2, True)
    return _begun(x, z, x_beside, z_beside, layout, lacking, tangent, standard)


def _begun(x: Tensor, z: Tensor, x_beside: Beside, z_beside: Beside, layout: Layout, lacking: bool, tangent: bool,
           standard: bool) -> Covariances:
    channels = x.shape[1]
    a, b = (root(points.square().sum(1).div(channels)) for points in (x, z))
    given = _lacks(x, z, a, b, layout) if lacking else _products(x, z, layout)
    return Covariances(a, b, given, lacking, torch.zeros_like(given) if tangent else None, layout, channels, standard,
                       x_beside, z_beside)


def _products(x: Tensor, z: Tensor, layout: Layout) -> Tensor:
    """The products over channels, divided by their number."""
    total = layout.left(x[:, 0]) * layout.right(z[:, 0])
    for c in range(1, x.shape[1]):
        total += layout.left(x[:, c]) * layout.right(z[:, c])
    return total / x.shape[1]


def _lacks(x: Tensor, z: Tensor, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    r"""What products lack to those of the lengths, :math:`\tfrac12 ab\, |x/a - z/b|^2` over channels."""
    u, v = (points / torch.where(size > 0, size, 1.0)[:, None] for points, size in ((x, a), (z, b)))
    total = (layout.left(u[:, 0]) - layout.right(v[:, 0])).square()
    for c in range(1, x.shape[1]):
        total += (layout.left(u[:, c]) - layout.right(v[:, c])).square()
    return total.mul_(layout.left(a)).mul_(layout.right(b)).div_(2 * x.shape[1])
