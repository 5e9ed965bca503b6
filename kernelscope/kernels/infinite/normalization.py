r"""Layers that bring values to one size, and one that leaves some out.

References:
    | Layer Normalization (Ba et al., 2016)
    | Dropout: A Simple Way to Prevent Neural Networks from Overfitting (Srivastava et al., 2014)
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ...arguments import as_choice, what_came
from ...errors import DataError
from .activations import check_normal, positive, real
from .covariances import Covariances
from .finite import Applied, Shape, Widths, normalized
from .layer import Single

#: What the mean of a LayerNorm may be taken over.
OVER = ("channels", "all")


class LayerNorm(Single):
    r"""Values divided by their root mean square; their mean is nought already in a layer of infinite width.

    .. math:: K' = \frac{K}{\sqrt{(a^2 + \epsilon)(b^2 + \epsilon)}}, \qquad
              T' = \frac{T}{\sqrt{(a^2 + \epsilon)(b^2 + \epsilon)}},

    and what K lacks is divided by the same roots.

    Args:
        eps: The constant :math:`\epsilon`.
        over: ``"channels"``, of each pixel by itself, or ``"all"``, of channels and pixels together.

    Example:
        >>> LayerNorm()
        LayerNorm()
    """

    keeps = centered = True

    def __init__(self, eps: float = 1e-12, over: str = "channels"):
        self.eps, self.over = positive(eps, "eps"), as_choice(over, "over", OVER)

    def normal(self, before: bool) -> bool:
        check_normal(self, before)
        return True

    def variances(self, own: Covariances) -> Tensor:
        return (own.a / self._size(own.a)).square()

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        size = c.layout.left(self._size(c.a)) * c.layout.right(self._size(c.b))
        return c.after(a, b, c.given / size, None if c.tangent is None else c.tangent / size)

    def finite(self, before: Shape, widths: Widths) -> tuple[Applied, Shape]:
        return Applied(partial(normalized, whole=self.over == "all", eps=self.eps), repr(self)), before

    def _size(self, root: Tensor) -> Tensor:
        q = root.square()
        if self.over == "all" and q.ndim > 1:
            q = q.flatten(1).mean(1).reshape(-1, *[1] * (q.ndim - 1))
        return (q + self.eps).sqrt()


class Dropout(Single):
    r"""Each value is kept with a probability r, and then divided by it, else it is nought; for each point anew.

    What is left out for one point is independent of what is left out for another, and for one pixel of what is left out
    for the next. So the mean of a product stays as it is, and only that of a value with itself becomes 1 / r as large:
    ``k(x)`` has larger entries on its diagonal, and nowhere else. In ``k(x, z)`` every point of z is another
    point than those of x, also where they are equal.

    Args:
        rate: The probability r to be kept.

    Example:
        >>> Dropout(0.9)
        Dropout(rate=0.9)
    """

    keeps = True

    def __init__(self, rate: float):
        self.rate = real(rate, "rate")
        if not 0 < self.rate <= 1:
            raise DataError(f"rate is the probability to be kept, above 0 and at most 1; {what_came(rate)} came. Pass "
                            "for example rate=0.9.")

    def normal(self, before: bool) -> bool:
        return False

    def variances(self, own: Covariances) -> Tensor:
        return own.a.square() / self.rate

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        given, tangent = c.given, c.tangent
        if c.lacking:
            given = given + (1 / self.rate - 1) * c.left * c.right
        if not c.layout.crossed:
            given = _mended(c, given, 0.0 if c.lacking else 1 / self.rate)
            tangent = None if tangent is None else _mended(c, tangent, 1 / self.rate)
        return c.after(a, b, given, tangent)

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        return nn.Dropout(1 - self.rate), before


def _mended(c: Covariances, values: Tensor, factor: float) -> Tensor:
    """Of covariances of points with themselves, those of each pixel with itself times a factor."""
    layout = c.layout
    if not layout.paired or not layout.spatial:
        return values * factor
    pixels = c.a[0].numel()
    same = torch.eye(pixels, dtype=torch.bool, device=values.device).reshape(values.shape[layout.first:])
    return torch.where(same, values * factor, values)
