r"""Exponentials and powers: activations that grow fast, or do not exist for every variance.

References:
    | Toward Deeper Understanding of Neural Networks: The Power of Initialization and a Dual View on Expressivity
      (Daniely et al., 2016), for Hermite polynomials
    | Neural Kernels Without Tangents (Shankar et al., 2020), for the exponential of the cosine
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...arguments import as_count
from ...errors import DataError
from .activations import Dual, InClosedForm, positive, real

#: How far a variance may be from 1 where it has to be 1.
OFF = 1e-6


class Exp(InClosedForm):
    r"""An exponential, :math:`\alpha\, e^{\beta u}`, with :math:`K' = \alpha^2 e^{\beta^2 (q_1 + q_2 + 2 k) / 2}`.

    Args:
        a: The factor :math:`\alpha`.
        b: The rate :math:`\beta`.

    Example:
        >>> Exp(b=0.5)
        Exp(b=0.5)
    """

    def __init__(self, a: float = 1.0, b: float = 1.0):
        self.a, self.b = real(a, "a"), real(b, "b")

    def phi(self, u: Tensor) -> Tensor:
        return self.a * (self.b * u).exp()

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        value = self.a**2 * (self.b**2 * ((q1 + q2) / 2 + k)).exp()
        return Dual(value, self.b**2 * value)

    def variance(self, q: Tensor) -> Tensor:
        return self.a**2 * (2 * self.b**2 * q).exp()


class Gaussian(InClosedForm):
    r"""A bell, :math:`\alpha\, e^{\beta u^2}`; its mean square exists where :math:`4 \beta q < 1`.

    .. math:: K' = \frac{\alpha^2}{\sqrt d}, \qquad d = (1 - 2 \beta q_1)(1 - 2 \beta q_2) - 4 \beta^2 k^2, \qquad
              T' = T\, \frac{4 \alpha^2 \beta^2 k}{d^{3/2}}.

    Args:
        a: The factor :math:`\alpha`.
        b: The rate :math:`\beta`; negative for a bell.

    Example:
        >>> Gaussian(b=-0.5)
        Gaussian(b=-0.5)
    """

    def __init__(self, a: float = 1.0, b: float = -1.0):
        self.a, self.b = real(a, "a"), real(b, "b")

    def phi(self, u: Tensor) -> Tensor:
        return self.a * (self.b * u.square()).exp()

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        d = (1 - 2 * self.b * q1) * (1 - 2 * self.b * q2) - (2 * self.b * k).square()
        value = self.a**2 / d.sqrt()
        return Dual(value, 4 * self.b**2 * k * value / d)

    def variance(self, q: Tensor) -> Tensor:
        rest = 1 - 4 * self.b * q
        if not bool((rest > 0).all()):
            raise DataError(f"{self!r} grows so fast that its mean square is infinite for a variance from "
                            f"{1 / (4 * self.b):.4g} on, and {float(q.max()):.4g} came. Take a smaller b, a negative "
                            "one for a bell, or smaller W_std and b_std before it.")
        return self.a**2 / rest.sqrt()


class Monomial(InClosedForm):
    r"""A power :math:`u^n`, with :math:`K' = 2 k^2 + q_1 q_2` for n = 2, :math:`6 k^3 + 9 k q_1 q_2` for n = 3.

    Args:
        n: The power, 2 or 3.

    Example:
        >>> Monomial(3)
        Monomial(n=3)
    """

    def __init__(self, n: int):
        self.n = as_count(n, "n", 2)
        if self.n > 3:
            raise DataError(f"Monomial has formulas for n=2 and n=3; n={n} came. Take Elementwise(lambda u: u**{n}), "
                            f"which is exact with degree={n + 1}.")

    def phi(self, u: Tensor) -> Tensor:
        return u**self.n

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        square = 2 * k.square() + q1 * q2
        return Dual(square, 4 * k) if self.n == 2 else Dual(3 * k * (square + 2 * q1 * q2), 9 * square)

    def variance(self, q: Tensor) -> Tensor:
        return 3 * q.square() if self.n == 2 else 15 * q**3


class Hermite(InClosedForm):
    r"""The Hermite polynomial of degree n with mean square 1: :math:`K' = k^n`, for values of variance 1.

    Args:
        n: The degree, from 1 on.

    Example:
        >>> Hermite(2)
        Hermite(n=2)
    """

    def __init__(self, n: int):
        self.n = as_count(n, "n", 1)

    def phi(self, u: Tensor) -> Tensor:
        before, now = torch.zeros_like(u), torch.ones_like(u)
        for m in range(self.n):
            before, now = now, (u * now - math.sqrt(m) * before) / math.sqrt(m + 1)
        return now

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        return Dual(k**self.n, self.n * k ** (self.n - 1))

    def variance(self, q: Tensor) -> Tensor:
        off = float((q - 1).abs().max())
        if not off <= OFF:
            raise DataError(f"{self!r} takes values of variance 1, and there are some that are off by {off:.2g}. Put "
                            "LayerNorm() in front of it, or bring the points to unit length and take W_std=1 and no "
                            "biases.")
        return torch.ones_like(q)


class ExpNormalized(InClosedForm):
    r"""The exponential of the cosine :math:`c = k / \sqrt{q_1 q_2}`, :math:`K' = \sqrt{q_1 q_2}\; e^{\gamma (c + s)}`.

    No network of finite width has it: it is a kernel of kernels, with the tangent kernel
    :math:`T' = T\, \gamma\, e^{\gamma (c + s)}`.

    Args:
        gamma: The steepness :math:`\gamma`.
        shift: The shift s; -1 keeps variances.

    Example:
        >>> ExpNormalized(gamma=2.0)
        ExpNormalized(gamma=2)
    """

    def __init__(self, gamma: float = 1.0, shift: float = -1.0):
        self.gamma, self.shift = positive(gamma, "gamma"), real(shift, "shift")

    def phi(self, u: Tensor) -> Tensor:
        raise DataError(f"{self!r} is a kernel of kernels, and there is no function of a value whose mean it is. Take "
                        "another activation for a network of finite width, such as RBF().")

    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        size = (q1 * q2).sqrt()
        cosine = (k / torch.where(size > 0, size, 1.0)).clamp(-1, 1)
        growth = (self.gamma * (cosine + self.shift)).exp()
        return Dual(size * growth, self.gamma * growth)

    def variance(self, q: Tensor) -> Tensor:
        return math.exp(self.gamma * (1 + self.shift)) * q
