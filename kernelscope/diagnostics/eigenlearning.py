r"""The test error of kernel regression, foretold from the spectrum of the kernel on a pool of points.

On a pool of N points with targets the kernel has the eigenvalues :math:`\lambda_j` of :math:`K/N`, and the target the
coefficients :math:`v_j = \langle u_j, y\rangle/\sqrt N`. A regression on n random points of the pool learns the share
:math:`L_j` of mode j, and its expected error on the others is

.. math:: \sum_j \frac{\lambda_j}{\lambda_j + \kappa} + \frac\delta\kappa = n, \qquad
          L_j = \frac{\lambda_j}{\lambda_j + \kappa}, \qquad
          \mathcal E = \frac{n}{n - \sum_j L_j^2}\Big(\sum_j (1 - L_j)^2 v_j^2 + \sigma^2\Big).

This is the error over all points, of a pool the n samples included. Theirs is
:math:`(\delta/n\kappa)^2\mathcal E`, so what is left for the other points of a pool is known too. In kernelscope's
convention :math:`(K + n\lambda I)\alpha = y` the ridge is :math:`\delta = n\lambda`. Targets of several outputs are
averaged over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from ..arguments import as_count, as_whole, what_came
from ..decomposition.stochastic.kernel import PathKernel
from ..errors import DataError, NonFiniteError
from ..operator import KernelOperator
from ..result import Check, CheckRow, Result, as_float64

if TYPE_CHECKING:
    import pandas as pd

#: Below which share of the largest eigenvalue, times the number of points, one is rounding.
ROUNDED = 1e-15


@dataclass(frozen=True, eq=False, repr=False)
class Eigenlearning(Result):
    r"""The expected test error of a kernel regression, at some numbers of samples.

    Attributes:
        sizes: The numbers n of samples, ascending, with shape (k,).
        error: The expected mean squared error over all points, samples included, with shape (k,).
        kappa: :math:`\kappa` at each, with shape (k,); 0 where the regression interpolates all modes.
        learned: :math:`L_j` of each mode at each size, with shape (k, N).
        values: The eigenvalues :math:`\lambda_j` of K/N, descending, with shape (N,).
        energies: :math:`v_j^2`, the mean squared target along each mode, with shape (N,).
        delta: The ridge :math:`\delta` at each size, with shape (k,).
        noise: The variance :math:`\sigma^2` of the noise of targets.
    """

    sizes: Tensor
    error: Tensor
    kappa: Tensor
    learned: Tensor
    values: Tensor
    energies: Tensor
    delta: Tensor
    noise: float
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> Tensor:
        r"""The expected error on the samples, :math:`(\delta/n\kappa)^2\mathcal E`, with shape (k,)."""
        return torch.where(self.kappa > 0, (self.delta / (self.sizes * self.kappa)).square() * self.error, 0.0)

    @property
    def unseen(self) -> Tensor:
        """The expected error on the points of the pool that are no samples, with shape (k,)."""
        count = float(len(self.values))
        return torch.stack([torch.as_tensor(unseen_error(e, int(n), count, t)) for e, n, t in zip(
            self.error.tolist(), self.sizes.tolist(), self.training.tolist(), strict=True)])

    def said(self) -> str:
        """The error that is expected, in words."""
        whole = float(self.energies.sum()) + self.noise
        at = f"at {int(self.sizes[-1]):,} samples the expected mean squared error is {float(self.error[-1]):.3g}"
        share = f", {float(self.error[-1]) / whole:.0%} of the targets’ energy" if whole else ""
        first = (f"; it was {float(self.error[0]):.3g} at {int(self.sizes[0]):,}" if len(self.sizes) > 1 else "")
        return (f"{at}{share}{first}; {float(self.learned[-1].sum()):.3g} of {len(self.values):,} modes are learned")

    def summary(self) -> str:
        return f"Eigenlearning({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each number of samples."""
        import pandas as pd

        return pd.DataFrame({"samples": self.sizes.long().tolist(), "expected error": self.error.tolist(),
                             "of unseen points": self.unseen.tolist(), "of samples": self.training.tolist(),
                             "kappa": self.kappa.tolist(), "learned modes": self.learned.sum(1).tolist(),
                             "ridge": self.delta.tolist()})

    def check(self) -> Check:
        """Whether the number of samples is shared out among modes and ridge, and the pool is large enough."""
        whole = self.learned.sum(1) + torch.where(self.kappa > 0, self.delta / self.kappa, 0.0)
        gap = float(torch.where(self.kappa > 0, (whole - self.sizes).abs() / self.sizes, 0.0).max())
        share = float(self.sizes[-1]) / len(self.values)
        return Check((
            CheckRow("conservation", "pass" if gap <= 1e-8 else "fail", gap, 1e-8,
                     f"Learnabilities and ridge add up to the number of samples, up to {gap:.1e} of it."),
            CheckRow("pool", "pass" if share <= 0.5 else "warn", share, 0.5,
                     f"The largest number of samples is {share:.0%} of the pool; eigenvalues of a pool stand for those "
                     "of all points where it is much larger than the samples."),
        ))


