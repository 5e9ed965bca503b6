r"""What wide networks give at test points, with how far they differ from each other.

A kernel is the covariance of a Gaussian process. Infinitely wide networks are one before training, and stay one while
gradient flow trains them: what is known of outputs at any time is a mean and a covariance, from kernel matrices alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_switch, what_came
from ..budget import as_bytes, as_words
from ..data.points import Points
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..kernels.base import Kernel
from ..kernels.infinite import Serial
from ..machine.checking import look_at, usable
from ..machine.fit import fit
from ..machine.reading import checked_ridges, look_over, points_and_targets
from ..progress import telling
from ..solvers import PCG
from .dynamics import Answer, Matrices, along, at_the_end, combined
from .result import Posterior

#: How small the residual of equations is that are solved by conjugate gradients.
TOLERANCE = 1e-8

#: What is asked of a network.
ASKED = ("nngp", "ensemble", "ntkgp")


@torch.no_grad()
def posterior(prior: Serial | Kernel | Sequence[Kernel], x: Any, y: Any, x_test: Any, *, ridge: float,
              of: str | None = None, time: float | Sequence[float] | None = None, covariance: bool = True,
              memory: int | str = "4GB", tiles: str | os.PathLike[str] | None = None,
              progress: bool | None = None) -> Posterior:
    r"""The mean and the covariance of outputs at test points, after data.

    With kernels K of the start and T of training, :math:`A = T_{xx} + n \lambda I` and :math:`S = T_{zx} A^{-1}`,

    .. math:: \text{mean} = S y, \qquad
              \text{covariance} = K_{zz} + S K_{xx} S^T - S K_{xz} - K_{zx} S^T \quad \text{for } \texttt{ensemble},

    and for a Gaussian process, whose T is K and whose targets come with a noise of variance :math:`n \lambda`, the
    covariance is :math:`K_{zz} - K_{zx} A^{-1} K_{xz}`.

    Args:
        prior: A network of infinite width; or a symmetric kernel, the covariance of a Gaussian process; or two of
            them, K and T, for an ensemble that starts with the one and learns by the other.
        x: The samples, n of them.
        y: Their targets, with shape (n,) or (n, c); numbers are taken as they are.
        x_test: The test points, q of them.
        ridge: :math:`\lambda`, from 0 on: the noise of targets has the variance :math:`n \lambda`.
        of: Of a network, ``"nngp"``, what a Bayesian believes; at finite times, networks whose readout alone is
            trained, on targets with a noise of their own; ``"ensemble"``, networks all of whose parameters are
            trained, each from a random start of its own; or ``"ntkgp"``, a Gaussian process whose covariance is the
            tangent kernel, with the means of the ensemble. If not given, the first.
        time: How long gradient flow has trained on :math:`\frac{1}{2n} \sum_i |f(x_i) - y_i|^2 + \frac\lambda2
            |\theta - \theta_0|^2`, which is the learning rate times the number of steps; or several times, at once.
            ``None`` for the end. (``torch.nn.functional.mse_loss`` of c outputs is 2/c of the first term.)
        covariance: Whether covariances are computed; means alone take one equation for each output.
        memory: About how much may be used, a number of bytes or a size such as ``"4GB"``. What training ends at is
            computed by conjugate gradients where matrices do not fit; finite times need them.
        tiles: A folder to keep the kernel matrix in, where the kernel takes long or the matrix does not fit: equations
            are then solved by conjugate gradients, and a later call with other test points reads it again.
        progress: Whether a bar is shown; on a terminal or in a notebook, and for what takes long, if not given.

    Raises:
        DataError: If shapes, numbers or kernels cannot be used, or the matrix is singular and the ridge nought.
        NonFiniteError: If a point, a target or a kernel value is NaN or infinite.
        OutOfBudget: If it does not fit into ``memory``.

    References:
        | Deep Neural Networks as Gaussian Processes (Lee et al., 2018)
        | Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent (Lee et al., 2019)
        | Bayesian Deep Ensembles via the Neural Tangent Kernel (He et al., 2020)

    Example:
        >>> import torch, kernelscope as ks
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> k = ks.kernels.Gaussian(bandwidth=1.0)
        >>> found = ks.posterior(k, x, x[:, 0], torch.tensor([[1.0], [9.0]], dtype=torch.float64), ridge=0.0)
        >>> found.mean.round(decimals=6).tolist(), found.std.round(decimals=6).tolist()
        ([[1.0], [0.0]], [0.0, 1.0])
    """
    kernels = _kernels(prior, of)
    times = _times(time)
    noise_free, wanted, room = checked_ridges(ridge), as_switch(covariance, "covariance"), as_bytes(memory)
    if len(noise_free) != 1:
        raise DataError(f"A posterior has one ridge; {len(noise_free)} came. Call posterior for each.")
    points, targets = points_and_targets(kernels.start, x, y)
    kernels = kernels.fitted(points)
    test = kernels.start.points(x_test)
    for some in (points, test):
        look_over(kernels.start, some, None)
    for kernel in {kernels.start, kernels.tangent}:
        like = look_at(kernel, test, points)
    n = len(points)
    rhs = targets.to(like.device, torch.float64).view(n, -1)
    fits = _fits(n, len(test), rhs.shape[1], kernels.single, wanted, time is None, room)
    if tiles is not None and time is not None:
        raise DataError("Finite times need all eigenvectors of a matrix, and tiles are for one that is multiplied "
                        "alone. Leave out tiles, or time.")
    with telling(progress):
        if not fits or tiles is not None:
            found = _iterated(kernels, points, rhs, test, noise_free[0], wanted, room, tiles, progress)
        else:
            matrices = kernels.matrices(points, test, wanted)
            noise = n * noise_free[0]
            found = at_the_end(matrices, rhs, noise) if time is None else along(matrices, rhs, noise, times)
        before = kernels.start.diagonal(test)
    if time is not None and not _several(time):
        found = found._replace(mean=found.mean[0], covariance=None if found.covariance is None else found.covariance[0])
    _check_finite(found)
    return Posterior(
        mean=found.mean.cpu(), covariance=None if found.covariance is None else found.covariance.cpu(),
        prior=before.double().cpu(), evidence=found.evidence,
        times=torch.tensor(times, dtype=torch.float64),
        info={"of": kernels.name, "samples": n, "ridge": noise_free[0], "residual": found.residual,
              "precision": "float64" if like.dtype == torch.float64 else "float32", "kernel": repr(prior)[:1000]})


@dataclass(frozen=True, eq=False)
class _Kernels:
    """The kernel of the start and the one of training, which may be the same, and the network they are of."""

    name: str
    start: Kernel
    tangent: Kernel
    net: Serial | None = None

    @property
    def single(self) -> bool:
        return self.start is self.tangent

    def fitted(self, points: Points) -> _Kernels:
        start = usable(self.start, points)
        return _Kernels(self.name, start, start if self.single else usable(self.tangent, points), self.net)

    def matrices(self, x: Points, z: Points, wanted: bool) -> Matrices:
        """All that is needed of both."""
        start, tangent = self._both(x, None)
        start_cross, tangent_cross = self._both(x, z)
        return Matrices(start, tangent, start_cross, tangent_cross, self.start(z).double() if wanted else None)

    def _both(self, x: Points, z: Points | None) -> tuple[Tensor, Tensor]:
        if self.single:
            found = self.start(x, z).double()
            return found, found
        if self.net is not None:
            # Both come from one pass through the layers.
            nngp, ntk = self.net.both(x, z)
            return nngp.double(), ntk.double()
        return self.start(x, z).double(), self.tangent(x, z).double()


def _kernels(prior: Any, of: str | None) -> _Kernels:
    if isinstance(prior, Serial):
        asked = as_choice("nngp" if of is None else of, "of", ASKED)
        if asked == "ensemble":
            return _Kernels(asked, prior.nngp, prior.ntk, prior)
        own = prior.nngp if asked == "nngp" else prior.ntk
        return _Kernels(asked, own, own)
    if of is not None:
        raise DataError(f"of= is asked of a network; {what_came(prior)} came, and of={what_came(of)}. Leave it out, or "
                        "pass a network of ks.kernels.infinite.")
    if isinstance(prior, tuple | list) and len(prior) == 2:
        start, tangent = (usable(kernel, None) for kernel in prior)
        return _Kernels("ensemble", start, tangent)
    if not isinstance(prior, Kernel):
        raise DataError(f"A posterior is of a network of ks.kernels.infinite, or of a kernel, or of two; "
                        f"{what_came(prior)} came. Pass for example ks.kernels.Gaussian(bandwidth=1.0).")
    kernel = usable(prior, None)
    return _Kernels("gp", kernel, kernel)


def _fits(n: int, q: int, c: int, single: bool, wanted: bool, end: bool, room: int) -> bool:
    """Whether all matrices fit into memory.

    Raises:
        OutOfBudget: If not even what every way needs does.
    """
    least = (3 * q * q if wanted else 0) + 4 * n * q + 3 * n * c
    whole = least + (3 if end else 5) * n * n + (0 if single else n * n)
    if 8 * least > room:
        raise OutOfBudget(f"Covariances of {q:,} test points after {n:,} samples take {as_words(8 * least)}, and "
                          f"memory allows {as_words(room)}. Pass fewer test points at a time, or covariance=False.")
    if 8 * whole > room and not end:
        raise OutOfBudget(f"Finite times need all eigenvectors of {n:,} samples, {as_words(8 * whole)}, and memory "
                          f"allows {as_words(room)}. Pass time=None, fewer samples, or raise memory.")
    return 8 * whole <= room


def _iterated(kernels: _Kernels, points: Points, y: Tensor, test: Points, ridge: float, wanted: bool,
              room: int, tiles: str | os.PathLike[str] | None, progress: bool | None) -> Answer:
    """The end of training where matrices are not solved at once: each test point is one more right-hand side."""
    c = y.shape[1]
    cross = kernels.tangent(points, test).double()
    rhs = torch.cat([y, cross], 1) if wanted else y
    try:
        machine = fit(kernels.tangent, points, rhs, ridge=ridge, solver=PCG(tolerance=TOLERANCE), memory=room,
                      tiles=tiles, progress=progress)
    except OutOfBudget as error:
        fewer = "fewer test points at a time, covariance=False" if wanted else "fewer targets at a time"
        raise OutOfBudget(f"The matrices of {len(points):,} samples do not fit into memory, {as_words(room)}, nor do "
                          f"{rhs.shape[1]:,} equations that are solved without them. Pass {fewer}, or raise "
                          "memory.") from error
    weights = machine.coefficients.double()
    rest = kernels.tangent.matmul(points, None, weights).double() + len(points) * ridge * weights - rhs
    residual = float((rest.norm(dim=0) / rhs.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)).max())
    covariance = None
    if wanted:
        before, s = kernels.start(test).double(), weights[:, c:]
        if kernels.single:
            seen = cross.T @ s
            covariance = before - (seen + seen.T) / 2
        else:
            covariance = combined(before, s.T @ kernels.start.matmul(points, None, s).double(),
                                  s.T @ kernels.start(points, test).double())
    return Answer(cross.T @ weights[:, :c], covariance, None, residual)


def _times(time: Any) -> list[float]:
    if time is None:
        return [math.inf]
    several = time.tolist() if hasattr(time, "tolist") else time
    several = list(several) if isinstance(several, Sequence) and not isinstance(several, str) else [several]
    odd = [t for t in several if isinstance(t, bool) or not isinstance(t, int | float) or not t >= 0]
    if odd or not several:
        raise DataError(f"A time is a number from 0 on; {what_came(odd[0]) if odd else 'an empty list'} came. Pass for "
                        "example time=100.0, several, or None for the end of training.")
    return [float(t) for t in several]


def _several(time: Any) -> bool:
    """Whether times came, and not one number, which a tensor or an array may be too."""
    return isinstance(time.tolist() if hasattr(time, "tolist") else time, Sequence)


def _check_finite(found: Answer) -> None:
    whole: Callable[[Tensor | None], bool] = lambda t: t is None or bool(t.isfinite().all())
    if not (whole(found.mean) and whole(found.covariance)):
        raise NonFiniteError("A mean or a covariance is NaN or infinite. Look at the kernel's values for the points, "
                             "and raise the ridge.")
