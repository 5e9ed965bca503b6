r"""Sigmoids and waves: activations whose means are a formula, for a covariance k and variances :math:`q_1, q_2`.

References:
    | Computing with Infinite Networks (Williams, 1996), for the error function
    | Avoiding Kernel Fixed Points: Computing with ELU and GELU Infinite Networks (Tsuchida et al., 2021)
    | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007), for waves
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu

from .activations import Dual, InClosedForm, positive, real
from .angular import angle_of
from .covariances import Covariances


class Erf(InClosedForm):
    r"""The error function, :math:`\alpha\, \mathrm{erf}(\beta u) + \gamma`.

    .. math:: K' = \tfrac{2 \alpha^2}{\pi} \arcsin \frac{2 \beta^2 k}{\sqrt{(1 + 2 \beta^2 q_1)(1 + 2 \beta^2 q_2)}}
              + \gamma^2.

    Args:
        a: The factor :math:`\alpha`.
        b: The steepness :math:`\beta`.
        c: The constant :math:`\gamma`.

    Example:
        >>> Erf(b=0.5)
        Erf(b=0.5)
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0):
        self.a, self.b, self.c = real(a, "a"), real(b, "b"), real(c, "c")

    def phi(self, u: Tensor) -> Tensor:
        return self.a * (self.b * u).erf() + self.c

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        steep = self.b**2
        k, root = 2 * steep * k, ((1 + 2 * steep * q1) * (1 + 2 * steep * q2) - (2 * steep * k).square()).sqrt()
        value = (2 / math.pi) * self.a**2 * torch.atan2(k, root) + self.c**2
        return Dual(value, (4 / math.pi) * self.a**2 * steep / root)

    def variance(self, q: Tensor) -> Tensor:
        q = self.b**2 * q
        return (2 / math.pi) * self.a**2 * torch.atan2(q, (q + 1 / 4).sqrt()) + self.c**2


class GELU(InClosedForm):
    r"""The Gaussian error linear unit :math:`u\, \Phi(u)`, with the distribution function itself.

    Example:
        >>> GELU()
        GELU()
    """

    def phi(self, u: Tensor) -> Tensor:
        return gelu(u)

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        product, wide = q1 * q2, (1 + q1) * (1 + q2)
        gap = wide - k.square()
        root = gap.sqrt()
        turn = torch.atan2(k, root)
        value = ((k.square() + product * gap) / (wide * root) + k * turn) / (2 * math.pi) + k / 4
        slope = k / root * (1 / gap + (1 - product) / wide + 1) / (2 * math.pi) + 1 / 4 + turn / (2 * math.pi)
        return Dual(value, slope)

    def variance(self, q: Tensor) -> Tensor:
        root = (1 + 2 * q).sqrt()
        return q * (1 / 4 + (q / ((1 + q) * root) + torch.atan2(q, root) / 2) / math.pi)


class Sin(InClosedForm):
    r"""A wave, :math:`\alpha \sin(\beta u + \gamma)`.

    .. math:: K' = \tfrac{\alpha^2}{2}
              \big(e^{-\beta^2 (q_1 + q_2 - 2 k) / 2} - \cos 2\gamma\; e^{-\beta^2 (q_1 + q_2 + 2 k) / 2}\big).

    Args:
        a: The height :math:`\alpha`.
        b: The frequency :math:`\beta`.
        c: The phase :math:`\gamma`.

    Example:
        >>> Sin(b=2.0)
        Sin(b=2)
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0):
        self.a, self.b, self.c = real(a, "a"), real(b, "b"), real(c, "c")

    def phi(self, u: Tensor) -> Tensor:
        return self.a * (self.b * u + self.phase).sin()

    @property
    def phase(self) -> float:
        """The phase of the sine."""
        return self.c

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        half = (q1 + q2) / 2
        near, far = (self.b**2 * (k - half)).exp(), math.cos(2 * self.phase) * (-(self.b**2) * (k + half)).exp()
        return Dual(self.a**2 / 2 * (near - far), self.a**2 * self.b**2 / 2 * (near + far))

    def variance(self, q: Tensor) -> Tensor:
        return self.a**2 / 2 * (1 - math.cos(2 * self.phase) * (-2 * self.b**2 * q).exp())


class Cos(Sin):
    r"""A wave, :math:`\alpha \cos(\beta u + \gamma)`.

    Args:
        a: The height :math:`\alpha`.
        b: The frequency :math:`\beta`.
        c: The phase :math:`\gamma`.

    Example:
        >>> Cos(a=2.0)
        Cos(a=2)
    """

    @property
    def phase(self) -> float:
        return self.c + math.pi / 2


class RBF(InClosedForm):
    r"""The wave whose kernel is the Gaussian: :math:`\sqrt2 \sin(\sqrt{2\gamma}\, u + \pi / 4)`.

    .. math:: K' = e^{-\gamma (q_1 + q_2 - 2 k)}.

    Args:
        gamma: The steepness :math:`\gamma`.

    Example:
        >>> RBF(gamma=0.5)
        RBF(gamma=0.5)
    """

    def __init__(self, gamma: float = 1.0):
        self.gamma = positive(gamma, "gamma")

    def phi(self, u: Tensor) -> Tensor:
        return math.sqrt(2) * (math.sqrt(2 * self.gamma) * u + math.pi / 4).sin()

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        value = (self.gamma * (2 * k - q1 - q2)).exp()
        return Dual(value, 2 * self.gamma * value)

    def variance(self, q: Tensor) -> Tensor:
        return torch.ones_like(q)


class Sign(InClosedForm):
    r"""The sign of a value, whose derivative is nought: what is before it does not learn.

    .. math:: K' = 1 - \tfrac{2}{\pi} \theta, \qquad T' = 0.

    Example:
        >>> Sign()
        Sign()
    """

    keeps = True

    def phi(self, u: Tensor) -> Tensor:
        return u.sign()

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        size = (q1 * q2).sqrt()
        value = (size > 0).to(k) * (1 - 2 / math.pi * angle_of((size - k).clamp(min=0), size))
        return Dual(value, torch.zeros_like(k))

    def variance(self, q: Tensor) -> Tensor:
        return (q > 0).to(q)

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        if not c.lacking:
            return super().between(c, a, b)
        angle = angle_of(c.given, c.left * c.right)
        lack = c.layout.left(a) * c.layout.right(b) * (2 / math.pi) * angle
        return c.after(a, b, lack, None if c.tangent is None else torch.zeros_like(c.tangent))
