r"""The two functions of an angle that the covariances of piecewise linear activations are made of.

With :math:`y = \sin^2(\theta/2)` for :math:`\theta \le \pi/2`,

.. math:: \theta = \sqrt y\, p(y), \qquad \sin\theta - \theta\cos\theta = y\sqrt y\, q(y)

where p and q have power series with radius 1, so that polynomials give both to the last digits on [0, 1/2], also where
the difference on the left would cancel. No arc cosine is called, and loops over them vectorise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: Degrees that leave less than 1e-8, and less than 1e-14; higher ones gather more rounding than they take away.
DEGREES = {torch.float32: 8, torch.float64: 18}

#: Terms of the series; at y = 1/2 the first that is left out is below 1e-20.
TERMS = 60


@lru_cache
def polynomials(dtype: torch.dtype) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of p and of q on [0, 1/2], the highest power first.

    Args:
        dtype: ``torch.float32`` or ``torch.float64``.

    Returns:
        The coefficients of p, and those of q.

    Example:
        >>> import torch
        >>> p, q = polynomials(torch.float32)
        >>> round(p[-1], 6), round(q[-1], 6)
        (2.0, 2.666667)
    """
    central, arc, root = 1.0, np.zeros(TERMS + 1), np.zeros(TERMS + 1)
    for k in range(TERMS + 1):
        arc[k], root[k] = central / (2 * k + 1), -central / (2 * k - 1)
        central *= (2 * k + 1) / (2 * k + 2)
    bend = 2 * root[1:] - 2 * (arc[1:] - 2 * arc[:-1])
    return _fitted(2 * arc, DEGREES[dtype]), _fitted(bend, DEGREES[dtype])


def _fitted(series: np.ndarray, degree: int) -> tuple[float, ...]:
    """The interpolation of a series on [0, 1/2], the highest power first."""
    at = np.polynomial.Polynomial(series)
    near = np.polynomial.Chebyshev.interpolate(at, degree, domain=[0, 0.5])
    return tuple(float(c) for c in near.convert(kind=np.polynomial.Polynomial).coef[::-1])


def turned(y: Tensor) -> tuple[Tensor, Tensor]:
    r"""The angle and its bend, :math:`\theta` and :math:`\sin\theta - \theta\cos\theta`.

    Args:
        y: :math:`\sin^2(\theta/2)`, in [0, 1/2], of any shape.

    Returns:
        Two tensors of that shape.

    Example:
        >>> import torch
        >>> [round(float(t), 6) for t in turned(torch.tensor(0.5, dtype=torch.float64))]
        [1.570796, 1.0]
    """
    p, q = polynomials(y.dtype)
    root = y.sqrt()
    return root * _horner(p, y), root * y * _horner(q, y)


def _horner(coefficients: tuple[float, ...], y: Tensor) -> Tensor:
    total = torch.full_like(y, coefficients[0])
    for c in coefficients[1:]:
        total = total * y + c
    return total
