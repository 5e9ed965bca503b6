r"""Outputs of networks that gradient flow trains, from kernel matrices.

With parameters held to their start by a ridge, gradient flow on

.. math:: \frac1{2n} \sum_i |f(x_i) - y_i|^2 + \frac\lambda2\, |\theta - \theta_0|^2

moves outputs by the tangent kernel :math:`T`, so that at time t, with :math:`A = T_{xx} + n \lambda I`,

.. math:: f_t(z) = f_0(z) + T_{zx} F_t\, (y - f_0(x)), \qquad F_t = A^{-1} (1 - e^{-A t / n}),

which is linear in the start :math:`f_0`, a Gaussian process with covariance K. Where targets come with a noise of
variance :math:`n \lambda` of their own and T = K, the covariance is one expression,
:math:`K_{zz} - K_{zx} A^{-1} (1 - e^{-2 A t / n}) K_{xz}`, which ends at the Bayesian posterior.

References:
    | Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent (Lee et al., 2019)
    | Sample-then-optimize posterior sampling for Bayesian linear models (Matthews et al., 2017)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError


class Matrices(NamedTuple):
    """The kernel matrices that an answer needs, in double precision.

    Attributes:
        start: K of the samples, with shape (n, n).
        tangent: T of the samples; the same tensor where both kernels are one.
        start_cross: K of samples and test points, with shape (n, q).
        tangent_cross: T of samples and test points.
        start_test: K of the test points, with shape (q, q); ``None`` where only means are asked for.
    """

    start: Tensor
    tangent: Tensor
    start_cross: Tensor
    tangent_cross: Tensor
    start_test: Tensor | None


class Answer(NamedTuple):
    """Means, covariances, the log evidence, and the residual of the equations."""

    mean: Tensor
    covariance: Tensor | None
    evidence: float | None
    residual: float


def at_the_end(k: Matrices, y: Tensor, noise: float) -> Answer:
    """What training ends at, by a Cholesky factor.

    Args:
        k: The kernel matrices.
        y: The targets, with shape (n, c).
        noise: What is added to the diagonal.

    Raises:
        DataError: If the matrix is not positive definite.
    """
    matrix = _shifted(k.tangent, noise)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        raise DataError(
            f"The kernel matrix of {len(y)} samples is not positive definite beyond rounding: its factor ends at row "
            f"{int(failed)}. Pass a larger ridge, or the points in double precision, x.double()."
        )
    weights = torch.cholesky_solve(y, factor)
    residual = _share(matrix @ weights - y, y)
    mean = k.tangent_cross.T @ weights
    covariance = None
    if k.start_test is not None and k.tangent is k.start:
        half = torch.linalg.solve_triangular(factor, k.start_cross, upper=False)
        covariance = k.start_test - half.T @ half
    elif k.start_test is not None:
        covariance = spread(k, torch.cholesky_solve(k.tangent_cross, factor))
    evidence = None
    if k.tangent is k.start:
        logdet = 2.0 * float(factor.diagonal().log().sum())
        evidence = -0.5 * (float((y * weights).sum()) + y.shape[1] * (logdet + len(y) * math.log(2.0 * math.pi)))
    return Answer(mean, covariance, evidence, residual)


def along(k: Matrices, y: Tensor, noise: float, times: Sequence[float]) -> Answer:
    """Where training stands at several times, with a leading axis for them, by the eigenvectors of the kernel matrix.

    Args:
        k: The kernel matrices.
        y: The targets, with shape (n, c).
        noise: What is added to the diagonal.
        times: The times.

    Raises:
        DataError: If training to the end is asked for, and the matrix is not positive definite.
    """
    values, vectors = torch.linalg.eigh(k.tangent)
    residual = _share(k.tangent @ vectors - vectors * values, k.tangent)
    values = values + noise
    if math.isinf(max(times)) and not float(values[0]) > torch.finfo(values.dtype).eps * float(values[-1]):
        raise DataError(f"The kernel matrix of {len(y)} samples is not positive definite beyond rounding, and training "
                        "has no end. Pass a larger ridge, or times that are finite.")
    turned, seen = vectors.T @ y, vectors.T @ k.tangent_cross
    means, covariances = [], []
    for time in times:
        learned = _learned(values, time / len(y))
        means.append(seen.T @ (learned[:, None] * turned))
        if k.start_test is not None and k.tangent is k.start:
            covariances.append(k.start_test - seen.T @ (_learned(values, 2 * time / len(y))[:, None] * seen))
        elif k.start_test is not None:
            covariances.append(spread(k, vectors @ (learned[:, None] * seen)))
    return Answer(torch.stack(means), torch.stack(covariances) if covariances else None, None, residual)


def spread(k: Matrices, s: Tensor) -> Tensor:
    r""":math:`K_{zz} + S K_{xx} S^T - S K_{xz} - K_{zx} S^T`, the covariance of what is linear in the start.

    Args:
        k: The kernel matrices.
        s: :math:`S^T`, with shape (n, q).
    """
    assert k.start_test is not None
    return combined(k.start_test, s.T @ (k.start @ s), s.T @ k.start_cross)


def combined(test: Tensor, square: Tensor, cross: Tensor) -> Tensor:
    """The same from its products."""
    return test + (square + square.T) / 2 - cross - cross.T


def _learned(values: Tensor, time: float) -> Tensor:
    r""":math:`(1 - e^{-at}) / a`, which is t where a is nought."""
    if time == 0:
        return torch.zeros_like(values)
    return torch.where(values == 0, time, -torch.expm1(-values * time) / torch.where(values == 0, 1.0, values))


def _shifted(matrix: Tensor, noise: float) -> Tensor:
    shifted = matrix.clone()
    shifted.diagonal().add_(noise)
    return shifted


def _share(rest: Tensor, whole: Tensor) -> float:
    size = float(whole.norm())
    return float(rest.norm()) / size if size else 0.0
