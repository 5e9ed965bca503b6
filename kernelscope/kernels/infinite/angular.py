r"""Activations that are two half-lines: functions of the angle :math:`\theta` between two points.

For :math:`\phi(u) = \alpha \min(u, 0) + \beta \max(u, 0)`, with :math:`m = (\alpha^2 + \beta^2) / 2` and
:math:`f = (\alpha - \beta)^2 / 2\pi`,

.. math:: E[\phi'\phi'] = m - f\theta, \qquad
          E[\phi\phi] = ab\, \big(m \cos\theta + f (\sin\theta - \theta \cos\theta)\big),

and what the second lacks to :math:`m\, ab` is :math:`m D - f\, ab\, (\sin\theta - \theta\cos\theta)` for the lack
:math:`D = ab\,(1 - \cos\theta)`, from which the angle comes without a difference,
:math:`\sin(\theta / 2) = \sqrt{D / 2ab}`.

References:
    | Kernel Methods for Deep Learning (Cho and Saul, 2009)
    | Rapid training of deep neural networks without skip connections or normalization layers using Deep Kernel Shaping
      (Martens et al., 2021)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..distances import root
from .activations import Activation, real
from .covariances import Covariances
from .layer import Single

#: Below which angle a sum of powers is more exact than a difference, and its terms after the first, theta^3 / 3.
SMALL, TERMS = 0.5, [(-1) ** k * 3 * (2 * k + 2) / math.factorial(2 * k + 3) for k in range(1, 8)]


class HalfLines(Activation, Single):
    r"""A slope for negative values and one for positive ones.

    Args:
        low: The slope :math:`\alpha` below nought.
        high: The slope :math:`\beta` above nought.

    Example:
        >>> HalfLines(low=0.0, high=2.0)
        HalfLines(low=0, high=2)
    """

    keeps = True
    fills = False

    def __init__(self, low: float, high: float):
        self.low, self.high = real(low, "low"), real(high, "high")

    @property
    def mean(self) -> float:
        """The mean square of the slopes."""
        return (self.low**2 + self.high**2) / 2

    @property
    def bend(self) -> float:
        """How much the kernel falls with the angle."""
        return (self.low - self.high) ** 2 / (2 * math.pi)

    def phi(self, u: Tensor) -> Tensor:
        return self.high * u.relu() - self.low * (-u).relu()

    def variances(self, own: Covariances) -> Tensor:
        return self.mean * own.a.square()

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        size, lack = c.left * c.right, c.lack
        angle = angle_of(lack, size)
        tangent = None if c.tangent is None else c.tangent * (self.mean - self.bend * angle)
        if self.low == -self.high:
            # The kernel of an even function is that of the acute angle, at which nothing cancels.
            lack = torch.minimum(lack, 2 * size - lack)
            angle = torch.minimum(angle, math.pi - angle)
        lack = (self.mean * lack - self.bend * size * excess_of_sine(angle)).clamp(min=0)
        after = c.after(a, b, lack, tangent, lacking=True)
        return after if c.lacking else c.after(a, b, after.value, tangent)


class ReLU(HalfLines):
    r"""The rectifier :math:`\max(u, 0)`.

    Example:
        >>> ReLU()
        ReLU()
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)


class LeakyReLU(HalfLines):
    r"""The rectifier with a slope :math:`\alpha` for negative values.

    Args:
        alpha: The slope.

    Example:
        >>> LeakyReLU(0.1)
        LeakyReLU(alpha=0.1)
    """

    def __init__(self, alpha: float = 0.01):
        super().__init__(alpha, 1.0)
        self.alpha = self.low


class Abs(HalfLines):
    r"""The absolute value :math:`|u|`.

    Example:
        >>> Abs()
        Abs()
    """

    def __init__(self) -> None:
        super().__init__(-1.0, 1.0)


def angle_of(lack: Tensor, size: Tensor) -> Tensor:
    """The angle of two vectors, from what their product lacks to that of their lengths; a right one at nought."""
    there = size > 0
    part = (lack / torch.where(there, 2 * size, 1.0)).clamp(0, 1)
    return torch.where(there, 2 * torch.atan2(root(part), root(1 - part)), math.pi / 2)


def excess_of_sine(angle: Tensor) -> Tensor:
    r""":math:`\sin\theta - \theta \cos\theta`, as exact for small angles as for others.

    Example:
        >>> excess_of_sine(torch.tensor([1e-4, math.pi], dtype=torch.float64))
        tensor([3.3333e-13, 3.1416e+00], dtype=torch.float64)
    """
    square = angle.square()
    total = torch.full_like(angle, TERMS[-1])
    for term in reversed(TERMS[:-1]):
        total = total * square + term
    small = angle * square / 3 * (1 + square * total)
    return torch.where(angle < SMALL, small, angle.sin() - angle * angle.cos())
