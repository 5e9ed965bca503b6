r"""Activations as integrals of waves, in closed form.

.. math:: f(z) = c_0 + c_1 z + \int_0^\infty h(\xi)\, \omega(2 \pi \xi z)\, d\xi

A function that has two limits, or grows, has no integrable transform, and near frequency 0 its waves are taken as what
they lack to a line: with the transform H of an even second derivative, :math:`\omega(t) = 1 - \cos t` and
:math:`h(\xi) = 2 H(\xi) / (4 \pi^2 \xi^2)`. How fast h falls says where features of a function have a variance at all.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import as_count
from .spectra import LineSpectrum


class FourierIntegral(NamedTuple):
    r"""An activation as an integral of waves over positive frequencies :math:`\xi` in cycles.

    .. math:: f(z) = c_0 + c_1 z + \int_0^\infty h(\xi)\, \omega(2 \pi \xi z)\, d\xi, \qquad
              \omega(t) = \cos t, \ \sin t \text{ or } 1 - \cos t

    Attributes:
        constant: The constant :math:`c_0`.
        slope: The slope :math:`c_1`.
        wave: Which wave :math:`\omega` is: ``"cosine"``, ``"sine"`` or ``"lack"``.
        height: The function h; times :math:`e^{2 \pi \xi r}`, with the half-width r of the strip, if that is finite.
        last: A frequency beyond which the rest is below every precision.
        strip: The half-width of the strip of complex numbers :math:`|\mathrm{Im}\, z| < r` in which f is analytic.
    """

    constant: float
    slope: float
    wave: str
    height: Callable[[Tensor], Tensor]
    last: float
    strip: float

    def __call__(self, z: Tensor, nodes: int = 400) -> Tensor:
        """The function by Gauss-Legendre quadrature, in double precision."""
        xi, weights = self.nodes(nodes)
        angles = 2 * math.pi * xi * z.double()[..., None]
        waves = {"cosine": angles.cos, "sine": angles.sin, "lack": lambda: 2 * (angles / 2).sin().square()}[self.wave]()
        return self.constant + self.slope * z.double() + waves @ (weights * self.density(xi))

    def density(self, xi: Tensor) -> Tensor:
        """The function h."""
        return self.height(xi) if self.strip == math.inf else self.height(xi) * (-2 * math.pi * self.strip * xi).exp()

    def nodes(self, count: int, first: float = 0.0) -> tuple[Tensor, Tensor]:
        """Frequencies in cycles from ``first`` on, and the weights of a quadrature over them."""
        x, weights = gauss_legendre(as_count(count, "count", 1))
        half = (self.last - first) / 2
        return first + half * (x + 1), half * weights

    def spectrum(self, terms: int) -> LineSpectrum:
        r"""A quadrature of the integral as a sum of waves.

        Args:
            terms: How many frequencies.

        Example:
            >>> z = torch.linspace(-2, 2, 50, dtype=torch.float64)
            >>> (FOURIER["gaussian"].spectrum(20)(z) - (-z.square() / 2).exp()).abs().max() < 1e-6
            tensor(True)
        """
        xi, weights = self.nodes(terms)
        heights = weights * self.density(xi)
        constant = self.constant + (float(heights.sum()) if self.wave == "lack" else 0.0)
        sign, phase = {"cosine": (1, 0.0), "sine": (1, -math.pi / 2), "lack": (-1, 0.0)}[self.wave]
        return LineSpectrum(constant, self.slope, tuple((2 * math.pi * xi).tolist()), tuple((sign * heights).tolist()),
                        (phase,) * terms).without_small(1e-17)

    def least_second_moment(self, r: float, first: float = 0.0) -> float:
        r"""The least second moment that unbiased features with A = 0 have on pairs with :math:`|x| |w| = r`.

        .. math:: \Big(\int_{\xi_0}^\infty |h(\xi)|\, e^{2 \pi \xi r}\, d\xi\Big)^2

        It is infinite for r beyond the strip in which the function is analytic: features then have no variance.

        Args:
            r: The product of lengths.
            first: The frequency :math:`\xi_0` below which waves are taken as a line, exactly.

        Example:
            >>> FOURIER["tanh"].least_second_moment(1.6, 0.02)
            inf
        """
        if r >= self.strip:
            return math.inf
        # Near the edge of the strip the integrand falls as slowly as e^{-2 pi (strip - r) xi}.
        last = self.last if self.strip == math.inf else max(self.last, 8 / (self.strip - r))
        x, weights = gauss_legendre(400)
        edges = torch.linspace(0, 1, 41, dtype=torch.float64).square() * (last - first) + first
        total = 0.0
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            xi = low + (high - low) / 2 * (x + 1)
            # What falls and what grows are beyond all numbers long before their product is small.
            left = r if self.strip == math.inf else r - self.strip
            total += float(weights @ (self.height(xi).abs() * (2 * math.pi * xi * left).exp())) * (high - low) / 2
        return total**2


def _over_sinh(xi: Tensor, factor: float, rate: float, power: int = 0) -> Tensor:
    r""":math:`c\, \xi^p e^{\rho \xi} / \sinh(\rho \xi)`, which stays finite."""
    return factor * xi**power * 2 / -torch.expm1(-2 * rate * xi)


_PI2 = math.pi**2

#: Activations as integrals of waves.
FOURIER = {
    "gaussian": FourierIntegral(0.0, 0.0, "cosine", lambda xi: 2 * math.sqrt(2 * math.pi) * (
        -2 * _PI2 * xi.square()).exp(), 1.4, math.inf),
    "sech": FourierIntegral(0.0, 0.0, "cosine", lambda xi: 4 * math.pi / (1 + (-2 * _PI2 * xi).exp()), 4.0,
                            math.pi / 2),
    "sech2": FourierIntegral(0.0, 0.0, "cosine", lambda xi: _over_sinh(xi, 4 * _PI2, _PI2, 1), 4.2, math.pi / 2),
    "tanh": FourierIntegral(0.0, 0.0, "sine", lambda xi: _over_sinh(xi, 2 * math.pi, _PI2), 4.0, math.pi / 2),
    "sigmoid": FourierIntegral(0.5, 0.0, "sine", lambda xi: _over_sinh(xi, 2 * math.pi, 2 * _PI2), 2.0, math.pi),
    "erf": FourierIntegral(0.0, 0.0, "sine", lambda xi: 2 / (math.pi * xi) * (-2 * _PI2 * xi.square()).exp(), 1.4,
                           math.inf),
    "softplus": FourierIntegral(math.log(2), 0.5, "lack", lambda xi: _over_sinh(xi, 1.0, 2 * _PI2, -1), 2.0, math.pi),
    "gelu": FourierIntegral(0.0, 0.5, "lack", lambda xi: (1 + 4 * _PI2 * xi.square()) * (
        -2 * _PI2 * xi.square()).exp() / (2 * _PI2 * xi.square()), 1.5, math.inf),
    "silu": FourierIntegral(0.0, 0.5, "lack", lambda xi: 4 * _PI2 * (1 + (-4 * _PI2 * xi).exp()) / torch.expm1(
        -4 * _PI2 * xi).square(), 2.2, math.pi),
}


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    r"""Nodes and weights of the quadrature :math:`\int_{-1}^1 f(x)\, dx \approx \sum_i w_i f(x_i)`.

    They are eigenvalues of a matrix of three diagonals, and come from the first entries of its eigenvectors.

    Example:
        >>> x, weights = gauss_legendre(3)
        >>> round(float(weights @ x**4), 12)
        0.4
    """
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k.square() - 1).sqrt()
    x, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return x, 2 * vectors[0].square()
