r"""Layers that bring pixels together: means over windows, over all of them, and the end of pixels.

A mean of pixels has a covariance of every pixel of the one with every pixel of the other, which are of either sign, so
that what they lack is not kept: from here on K itself is carried, in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from ...errors import DataError
from .affine import each, sides
from .covariances import Covariances, Layout
from .finite import Applied, Shape, Widths, averaged, flattened, global_mean, global_sum
from .layer import Single
from .masks import any_place, joined_places, shares


class _Pool(Single):
    """A mean of pixels."""

    spatial = paired = True
    fills = False

    def variances(self, own: Covariances) -> Tensor:
        wide = self._weighted(own.double())
        layout = self._layout(wide.layout)
        return layout.diagonal(self._pooled(wide.given, wide.layout))

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        wide = self._weighted(c.double())
        tangent = None if wide.tangent is None else self._pooled(wide.tangent, wide.layout)
        return wide.after(a.double(), b.double(), self._pooled(wide.given, wide.layout), tangent,
                          layout=self._layout(wide.layout))

    def _layout(self, layout: Layout) -> Layout:
        return layout

    def _sides(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        """The window that a mean is taken of."""
        return pixels

    def _weighted(self, c: Covariances) -> Covariances:
        return c.scaled(*(None if side.mask is None else shares(side.mask, self._sides(tuple(side.mask.shape[1:])))
                          for side in (c.x, c.z)))

    def _pooled(self, values: Tensor, layout: Layout) -> Tensor:
        raise NotImplementedError


class AvgPool(_Pool):
    r"""The means of windows that lie side by side: :math:`K'_{p p'}` is the mean over both windows.

    With masks it is the mean over what is there of both.

    Args:
        side: The side of a window, a number or one for each direction; images are a multiple of it.

    Example:
        >>> AvgPool(2)
        AvgPool(side=2)
    """

    def __init__(self, side: int | Sequence[int]):
        self.side = sides(side, "side")

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        windows = each(self.side, len(shape))
        if any(n % side for n, side in zip(shape, windows, strict=True)):
            raise DataError(f"AvgPool({self.side}) lays windows side by side, and {shape} pixels are no multiple of "
                            "them. Pad or crop the images, or take another side.")
        return tuple(n // side for n, side in zip(shape, windows, strict=True))

    def there(self, mask: Tensor) -> Tensor:
        return joined_places(mask, self._sides(tuple(mask.shape[1:])))

    def _sides(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        return each(self.side, len(pixels))

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        windows = each(self.side, len(before.pixels))
        return Applied(partial(averaged, sides=windows), repr(self)), Shape(before.channels, self.pixels(before.pixels))

    def _pooled(self, values: Tensor, layout: Layout) -> Tensor:
        for axes, side in zip(layout.axes, each(self.side, layout.spatial), strict=True):
            for axis in axes:
                values = values.unflatten(axis, (-1, side)).mean(axis + 1)
        return values


class _Global(_Pool):
    """One number of all pixels."""

    flattens = True

    def there(self, mask: Tensor) -> Tensor:
        return any_place(mask)

    def _layout(self, layout: Layout) -> Layout:
        return replace(layout, spatial=0, paired=False)


class GlobalAvgPool(_Global):
    """The mean of all pixels that are there.

    Example:
        >>> GlobalAvgPool()
        GlobalAvgPool()
    """

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        return Applied(global_mean, repr(self)), Shape(before.channels, ())

    def _pooled(self, values: Tensor, layout: Layout) -> Tensor:
        return values.flatten(layout.first).mean(-1) if layout.spatial else values


class GlobalSumPool(_Global):
    """The sum of all pixels, as of the nodes of a graph.

    Example:
        >>> GlobalSumPool()
        GlobalSumPool()
    """

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        return Applied(global_sum, repr(self)), Shape(before.channels, ())

    def _weighted(self, c: Covariances) -> Covariances:
        return c

    def _pooled(self, values: Tensor, layout: Layout) -> Tensor:
        return values.flatten(layout.first).sum(-1) if layout.spatial else values


class Flatten(Single):
    r"""Every pixel of every channel as a unit of its own: K' is the mean over pixels of each with itself.

    With masks it is the sum over pixels, divided by the root of how many there are on the left and on the right.

    Example:
        >>> Flatten()
        Flatten()
    """

    spatial = keeps = flattens = True
    fills = False

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        return Applied(flattened, repr(self)), Shape(before.channels * prod(before.pixels), ())

    def variances(self, own: Covariances) -> Tensor:
        return self._weighted(own).a.square().reshape(len(own.a), -1).mean(1)

    def there(self, mask: Tensor) -> Tensor:
        return any_place(mask)

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        if not c.layout.spatial:
            return c.after(a, b, c.given, c.tangent)
        c = self._weighted(c)
        layout, pixels = replace(c.layout, spatial=0, paired=False), c.a[0].numel()
        mean = lambda t: c.layout.diagonal(t).flatten(c.layout.first).mean(-1)
        tangent = None if c.tangent is None else mean(c.tangent)
        given = mean(c.given)
        if c.lacking:
            given = given + _gap(c, a, b, layout)
        return c.after(a, b, given, tangent, layout=layout, channels=c.channels * pixels)

    def _weighted(self, c: Covariances) -> Covariances:
        return c.scaled(*(None if side.mask is None else shares(side.mask, tuple(side.mask.shape[1:])).sqrt()
                          for side in (c.x, c.z)))


def _gap(c: Covariances, a: Tensor, b: Tensor, layout: Layout) -> Tensor:
    """What the mean over pixels of products of roots lacks to the product of their root mean squares."""
    one, other = (side.flatten(1) / torch.where(root > 0, root, 1.0)[:, None] for side, root in ((c.a, a), (c.b, b)))
    if layout.crossed:
        square = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist").square()
    else:
        square = (one - other).square().sum(1)
    return layout.left(a) * layout.right(b) * square / (2 * one.shape[1])
