r"""Means over the windows that weights of a convolution see.

For pairs of pixels both windows move together, :math:`A[K]_{p p'} = \frac1r \sum_s K_{p + s,\, p' + s}`, and what lies
outside of the image is nought. A window of several directions is one of each direction after the other.

Means of products lack something to the product of the roots of means, by the inequality of Cauchy and Schwarz:

.. math:: \alpha \beta - A[ab] = \tfrac12 \alpha \beta\, A\big[(a / \alpha - b / \beta)^2\big],
          \qquad \alpha^2 = A[a^2], \quad \beta^2 = A[b^2],

which is a mean of squares, so that a lack stays exact where it is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...errors import DataError
from ..distances import root
from .covariances import Covariances, Layout


@dataclass(frozen=True)
class Window:
    """A window that moves over pixels.

    Attributes:
        sides: How many pixels it has, in each direction.
        strides: How many it moves on.
        padding: ``"same"``, ``"circular"`` or ``"valid"``.
    """

    sides: tuple[int, ...]
    strides: tuple[int, ...]
    padding: str

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many places it comes to.

        Raises:
            DataError: If it does not fit even once.
        """
        found = tuple(-(-n // stride) if self.padding != "valid" else (n - side) // stride + 1
                      for n, side, stride in zip(shape, self.sides, self.strides, strict=True))
        if min(found) < 1 or (self.padding == "circular" and any(
                side > n for n, side in zip(shape, self.sides, strict=True))):
            raise DataError(f"A window of {self.sides} does not fit into {shape} pixels with padding="
                            f'{self.padding!r}. Take a smaller one, or padding="same".')
        return found

    def around(self, n: int, k: int) -> tuple[int, int]:
        """How many pixels are added before and after n of them in direction k."""
        if self.padding == "valid":
            return 0, 0
        side, stride = self.sides[k], self.strides[k]
        total = max((-(-n // stride) - 1) * stride + side - n, 0)
        return total // 2, total - total // 2

    def lacks(self, c: Covariances) -> tuple[Tensor, Tensor, Tensor]:
        """The lack of the means over the window, and the roots of mean variances of both sides."""
        lack, a, b = c.given, c.a, c.b
        one_sided = Layout(c.layout.spatial, False, False)
        for k in range(c.layout.spatial):
            lack = sum_of(moved(lack, c.layout.axes[k], self, k)) / self.sides[k]
            alpha, beta = (root(sum_of(moved(side.square(), one_sided.axes[k], self, k)) / self.sides[k])
                           for side in (a, b))
            gap = torch.zeros_like(lack)
            for one, other in zip(moved(a, one_sided.axes[k], self, k), moved(b, one_sided.axes[k], self, k),
                                  strict=True):
                gap += (c.layout.left(_over(one, alpha)) - c.layout.right(_over(other, beta))).square()
            lack = lack + gap.mul_(0.5 / self.sides[k]).mul_(c.layout.left(alpha)).mul_(c.layout.right(beta))
            a, b = alpha, beta
        return lack, a, b


def mean_over(values: Tensor, layout: Layout, window: Window) -> Tensor:
    """The means of values over a window."""
    for k, axes in enumerate(layout.axes):
        values = sum_of(moved(values, axes, window, k)) / window.sides[k]
    return values


def moved(values: Tensor, axes: tuple[int, ...], window: Window, k: int) -> Iterator[Tensor]:
    """For each place in the window, the values that are seen from there."""
    side, stride = window.sides[k], window.strides[k]
    for axis in axes:
        values = around(values, axis, window, k)
    for start in range(side):
        part = values
        for axis in axes:
            count = (values.shape[axis] - side) // stride + 1
            part = part.narrow(axis, start, (count - 1) * stride + 1)
            part = part[(*[slice(None)] * axis, slice(None, None, stride))]
        yield part


def around(values: Tensor, axis: int, window: Window, k: int) -> Tensor:
    """Values along an axis of direction k, with those that the window sees beyond both ends."""
    n = values.shape[axis]
    low, high = window.around(n, k)
    if window.padding == "circular":
        return values.index_select(axis, torch.arange(-low, n + high, device=values.device) % n)
    return pad(values, (*[0, 0] * (values.ndim - axis - 1), low, high)) if low or high else values


def sum_of(parts: Iterator[Tensor]) -> Tensor:
    """Their sum."""
    total = next(parts).clone()
    for part in parts:
        total += part
    return total


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """A part of a root mean square beside the whole; nought where all of it is."""
    return part / torch.where(whole > 0, whole, 1.0)
