r"""Noise levels: the law that training draws them from, and the schedule that a sampler goes down.

The law of EDM is :math:`\ln\sigma \sim N(m, s^2)`; its schedule of N levels is
:math:`\sigma_k = (\sigma_{\max}^{1/\rho} + \tfrac{k}{N-1}(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho}))^\rho`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_finite, as_positive
from ...errors import DataError

__all__ = ["NoiseLaw", "as_numbers", "schedule"]


@dataclass(frozen=True)
class NoiseLaw:
    r"""The law of training noise, :math:`\ln\sigma \sim N(m, s^2)`.

    Attributes:
        mean: The mean m of the logarithm.
        deviation: Its standard deviation s.

    Raises:
        DataError: If the mean is no finite number, or the deviation not positive.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), table 1.

    Example:
        >>> law = NoiseLaw()
        >>> law.draw(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3])
        >>> [round(edge, 2) for edge in law.edges(4)]
        [0.13, 0.3, 0.68]
    """

    mean: float = -1.2
    deviation: float = 1.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", as_finite(self.mean, "mean", "-1.2"))
        object.__setattr__(self, "deviation", as_positive(self.deviation, "deviation", "1.2"))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels, with shape (count,)."""
        count = as_count(count, "count")
        normal = torch.randn(count, generator=generator)
        return (self.mean + self.deviation * normal).exp()

    def edges(self, bins: int) -> list[float]:
        """The noise levels between ``bins`` bins of equal mass, ascending."""
        bins = as_count(bins, "bins", least=1)
        return self.at(torch.arange(1, bins, dtype=torch.float64) / bins).tolist()

    def at(self, part: Tensor) -> Tensor:
        """The noise levels with a part of all noise below them."""
        return (self.mean + self.deviation * math.sqrt(2) * torch.erfinv(2 * part - 1)).exp()

    def below(self, sigma: Tensor) -> Tensor:
        """The part of noise below levels."""
        return (1 + torch.erf((sigma.log() - self.mean) / (self.deviation * math.sqrt(2)))) / 2


def schedule(levels: int = 18, lowest: float = 0.02, highest: float = 20.0, rho: float = 7.0) -> Tensor:
    r"""The noise levels of a sampler in descending order, with shape (levels,), without the 0 at which it ends.

    .. math:: \sigma_k = \Big(\sigma_{\max}^{1/\rho}
              + \tfrac{k}{N - 1} \big(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho}\big)\Big)^\rho

    Raises:
        DataError: If an argument is no positive number, or the lowest is not below the highest.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), equation 5.

    Example:
        >>> sigma = schedule(4)
        >>> sigma[0].item(), round(sigma[-1].item(), 3)
        (20.0, 0.02)
    """
    levels = as_count(levels, "levels", least=2)
    lowest = as_positive(lowest, "lowest", "0.02")
    highest = as_positive(highest, "highest", "20.0")
    if lowest >= highest:
        raise DataError(f"lowest must be below highest; {lowest} and {highest} came. Noise levels go down to lowest.")
    rho = as_positive(rho, "rho", "7.0")
    part = torch.linspace(0, 1, levels, dtype=torch.float64)
    levels_of = (highest ** (1 / rho) + part * (lowest ** (1 / rho) - highest ** (1 / rho))) ** rho
    levels_of[0] = highest
    if not bool(levels_of.isfinite().all()) or not bool((levels_of.diff() < 0).all()):
        raise DataError(f"With rho={rho:g} the {levels} levels from {highest:g} to {lowest:g} are not all different. "
                        "Pass for example rho=7.0.")
    return levels_of


def as_numbers(value: Any) -> Tensor | None:
    """Finite numbers in double precision; ``None`` from anything else.

    Example:
        >>> as_numbers([1, 2]), as_numbers("x"), as_numbers(float("nan"))
        (tensor([1., 2.], dtype=torch.float64), None, None)
    """
    try:
        found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if bool(found.isfinite().all()) else None
