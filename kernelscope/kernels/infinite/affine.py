r"""Layers of random weights and biases: what comes out is normal.

With the mean A over the window that a weight sees (nothing but the pixel itself for ``Dense``), weights of variance
:math:`\sigma_w^2 / \text{fan-in}` and biases of variance :math:`\sigma_b^2`,

.. math:: K' = \sigma_w^2 A[K] + \sigma_b^2, \qquad T' = K' + \sigma_w^2 A[T]

in the NTK parameterisation; in the standard one :math:`T' = \text{fan-in}\, A[K] + \sigma_w^2 A[T] + 1`, without the 1
where there is no bias.

References:
    | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)
    | On Exact Computation with an Infinitely Wide Neural Net (Arora et al., 2019)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from numbers import Real
from typing import Any

from torch import Tensor, nn

from ...arguments import as_choice, as_count, what_came
from ...errors import DataError
from .covariances import Covariances
from .finite import Affine, Shape, Widths
from .layer import Single
from .windows import Window, mean_over


class Dense(Single):
    r"""Weights and biases, :math:`y = \sigma_w W x / \sqrt{d} + \sigma_b c`; on images they act on each pixel alone.

    Args:
        W_std: The standard deviation :math:`\sigma_w`.
        b_std: The standard deviation :math:`\sigma_b`; 0 for no biases.
        width: How many units there are where the network is finite; the standard parameterisation depends on it.

    Example:
        >>> Dense(W_std=1.5, b_std=0.05)
        Dense(W_std=1.5, b_std=0.05)
    """

    keeps = centered = True

    def __init__(self, W_std: float = 1.0, b_std: float = 0.0, width: int = 512):
        self.W_std, self.b_std = deviation(W_std, "W_std"), deviation(b_std, "b_std")
        self.width = as_count(width, "width", 1)

    def fan(self, spatial: int) -> int:
        """How many weights each channel has in a unit."""
        return 1

    def window(self, spatial: int) -> Window | None:
        """What a weight sees; ``None`` for the pixel alone."""
        return None

    def normal(self, before: bool) -> bool:
        return True

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        units = self.width if widths.all is None else widths.all
        window = self.window(len(before.pixels))
        return (Affine(before.channels, units, window, (self.W_std, self.b_std), widths),
                Shape(units, self.pixels(before.pixels)))

    def variances(self, own: Covariances) -> Tensor:
        window = self.window(own.layout.spatial)
        q = own.a.square()
        if window is not None:
            q = mean_over(q, replace(own.layout, paired=False, crossed=False), window)
        return self.W_std**2 * q + self.b_std**2

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        weight, bias, window = self.W_std**2, self.b_std**2, self.window(c.layout.spatial)
        seen, tangent, plain = c.given, c.tangent, (c.a, c.b)
        if window is not None:
            if c.lacking:
                seen, *roots = window.lacks(c)
                plain = roots[0], roots[1]
            else:
                seen = mean_over(seen, c.layout, window)
            tangent = None if tangent is None else mean_over(tangent, c.layout, window)
        given = _scaled(c, seen, plain, (a, b), weight, bias)
        after = c.after(a, b, given, None, channels=self.width)
        if tangent is None:
            return after
        if not c.standard:
            return replace(after, tangent=after.value + weight * tangent)
        product = c.layout.left(plain[0]) * c.layout.right(plain[1])
        direct = c.channels * self.fan(c.layout.spatial) * (product - seen if c.lacking else seen)
        return replace(after, tangent=direct + weight * tangent + (1.0 if bias else 0.0))


class Conv(Dense):
    r"""A convolution: the same weights at every pixel, each sees a window of ``side`` pixels in each direction.

    Args:
        side: The side of the window, a number or one for each direction.
        W_std: The standard deviation :math:`\sigma_w` of weights, times the root of how many a unit has.
        b_std: The standard deviation :math:`\sigma_b` of biases; 0 for none.
        stride: How many pixels the window moves on, a number or one for each direction.
        padding: ``"same"`` puts noughts around, so that with a stride of 1 there are as many pixels as before;
            ``"circular"`` goes on at the other side; ``"valid"`` keeps windows inside.
        width: How many channels there are where the network is finite.

    Example:
        >>> Conv(3, W_std=1.5)
        Conv(side=3, W_std=1.5)
    """

    spatial = True

    def __init__(self, side: int | Sequence[int], W_std: float = 1.0, b_std: float = 0.0,
                 stride: int | Sequence[int] = 1, padding: str = "same", width: int = 512):
        super().__init__(W_std, b_std, width)
        self.side, self.stride = sides(side, "side"), sides(stride, "stride")
        self.padding = as_choice(padding, "padding", ("same", "circular", "valid"))

    def fan(self, spatial: int) -> int:
        return prod(each(self.side, spatial))

    def window(self, spatial: int) -> Window | None:
        return Window(each(self.side, spatial), each(self.stride, spatial), self.padding)

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        window = self.window(len(shape))
        assert window is not None
        return window.pixels(shape)


def _scaled(c: Covariances, given: Tensor, plain: tuple[Tensor, Tensor], roots: tuple[Tensor, Tensor], weight: float,
            bias: float) -> Tensor:
    r"""Covariances :math:`w K + c`, or what they lack, for the roots of variances before (plain) and after.

    A bias adds :math:`w c\, (a - b)^2 / (a' b' + w a b + c)` to the lack.
    """
    if not c.lacking:
        return weight * given + bias
    if not bias:
        return weight * given
    one, other = c.layout.left(plain[0]), c.layout.right(plain[1])
    whole = c.layout.left(roots[0]) * c.layout.right(roots[1]) + weight * one * other + bias
    return weight * given + weight * bias * (one - other).square() / whole


def deviation(value: Any, name: str) -> float:
    """A standard deviation.

    Raises:
        DataError: If it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < float("inf"):
        raise DataError(f"{name} must be a number from 0 on; {what_came(value)} came. Pass for example {name}=1.5.")
    return float(value)


def sides(value: Any, name: str) -> int | tuple[int, ...]:
    """A number of pixels, or one for each direction."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(as_count(one, name, 1) for one in value)
    return as_count(value, name, 1)


def each(value: int | tuple[int, ...], spatial: int) -> tuple[int, ...]:
    """The number of each direction.

    Raises:
        DataError: If there are others.
    """
    found = (value,) * spatial if isinstance(value, int) else value
    if len(found) != spatial or not spatial:
        raise DataError(f"A window of {value} was asked for, and points have {spatial} directions of pixels. "
                        "Images have shape (n, channels, h, w), sequences (n, channels, length).")
    return found
