r"""F9: systems of every condition, as LAPACK tests its solvers.

The nine kinds are those that LAPACK's tests of Cholesky take: diagonal, well conditioned, three with a row and column
of nought, two whose condition is near the end of the precision, and two scaled near underflow and overflow. A machine
of all points and no ridge minimises :math:`|K\alpha - y|^2`, so the gradient tells how well it was solved:

.. math:: \frac{\|K (K \alpha - y)\|}{n \epsilon \|K\| (\|K\| \|\alpha\| + \|y\|)} < 30
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

import kernelscope as ks

from ...errors import KernelscopeError
from ...result import Result
from ..judging import Case, Cases, must_hold, must_refuse
from ..row import TYPED, Done, Silent, refused
from ..subjects import points

#: Below which ratio a solution is one; LAPACK's own threshold for linear systems.
THRESHOLD = 30.0

SIZES = (1, 2, 3, 5, 10, 20, 50)
TYPES = ("diagonal", "condition 2", "first row nought", "last row nought", "middle row nought",
         "condition sqrt(0.1/eps)", "condition 0.1/eps", "near underflow", "near overflow")


def matrix(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    """A positive semidefinite matrix of a kind, with shape (n, n)."""
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    condition = {"condition sqrt(0.1/eps)": math.sqrt(0.1 / eps), "condition 0.1/eps": 0.1 / eps}.get(kind, 2.0)
    values = condition ** -torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.ones(1).double()
    basis = torch.eye(n).double() if kind == "diagonal" else torch.linalg.qr(points(n, n)).Q
    made = basis @ torch.diag(values) @ basis.T
    made = (made + made.T) / 2
    row = {"first row nought": 0, "last row nought": n - 1, "middle row nought": n // 2}.get(kind)
    if row is not None:
        made[row, :] = made[:, row] = 0.0
    scale = {"near underflow": tiny / eps, "near overflow": math.sqrt(eps) / tiny * 0.1 * math.sqrt(eps)}.get(kind, 1.0)
    return (made * scale).to(dtype)


def ratio(K: Tensor, alpha: Tensor, y: Tensor) -> float:
    """How far a solution is from the equations it should solve, in units of rounding."""
    eps, n = torch.finfo(K.dtype).eps, len(K)
    K, alpha, y = K.double(), alpha.double(), y.double()
    size = K.abs().max()
    if not float(size):
        return 0.0 if not bool(alpha.any()) else math.inf
    unit, weights = K / size, alpha * size
    gradient = (unit @ (unit @ weights - y)).norm()
    norm = torch.linalg.matrix_norm(unit, 1)
    return float(gradient / (n * eps * norm * (norm * weights.norm() + y.norm())))


def solved(K: Tensor, solver: str) -> Done | None:
    """Whether a machine of all points solves its equations, or says that it does not."""
    n = len(K)
    y = points(n, 1, seed=1)[:, 0].to(K.dtype)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            machine = ks.fit(ks.kernels.Precomputed(K), torch.arange(n)[:, None], y, solver=solver, progress=False)
    except KernelscopeError as error:
        return refused(error)
    notes = [] if machine.fitting is None else machine.fitting.notes
    return verdict(K, machine.coefficients.flatten(), y, [*notes, *(str(w.message) for w in told)])


def verdict(K: Tensor, alpha: Tensor, y: Tensor, told: list[str]) -> Done | None:
    """A wrong solution is silent if nothing was told."""
    found = ratio(K, alpha, y)
    if found < THRESHOLD:
        return None
    if not told:
        raise Silent(f"the ratio is {found:.3g}, and no note says so")
    return TYPED


def indefinite(n: int, dtype: torch.dtype) -> Tensor:
    """A symmetric matrix whose last eigenvalue is -1, with shape (n, n)."""
    basis = torch.linalg.qr(points(n, n)).Q
    made = basis @ torch.diag(torch.cat([torch.ones(n - 1), -torch.ones(1)]).double()) @ basis.T
    return ((made + made.T) / 2).to(dtype)


def lopsided(n: int, dtype: torch.dtype) -> Tensor:
    """A positive definite matrix one of whose corners is another one's, with shape (n, n)."""
    made = matrix("condition 2", n, dtype)
    made[0, -1] += 0.1
    return made


def told(K: Tensor, solver: str) -> Done:
    """What is no kernel matrix is refused, or a note says what became of it.

    Raises:
        Silent: If it is taken for one.
    """
    n = len(K)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            y = points(n, 1, seed=1)[:, 0].to(K.dtype)
            machine = ks.fit(ks.kernels.Precomputed(K), torch.arange(n)[:, None], y, solver=solver, ridge=1e-3,
                             progress=False)
    except KernelscopeError as error:
        return refused(error)
    if not (said or (machine.fitting is not None and machine.fitting.notes)):
        raise Silent("a machine was made, and no note says that this is no kernel matrix")
    return TYPED


class Conditioning(Cases):
    """Nine kinds, seven sizes and two precisions; conjugate gradients for the larger ones too; and what is no kernel.

    A matrix is no kernel where it is not symmetric, or has a negative eigenvalue, or no points at all.
    """

    id, sentence = "F9", "Systems have any condition, down to singular ones and numbers near under- and overflow."

    def cases(self) -> Iterator[Case]:
        for dtype in (torch.float32, torch.float64):
            for kind in TYPES:
                for n in SIZES:
                    K = matrix(kind, n, dtype)
                    yield f"{kind}, {n} rows, {dtype}, direct", partial(solved, K, "direct")
                    if n in (10, 50):
                        yield f"{kind}, {n} rows, {dtype}, cg", partial(solved, K, "cg")
            for solver in ("direct", "cg"):
                for n in SIZES:
                    yield f"indefinite, {n} rows, {dtype}, {solver}", partial(told, indefinite(n, dtype), solver)
                    if n > 1:
                        yield f"not symmetric, {n} rows, {dtype}, {solver}", partial(told, lopsided(n, dtype), solver)
                yield f"no rows, {dtype}, {solver}", partial(told, torch.zeros(0, 0, dtype=dtype), solver)
            for name, ask in (("spectrum", ks.spectrum), ("eigenlearning", _eigenlearning)):
                yield f"{name}, indefinite, {dtype}", partial(must_hold, partial(_warned, ask, indefinite(5, dtype)))
                yield f"{name}, not symmetric, {dtype}", partial(must_refuse, partial(ask, lopsided(5, dtype)))
                yield f"{name}, no rows, {dtype}", partial(must_refuse, partial(ask, torch.zeros(0, 0, dtype=dtype)))


def _eigenlearning(K: Tensor) -> ks.Eigenlearning:
    return ks.eigenlearning(K, points(len(K), 1)[:, 0].to(K.dtype), 1, ridge=1e-3)


def _warned(ask: Callable[[Tensor], Result], K: Tensor) -> bool | str:
    found = ask(K)
    return "of no kernel" in repr(found) or f"nobody says that it is no kernel: {found}"


ROWS = (Conditioning,)
