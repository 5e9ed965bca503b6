r"""How much random features of products vary, in closed form, before any is drawn.

For complex vectors u, v and :math:`c = u + v` (products without conjugation), g standard normal and :math:`A > -1/8`,

.. math:: \Lambda_g(u) = (1 + 4A)^{d/4} \exp\big(-A |g|^2 + \sqrt{1 + 4A}\, g \cdot u - u \cdot u / 2\big), \qquad
          E\, \Lambda_g(u) \Lambda_g(v) = e^{u \cdot v},

and with :math:`Z = \Lambda_g(u) \Lambda_g(v)`, :math:`\rho = 1 + 8A`,

.. math:: E |Z|^2 = \Big(\frac{(1+\rho)^2}{4\rho}\Big)^{d/2} e^{(1 + 1/\rho) |\mathrm{Re}\, c|^2
          - \mathrm{Re}\, u \cdot u - \mathrm{Re}\, v \cdot v}, \qquad
          E Z^2 = \Big(\frac{(1+\rho)^2}{4\rho}\Big)^{d/2} e^{(1 + 1/\rho)\, c \cdot c - u \cdot u - v \cdot v}.

All of it is kept as logarithms: these numbers soon leave every precision.

References:
    | Chefs' Random Tables: Non-Trigonometric Random Features (Likhosherstov et al., 2022)
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import as_count, what_came
from ..errors import DataError

#: The steps of Newton's method: each doubles the digits.
STEPS = 10


def best_A(s: float | Tensor, d: int) -> Tensor:
    r"""The A with the least second moment, for vectors of which only :math:`s = E|\mathrm{Re}(u + v)|^2` is known.

    .. math:: A = (\rho - 1) / 8, \qquad \rho = \frac{(d + 2s) + \sqrt{(d + 2s)^2 + 8 d s}}{2d}

    Args:
        s: The mean of :math:`|\mathrm{Re}(u + v)|^2`, from 0 on; any shape.
        d: The number of coordinates.

    Raises:
        DataError: If s is negative or no number.

    Example:
        >>> best_A(0.0, 3), best_A(3.0, 3)
        (tensor(0., dtype=torch.float64), tensor(0.3202, dtype=torch.float64))
    """
    d, s = as_count(d, "d", 1), _from_zero(s, "s")
    high = d + 2 * s
    return ((high + (high.square() + 8 * d * s).sqrt()) / (2 * d) - 1) / 8


def log_absolute_moment(A: float | Tensor, d: int, real: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r""":math:`\ln E |Z|^2`, the second moment of the absolute value.

    Args:
        A: A number above -1/8.
        d: The number of coordinates.
        real: The squared length :math:`|\mathrm{Re}(u + v)|^2`.
        u: The real part of :math:`u \cdot u`.
        v: The real part of :math:`v \cdot v`.

    Raises:
        DataError: If A is not above -1/8, where the moment is infinite.

    Example:
        >>> one = torch.tensor(1.0)
        >>> log_absolute_moment(0.0, 5, 4 * one, one, one)  # E e^{2 g.(u + v)} e^{-|u|^2 - |v|^2} for u = v
        tensor(6., dtype=torch.float64)
    """
    rho = _rho(A)
    return _log_factor(rho, d) + (1 + 1 / rho) * real - u - v


def log_moment(A: float | Tensor, d: int, c: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r""":math:`\ln E Z^2`, from products that may be complex.

    Args:
        A: A number above -1/8.
        d: The number of coordinates.
        c: The product :math:`c \cdot c`.
        u: The product :math:`u \cdot u`.
        v: The product :math:`v \cdot v`.

    Raises:
        DataError: If A is not above -1/8, where the moment is infinite.

    Example:
        >>> log_moment(0.0, 5, torch.tensor(4.0), torch.tensor(1.0), torch.tensor(1.0))
        tensor(6., dtype=torch.float64)
    """
    rho = _rho(A)
    return _log_factor(rho, d) + (1 + 1 / rho) * c - u - v


def best_rho(steep: float | Tensor, d: int) -> Tensor:
    r"""The :math:`\rho = 1 + 8A` with the least second moment, for the frequency :math:`\kappa` and :math:`r = |x||w|`.

    It is the root of :math:`d (\rho - 1) \sqrt\rho = 2 \kappa r (1 + \rho)`.

    Args:
        steep: The product :math:`\kappa r`, from 0 on; any shape.
        d: The number of coordinates.

    Example:
        >>> best_rho(0.0, 4)
        tensor(1., dtype=torch.float64)
        >>> rho = best_rho(2.0, 4)
        >>> bool((4 * (rho - 1) * rho.sqrt() - 4 * (1 + rho)).abs() < 1e-9)
        True
    """
    d, steep = as_count(d, "d", 1), _from_zero(steep, "steep")
    # With t the root of rho it is t^3 - h t^2 - t - h = 0. From 1 + h, where the left side is h^2, Newton's method only
    # descends: the left side is convex there.
    h = 2 * steep / d
    t = 1 + h
    for _ in range(STEPS):
        t = t - (((t - h) * t - 1) * t - h) / ((3 * t - 2 * h) * t - 1)
    return t.square()


def log_variance_factor(steep: float | Tensor, d: int, adaptive: bool = True) -> Tensor:
    r""":math:`\ln V(\kappa r)`, the second moment of a feature of one frequency, with its best scales.

    .. math:: \ln V = \tfrac d2 \ln \frac{(1 + \rho)^2}{4 \rho} + \frac{2 \kappa r}{\sqrt\rho}

    Args:
        steep: The product :math:`\kappa r` of a frequency and :math:`r = |x||w|`; any shape.
        d: The number of coordinates.
        adaptive: Whether A is the best one for each frequency, or 0, where :math:`\ln V = 2 \kappa r`.

    Example:
        >>> log_variance_factor(8.0, 16).round(decimals=1), log_variance_factor(8.0, 16, adaptive=False)
        (tensor(11.5000, dtype=torch.float64), tensor(16., dtype=torch.float64))
    """
    steep = _from_zero(steep, "steep")
    rho = best_rho(steep, d) if adaptive else torch.ones_like(steep)
    return _log_factor(rho, d) + 2 * steep / rho.sqrt()


def _log_factor(rho: Tensor, d: int) -> Tensor:
    return d / 2 * ((1 + rho).square() / (4 * rho)).log()


def _rho(A: float | Tensor) -> Tensor:
    rho = 1 + 8 * torch.as_tensor(A, dtype=torch.float64)
    if not bool((rho > 0).all()):
        raise DataError(f"A must be above -1/8, or the second moment is infinite; {float(rho.min() - 1) / 8:g} came. "
                        "Pass A=0.0, or that of best_A.")
    return rho


def _from_zero(value: float | Tensor, name: str) -> Tensor:
    number = torch.as_tensor(value, dtype=torch.float64)
    if not bool(((number >= 0) & number.isfinite()).all()):
        raise DataError(f"{name} must be a finite number from 0 on; {what_came(value)} came. Pass for example "
                        f"{name}=1.0.")
    return number