def eigenlearning(kernel: Tensor | PathKernel | KernelOperator, y: Tensor, n: int | Sequence[int], *,
                  ridge: float = 0.0, noise: float = 0.0) -> Eigenlearning:
    r"""Foretells the test error of kernel regression on n points of a pool, from the kernel of the pool.

    .. math:: \mathcal E = \frac{n}{n - \sum_j L_j^2}\Big(\sum_j (1 - L_j)^2 v_j^2 + \sigma^2\Big)

    The targets of the whole pool go into it: it says which target will be hard, and not how well an unknown one goes.

    Args:
        kernel: The kernel matrix of the pool, with shape :math:`(N, N)`; or a square :class:`PathKernel` or
            :class:`KernelOperator`.
        y: The targets of the pool, with shape :math:`(N,)` or :math:`(N, c)`, of which nothing is taken off.
        n: The number of samples, or several.
        ridge: :math:`\lambda` of :math:`(K + n\lambda I)\alpha = y`.
        noise: The variance of the noise in the targets of samples and tests beyond y.

    Raises:
        DataError: If the kernel is not one of a pool, or targets or numbers do not fit it.
        NonFiniteError: If one of them holds NaN or infinite values.

    References:
        | The Eigenlearning Framework (Simon et al., arXiv 2110.03922)
        | Spectrum Dependent Learning Curves in Kernel Regression (Bordelon, Canatar, Pehlevan, arXiv 2002.02561)

    Example:
        >>> found = eigenlearning(4 * torch.eye(4), torch.ones(4), 2)
        >>> found.learned[0].tolist(), float(found.error)         # half of each of 4 equal modes
        ([0.5, 0.5, 0.5, 0.5], 0.5)
    """
    matrix, targets = _matrix(kernel), _targets(y)
    if len(targets) != len(matrix):
        raise DataError(f"The kernel is one of {len(matrix)} points, and {len(targets)} targets came. Pass a target "
                        "for each point of the pool.")
    sizes = sorted({as_count(size, "n", least=1) for size in ([n] if as_whole(n) is not None else _several(n))})
    delta = _number(ridge, "ridge") * torch.tensor(sizes, dtype=torch.float64)
    sigma = _number(noise, "noise")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values.flip(0) / len(matrix), vectors.flip(1)
    values = torch.where(values > ROUNDED * len(matrix) * values[0].clamp(min=0), values, 0.0)
    energies = (vectors.T @ targets).square().mean(1) / len(matrix)
    each = [learnability(values, size, float(d)) for size, d in zip(sizes, delta, strict=True)]
    error = [expected_error(learned, energies, size, sigma) for size, (_, learned) in zip(sizes, each, strict=True)]
    return Eigenlearning(
        sizes=torch.tensor(sizes, dtype=torch.float64), error=torch.tensor(error, dtype=torch.float64),
        kappa=torch.tensor([kappa for kappa, _ in each], dtype=torch.float64),
        learned=torch.stack([learned for _, learned in each]), values=values, energies=energies, delta=delta,
        noise=sigma, info={"ridge": float(ridge)})


