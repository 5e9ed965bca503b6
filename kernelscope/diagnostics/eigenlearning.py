r"""The test error of kernel regression, foretold from the spectrum of the kernel on a pool of points.

On a pool of N points with targets the kernel has the eigenvalues :math:`\lambda_j` of :math:`K/N`, and the target the
coefficients :math:`v_j = \langle u_j, y\rangle/\sqrt N`. A regression on n random points of the pool learns the share
:math:`L_j` of mode j, and its expected error on the others is

.. math:: \sum_j \frac{\lambda_j}{\lambda_j + \kappa} + \frac\delta\kappa = n, \qquad
          L_j = \frac{\lambda_j}{\lambda_j + \kappa}, \qquad
          \mathcal E = \frac{n}{n - \sum_j L_j^2}\Big(\sum_j (1 - L_j)^2 v_j^2 + \sigma^2\Big).

This is the error over all points of a pool that samples are drawn from with replacement, and so that of fresh points
where the pool is much larger than n. In kernelscope's convention :math:`(K + n\lambda I)\alpha = y` the ridge is
:math:`\delta = n\lambda`. Targets of several outputs are averaged over them.

Of n samples drawn without replacement the error on the other points is known too. A random part of a matrix is a free
compression of it: with :math:`f = n/N`, :math:`w_j = 1/(N\lambda_j + s)`, :math:`g = \frac1N\sum_j w_j` and noise as
:math:`\sigma^2/N` more in each :math:`v_j^2`,

.. math:: s = \delta + \frac{1 - f}{g}, \qquad \frac1{s'} = 1 - \frac{1 - f}{g^2}\,\frac1N\sum_j w_j^2, \qquad
          \mathcal E_\text{unseen} = \frac{f s'}{g^2}\sum_j w_j^2 v_j^2, \qquad
          \mathcal E_\text{training} = \frac{\delta^2 s'}{f}\sum_j w_j^2 v_j^2 .

The inverse :math:`(K + \delta + D)^{-1}` with D = 0 at the samples and :math:`D \to \infty` at the others is
:math:`(K + s)^{-1}` in the mean; its derivatives by :math:`\delta` and by 1/D are the two errors. For
:math:`N \to \infty` the one at unseen points is :math:`\mathcal E`. Without a ridge and with r < n positive modes
:math:`s = 0` and :math:`\delta/s = (n - r)/(N - r)`: what lies beyond the modes is not interpolated, and the error of
the samples is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from ..arguments import as_count, as_whole, what_came
from ..decomposition.stochastic.kernel import PathKernel
from ..decomposition.wording import counted
from ..errors import DataError, NonFiniteError
from ..operator import KernelOperator
from ..result import Check, CheckRow, Result, as_float64
from ..text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: Below which share of the largest eigenvalue, times the number of points, one is rounding.
ROUNDED = 1e-15

#: Which share of the size of all eigenvalues may be negative by rounding.
CLIPPED = 1e-8


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
        """The expected error on the samples, against their targets with the noise they came with, with shape (k,)."""
        return self._of_pool[:, 0]

    @property
    def unseen(self) -> Tensor:
        """The expected error on the points of the pool that are no samples, with shape (k,)."""
        return self._of_pool[:, 1]

    @property
    def _of_pool(self) -> Tensor:
        return torch.tensor([pool_errors(self.values, self.energies, n, delta, float(len(self.values)), self.noise)
                             for n, delta in zip(self.sizes.tolist(), self.delta.tolist(), strict=True)],
                            dtype=torch.float64)

    def said(self) -> str:
        """The error that is expected, in words."""
        whole = float(self.energies.sum()) + self.noise
        number = lambda value: with_minus(f"{float(value):.3g}")
        at = f"at {counted(int(self.sizes[-1]), 'sample')} the expected mean squared error is {number(self.error[-1])}"
        share = f", {float(self.error[-1]) / whole:.0%} of the targets’ energy" if whole else ""
        first = f"; it was {number(self.error[0])} at {int(self.sizes[0]):,}" if len(self.sizes) > 1 else ""
        learned = f"{number(self.learned[-1].sum())} of {counted(len(self.values), 'mode')} are learned"
        clipped = float(self.info.get("clipped", 0.0))
        none = f"; the matrix is that of no kernel, {clipped:.0%} of its eigenvalues’ size was negative and taken as 0"
        return f"{at}{share}{first}; {learned}{none if clipped > CLIPPED else ''}"

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
        share, clipped = float(self.sizes[-1]) / len(self.values), float(self.info.get("clipped", 0.0))
        return Check((
            CheckRow("conservation", "pass" if gap <= 1e-8 else "fail", gap, 1e-8,
                     f"Learnabilities and ridge add up to the number of samples, up to "
                     f"{with_minus(f'{gap:.1e}')} of it."),
            CheckRow("positive", "pass" if clipped <= CLIPPED else "warn", clipped, CLIPPED,
                     "The kernel is positive semi-definite." if clipped <= CLIPPED else
                     f"The kernel is not positive semi-definite: {clipped:.1%} of the size of its eigenvalues is "
                     "negative and was taken as 0, so the numbers are those of another kernel."),
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
        n: The number of samples, or several, of which none is more than the pool has.
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
    if sizes[-1] > len(matrix):
        raise DataError(f"The samples are drawn from the pool, and n={sizes[-1]} came for a pool of {len(matrix)}. "
                        "Pass a larger pool, or fewer samples.")
    delta = _number(ridge, "ridge") * torch.tensor(sizes, dtype=torch.float64)
    sigma = _number(noise, "noise")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values.flip(0) / len(matrix), vectors.flip(1)
    whole, negative = float(values.abs().sum()), float(values.clamp(max=0).abs().sum())
    values = torch.where(values > ROUNDED * len(matrix) * values[0].clamp(min=0), values, 0.0)
    energies = (vectors.T @ targets).square().mean(1) / len(matrix)
    each = [learnability(values, size, float(d)) for size, d in zip(sizes, delta, strict=True)]
    error = [expected_error(learned, energies, size, sigma) for size, (_, learned) in zip(sizes, each, strict=True)]
    return Eigenlearning(
        sizes=torch.tensor(sizes, dtype=torch.float64), error=torch.tensor(error, dtype=torch.float64),
        kappa=torch.tensor([kappa for kappa, _ in each], dtype=torch.float64),
        learned=torch.stack([learned for _, learned in each]), values=values, energies=energies, delta=delta,
        noise=sigma, info={"ridge": float(ridge), "clipped": negative / whole if whole else 0.0})


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


def pool_errors(values: Tensor, energies: Tensor, n: float, delta: float, count: float,
                noise: float) -> tuple[float, float]:
    """The expected errors on n samples of a pool, drawn without replacement, and on its other points.

    Args:
        values: The eigenvalues of K/N, none negative; those beyond them are 0.
        energies: The mean squared target along each.
        n: The number of samples.
        delta: The ridge.
        count: The number N of points of the pool.
        noise: The variance of noise, of which samples and the other points have each their own.

    Example:
        >>> pool_errors(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 1, 0.0, 2.0, 0.0)     # all is learned
        (0.0, 0.0)
    """
    values, energies = values.double(), energies.double() + noise / count
    beyond = count - len(values)                                    # modes of no eigenvalue that are not listed
    s = _offset(values, beyond, n, delta, count)
    nulls = beyond + int((values == 0).sum())
    # Shares of the modes that are not learned, up to a factor that the errors do not have.
    if s > 0:
        rest, ratio, outside = s / (count * values + s), delta / s, 1.0
    elif nulls:
        rest, ratio, outside = (values == 0).to(values), (n - count + nulls) / nulls, 1.0
    else:
        rest, ratio, outside = 1 / values, 0.0, 0.0
    mean = (float(rest.sum()) + beyond * outside) / count
    square = (float(rest.square().sum()) + beyond * outside**2) / count
    left = float((rest.square() * energies).sum()) + beyond * outside**2 * noise / count
    f = n / count
    room = 1 - (1 - f) * square / mean**2
    if left == 0:
        return 0.0, 0.0
    if room <= 1e-12:
        return 0.0, float("inf")
    return ratio**2 * left / (f * room), f * left / (room * mean**2)


def _offset(values: Tensor, beyond: float, n: float, delta: float, count: float) -> float:
    """The s at which the modes that are not learned are as many as points of the pool that are no samples."""
    positive = count * values[values > 0]
    nulls = beyond + len(values) - len(positive)
    if n >= count:
        return delta
    # What is left open by a given s, which ascends from below 0; without a ridge it may begin above.
    missing = lambda log: (1 - delta / 10.0**log) * (
        float((10.0**log / (positive + 10.0**log)).sum()) + nulls) - (count - n)
    if delta == 0 and nulls >= count - n:
        return 0.0
    scale = float(positive.max()) if len(positive) else delta
    low, high = math.log10(delta or scale * 1e-3), math.log10(max(scale, delta)) + 1
    while missing(low) > 0:
        low -= 1
        if low < -300:
            return 0.0
    while missing(high) < 0:
        high += 1
        if high > 300:
            return 10.0**high
    return 10.0 ** float(brentq(missing, low, high, xtol=1e-14, rtol=1e-14, maxiter=500))


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
