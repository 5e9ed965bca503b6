r"""Power laws read off errors: the exponent, whether the line bends, and a floor where it does.

In logarithms :math:`e(n) = A n^{-\alpha}` is a line. How far an exponent may be off is told by the same fit to errors
that are drawn again, from the orders and the test points that there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: How often errors are drawn again.
DRAWS = 1000

#: How many sizes a bend needs, and a floor.
BENT, FLOORED = 3, 5

#: The floors that are tried, as shares of the smallest error.
FLOORS = torch.cat([torch.zeros(1), torch.linspace(0.02, 0.98, 49)]).double()

#: What lies outside of an interval, on either side.
TAIL = 0.025


@dataclass(frozen=True)
class Estimated:
    """A number with its 95 % interval.

    Example:
        >>> Estimated(0.512, 0.478, 0.547)
        0.51 (0.48 to 0.55)
    """

    value: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether nought is outside of the interval."""
        return self.low > 0 or self.high < 0

    def __repr__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})".replace("-", "−")


def estimated(value: Tensor, draws: Tensor) -> Estimated:
    """A value with the interval that the middle of its draws spans."""
    ends = torch.quantile(draws, torch.tensor([TAIL, 1 - TAIL], dtype=draws.dtype))
    return Estimated(float(value), float(ends[0]), float(ends[1]))


def resampled(losses: Tensor, seed: int, draws: int = DRAWS) -> Tensor:
    r"""Means of losses of which test points, and orders, are drawn again with replacement, the same for all rows.

    Of r orders :math:`r - 1` are drawn, so that the spread of their means is that of a mean of r, and not less.

    Args:
        losses: The loss at each test point, with shape (*, r, m), for r orders.
        seed: What is drawn; with as many orders and test points the same seed draws the same.
        draws: How often.

    Returns:
        The means, with shape (*, draws).

    Example:
        >>> resampled(torch.ones(3, 2, 10), seed=0, draws=4).shape
        torch.Size([3, 4])
    """
    *_, r, m = losses.shape
    generator = torch.Generator().manual_seed(seed)
    points = _counts(torch.randint(m, (draws, m), generator=generator), m)
    orders = _counts(torch.randint(r, (draws, max(r - 1, 1)), generator=generator), r)
    return ((losses.double() @ points) * orders).sum(-2)


def _counts(drawn: Tensor, size: int) -> Tensor:
    """How often each was drawn, as shares, with shape (size, draws)."""
    shares = torch.zeros(len(drawn), size, dtype=torch.float64)
    return shares.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / drawn.shape[1], dtype=torch.float64)).T


def exponents(sizes: Tensor, errors: Tensor) -> Tensor:
    r"""The exponent :math:`\alpha` of :math:`e \sim n^{-\alpha}`, by least squares in logarithms.

    Args:
        sizes: n, with shape (s,).
        errors: With shape (s, *).

    Returns:
        With shape (*).

    Example:
        >>> n = torch.tensor([10.0, 100.0, 1000.0]).double()
        >>> round(float(exponents(n, 3 * n**-0.5)), 6)
        0.5
    """
    x = sizes.double().log()
    x = x - x.mean()
    return -(torch.tensordot(x, errors.log(), 1) / (x @ x))


def bends(sizes: Tensor, errors: Tensor) -> Tensor:
    r"""The coefficient of :math:`\log^2 n` beside the line: positive where a curve flattens, nought for a power law.

    Args:
        sizes: n, with shape (s,), three at least.
        errors: With shape (s, *).

    Example:
        >>> n = torch.tensor([10.0, 100.0, 1000.0]).double()
        >>> bool(bends(n, 0.1 + n**-0.5) > 0), round(abs(float(bends(n, 3 * n**-0.5))), 6)
        (True, 0.0)
    """
    x = sizes.double().log()
    x = x - x.mean()
    design = torch.stack([torch.ones_like(x), x, x.square()], 1)
    return torch.tensordot(torch.linalg.pinv(design)[2], errors.log(), 1)


def floored(sizes: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    r"""The floor :math:`e_\infty` and the exponent of :math:`e = e_\infty + A n^{-\alpha}`, by least squares.

    Of each floor that is tried, the rest is fitted in logarithms, an error weighed by the share that is above the
    floor, so that what is made small is how far the whole is off in logarithms.

    Args:
        sizes: n, with shape (s,).
        errors: With shape (s, *).

    Returns:
        The floors and the exponents, with shape (*).

    Example:
        >>> n = torch.logspace(1, 4, 7).double()
        >>> floor, exponent = floored(n, 0.05 + 2 * n**-0.8)
        >>> round(float(floor), 3), round(float(exponent), 2)
        (0.05, 0.8)
    """
    flat = errors.reshape(len(sizes), -1)
    x = sizes.double().log()[:, None]
    least, kept = torch.full_like(flat[0], torch.inf), torch.zeros(2, flat.shape[1], dtype=torch.float64)
    for share in FLOORS:
        floor = share * flat.min(0).values
        above = flat - floor
        weight, y = (above / flat).square(), above.log()
        total = weight.sum(0)
        mx, my = (weight * x).sum(0) / total, (weight * y).sum(0) / total
        slope = (weight * (x - mx) * (y - my)).sum(0) / (weight * (x - mx).square()).sum(0)
        loss = (weight * (y - my - slope * (x - mx)).square()).sum(0)
        better = loss < least
        least = torch.where(better, loss, least)
        kept = torch.where(better, torch.stack([floor, -slope]), kept)
    return kept[0].reshape(errors.shape[1:]), kept[1].reshape(errors.shape[1:])