def learnability(values: Tensor, n: int, delta: float) -> tuple[float, Tensor]:
    r""":math:`\kappa` and the share :math:`L_j` of each mode that n samples learn.

    Without a ridge and with no more positive modes than samples :math:`\kappa = 0`: each of them is learned.

    Args:
        values: The eigenvalues, with shape (N,), none negative.
        n: The number of samples.
        delta: The ridge.
    """
    positive = values[values > 0]
    if not len(positive):
        return delta / n, torch.zeros_like(values)
    if delta == 0 and n >= len(positive):
        return 0.0, (values > 0).to(values)
    missing = lambda log: float((positive / (positive + 10.0**log)).sum()) + delta / 10.0**log - n
    high = torch.log10((positive.sum() + delta) / n).item()
    low = high - 1
    while missing(low) < 0:
        low -= 1
        if low < -300:
            return 0.0, (values > 0).to(values)
    kappa = 10.0 ** float(brentq(missing, low, high + 1e-9, xtol=1e-14, rtol=1e-14, maxiter=500))
    return kappa, values / (values + kappa)


def expected_error(learned: Tensor, energies: Tensor, n: int, noise: float) -> float:
    """The expected mean squared error; infinite where n samples interpolate as many modes and something is left."""
    left = float(((1 - learned).square() * energies).sum()) + noise
    room = n - float(learned.square().sum())
    if left == 0:
        return 0.0
    return left * n / room if room > 1e-12 * n else float("inf")


def unseen_error(error: float, n: int, count: float, training: float) -> float:
    """The expected error on the points of a pool of ``count`` that are no samples.

    Args:
        error: That over the whole pool.
        n: The number of samples.
        count: The number of points.
        training: The expected error on the samples.

    Example:
        >>> unseen_error(0.5, 2, 4.0, 0.0)                       # nought on half of the points
        1.0
    """
    return (count * error - n * training) / (count - n) if count > n else error


def _matrix(kernel: Any) -> Tensor:
    if isinstance(kernel, PathKernel):
        kernel = kernel.traced() if kernel.square else None
    elif isinstance(kernel, KernelOperator):
        kernel = kernel.dense() if len(kernel.shape) == 2 else None
    if not isinstance(kernel, Tensor) or kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not len(kernel):
        came = f"a tensor of shape {tuple(kernel.shape)}" if isinstance(kernel, Tensor) else what_came(kernel)
        raise DataError(f"The kernel of a pool is a square matrix with a row for each of its points; {came} came. Pass "
                        "k(x), or ks.path_kernel(run, x) of one set of points.")
    matrix = as_float64(kernel)
    if not bool(matrix.isfinite().all()):
        raise NonFiniteError("The kernel of the pool holds NaN or infinite values. Look at its points.")
    if float((matrix - matrix.T).abs().max()) > 1e-6 * float(matrix.abs().max()):
        raise DataError("The kernel of a pool is symmetric, and this matrix is not. Pass the kernel of one set of "
                        "points with itself.")
    return matrix


def _targets(y: Any) -> Tensor:
    if not isinstance(y, Tensor) or y.ndim not in (1, 2) or y.is_complex():
        came = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else what_came(y)
        raise DataError(f"Targets of a pool are a tensor with shape (N,) or (N, c); {came} came. Of classes pass the "
                        "one-hot rows.")
    targets = as_float64(y).reshape(len(y), -1)
    if not bool(targets.isfinite().all()):
        raise NonFiniteError("The targets of the pool hold NaN or infinite values. Remove them, or mend them.")
    return targets


def _several(n: Any) -> list[Any]:
    if isinstance(n, str | bytes | dict) or not hasattr(n, "__iter__") or not len(list(n)):
        raise DataError(f"n is a number of samples, or several; {what_came(n)} came. Pass for example n=100.")
    return list(n)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise DataError(f"{name} must be a number from 0 on; {what_came(value)} came. Pass for example {name}=0.01.")
    return float(value)
