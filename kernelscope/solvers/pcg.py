r"""Preconditioned conjugate gradients where every point is a center: exact kernel ridge regression.

Conjugate gradients solve :math:`(S K S + \mu)\,\beta = B` for all outputs and all ridges at once: each column has steps
of its own, and what they share is the product with K, which reads the kernel matrix once. A column that is solved is
taken out of the products.

Tiles in single precision are multiplied as they are, with sums, vectors and steps in float64. What the iteration
believes to be left of the equations then parts from what is left. So it is computed anew, by a product in float64, each
time it should have fallen by a hundred, and the iteration goes on from there with the direction it had. It ends when
the residual that was measured by a product in float64 is small enough, and never by one that was only carried along.

References:
    | Methods of Conjugate Gradients for Solving Linear Systems (Hestenes and Stiefel, 1952)
    | Efficient and Reliable Iterative Methods for Linear Systems: group-wise updates (van der Vorst and Ye, 2000)
    | Flexible Conjugate Gradients (Notay, 2000)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_part, as_seed
from ..budget import as_words
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..progress import counting
from ..tiles.computed import Computed
from ..tiles.tiles import Tiles
from ..tiles.triangle import Triangle
from .base import Cost, Solver
from .low_rank import LowRank, nothing, nystrom, rpcholesky
from .problem import Problem
from .solution import Solution
from .system import System
from .watch import State, Watch

#: By how much the residual falls before it is measured, and how far a column may go on until the slowest is there.
FALL, FURTHER = 1e-2, 1e-3

#: A column is left alone when it is believed to be so much better than it has to be.
SAFE = 0.9

#: When a measured residual is not smaller than this part of the one before, rounding has the last word.
STALLED = 0.5

#: After how many products a rank that was not asked for is doubled, and about how many one expects.
PATIENCE, EXPECTED = 100, 60

#: What an intercept adds to the residual of an output is at most as much again.
BESIDE = 0.5

#: From how many products the smallest eigenvalue of a matrix that is not positive is told, and by how much a ridge that
#: is advised covers it.
LOOK, MARGIN = 20, 2.0

#: The ranks that are taken without being asked for, and the share of the memory that eigenvectors may fill.
LEAST, SHARE = 64, 0.5


@dataclass
class _Walk:
    """Where the iteration stands: all that the next product depends on."""

    x: Tensor
    rest: Tensor  # what is left of the equations
    before: Tensor  # what was left before the last step
    direction: Tensor
    along: Tensor  # the product of the residual with what the preconditioner made of it
    fresh: Tensor  # the columns that have no direction yet
    measured: Tensor  # the residual of each column, relative to its right-hand side, as it was measured last
    exact: Tensor  # whether every product is in float64
    rank: Tensor  # of the preconditioner
    since: Tensor  # the number of products when it was made
    history: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}


class PCG(Solver):
    r"""Solves :math:`(K + n\lambda W^{-1})\,\alpha = y`, all points being centers, by conjugate gradients.

    The kernel matrix is that of ``tiles`` where there are some, else it is computed, and kept as far as there is
    memory. It ends when the residual :math:`\|b - A\alpha\| / \|b\|` of every output, measured by a product in float64,
    is at most ``tolerance``; the last number of the history is that residual. Coefficients are found in float64, and
    rounded to the precision of the points when they are handed over. Of several processes each computes its
    share of the tiles, and all of them find what one process finds.

    Args:
        preconditioner: ``"nystrom"``, from one product with random columns; ``"rpcholesky"``, from as many columns of
            the matrix as its rank, for kernels that take long; or ``None`` for none.
        rank: The rank r of the preconditioner; if not given, it grows with the number of points, and is doubled where
            the iteration takes long.
        tolerance: How small the residual of every output has to be, relative to its targets.
        passes: After how many products the iteration is given up.
        seed: What the preconditioner is drawn from.

    Raises:
        DataError: If one of them is out of range.

    Example:
        >>> import torch, kernelscope as ks
        >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        >>> machine = ks.fit(ks.kernels.Laplacian(bandwidth=1.0), x, x[:, 0], ridge=1e-4, progress=False,
        ...                  solver=ks.solvers.PCG(rank=10, tolerance=1e-8))
        >>> machine.fitting.history[-1]["residual"] <= 1e-8
        True
    """

    def __init__(self, preconditioner: str | None = "nystrom", *, rank: int | None = None, tolerance: float = 1e-6,
                 passes: int = 1000, seed: int = 0):
        self.preconditioner = None if preconditioner is None else as_choice(
            preconditioner, "preconditioner", ("nystrom", "rpcholesky"))
        self.rank = None if rank is None else as_count(rank, "rank", 1)
        self.tolerance, self.passes = as_part(tolerance, "tolerance", "1e-6"), as_count(passes, "passes", 1)
        self.seed = as_seed(seed)

    def __repr__(self) -> str:
        rank = "" if self.rank is None or self.preconditioner is None else f", rank={self.rank}"
        return f"PCG({self.preconditioner!r}{rank})"

    def cost(self, problem: Problem) -> Cost:
        n, m, r = len(problem.x), _columns(problem), self._rank(problem)
        products = EXPECTED if self.preconditioner is not None else 5 * EXPECTED
        operations = products * (2.0 * n * n * m + 4.0 * n * r * m) + 2.0 * n * n * r + 12.0 * n * r * r
        memory = self._own(problem, r)
        kept = problem.tiles is not None or n * (n + 1) / 2 * problem.y.dtype.itemsize <= problem.memory - memory
        readings = float(products)
        if kept:
            readings = 1.0 if problem.tiles is None else _lacking(problem.tiles)
        # Half of the entries are computed, since the matrix is symmetric.
        return Cost(operations, memory, readings, -0.5 * n * n * readings, float(products) if kept else None)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        self._check(problem)
        watch = Watch() if watch is None else watch
        matrix = self._matrix(problem)
        system = System(problem, matrix)
        scale = system.right.norm(dim=0)
        walk = _begun(system, self._rank(problem)) if watch.kept is None else _taken_up(watch.kept, system)
        preconditioner = self._made(system, walk)
        limit = self.tolerance * (BESIDE if problem.intercept else 1.0)
        notes: list[str] = []
        with counting(self.passes, "fit", "products") as done:
            done(len(walk.history))
            while not notes and bool((walk.measured > limit).any()):
                if len(walk.history) >= self.passes:
                    _measure(system, walk, walk.measured > limit, scale)
                    notes += [self._given_up(walk, problem)] if bool((walk.measured > limit).any()) else []
                    break
                believed = _relative(walk.rest, scale)
                goal = self._goal(walk, limit)
                open_ = walk.measured > limit
                if bool((believed <= goal)[open_].all()):
                    stalled = _measure(system, walk, open_, scale)
                    if stalled and bool((walk.measured > limit).any()):
                        notes.append(_spent(walk, limit))
                else:
                    if self._late(walk, problem):
                        preconditioner = self._made(system, walk)
                    floor = torch.full_like(goal, SAFE * limit) if bool(walk.exact) else (
                        FURTHER * walk.measured).clamp(min=SAFE * limit)
                    _step(system, walk, preconditioner, (open_ & (believed > floor)).nonzero().flatten(), scale)
                done(1)
                if watch.heard(_state(system, walk)) and bool((walk.measured > limit).any()):
                    notes.append(f"Stopped after {len(walk.history)} products, as was asked; the residual was "
                                 f"{float(walk.history[-1]):.1e}.")
        if not len(walk.history):
            # Targets that are all nought were fitted before the first product.
            _measure(system, walk, torch.ones_like(walk.fresh), scale)
            watch.heard(_state(system, walk))
        alpha, b = system.solution(walk.x)
        return Solution(alpha, b, system.objective(walk.x, walk.rest), float(len(walk.history)),
                        tuple(walk.history.tolist()), tuple(notes))

    @staticmethod
    def _goal(walk: _Walk, limit: float) -> Tensor:
        """What is to be left before it is measured again."""
        enough = torch.full_like(walk.measured, SAFE * limit)
        return enough if bool(walk.exact) else (FALL * walk.measured).clamp(min=SAFE * limit)

    # -- before it begins ------------------------------------------------------------------------------------------

    def _check(self, problem: Problem) -> None:
        if not problem.square:
            raise DataError(f"{self!r} solves for coefficients on all points, and centers were given apart from them. "
                            'Leave centers out, or take solver="cg".')
        if not bool(problem.y.double().square().sum().isfinite()):
            raise NonFiniteError(f"Targets are as large as {float(problem.y.abs().max()):.1e}, and the sum of their "
                                 "squares is more than a number can be. Fit y / abs(y).max(), and multiply the values.")
        needed = self._own(problem, self._rank(problem))
        if needed > problem.memory:
            raise OutOfBudget(f"{self!r} with {len(problem.x):,} points takes {as_words(needed)} beside the kernel "
                              f"matrix, and memory allows {as_words(problem.memory)}. Take a smaller rank, fewer "
                              "ridges at a time, or raise memory.")

    def _matrix(self, problem: Problem) -> Triangle:
        if problem.tiles is not None:
            if isinstance(problem.tiles, Tiles):
                problem.tiles.build()
            return problem.tiles
        # What is left, less a tile in two precisions.
        room = int(problem.memory - self._own(problem, self._rank(problem)))
        return Computed(problem.kernel, problem.x, memory=max(1, room))

    def _own(self, problem: Problem, rank: int) -> float:
        """The bytes of the iteration and of its preconditioner."""
        return 8.0 * len(problem.x) * (12 * _columns(problem) + (4 * rank if self.preconditioner is not None else 0))

    def _rank(self, problem: Problem) -> int:
        n = len(problem.x)
        if self.preconditioner is None:
            return 0
        if self.rank is not None:
            return min(self.rank, n)
        rank = LEAST
        while rank < 4 * n**0.5:
            rank *= 2
        return max(1, min(rank, n // 2, int(SHARE * problem.memory // (32 * n))))

    def _made(self, system: System, walk: _Walk) -> LowRank:
        rank = int(walk.rank)
        if self.preconditioner is None:
            return nothing(system)
        if self.preconditioner == "rpcholesky":
            return rpcholesky(system, rank, self.seed)
        return nystrom(system, rank, self.seed)

    def _late(self, walk: _Walk, problem: Problem) -> bool:
        """Doubles a rank that was not asked for, if the iteration takes long and there is room."""
        rank = min(2 * int(walk.rank), len(problem.x) // 2)
        late = (self.rank is None and self.preconditioner is not None and rank > int(walk.rank)
                and len(walk.history) - int(walk.since) >= PATIENCE and self._own(problem, rank) <= problem.memory)
        if late:
            walk.rank, walk.since = torch.tensor(rank), torch.tensor(len(walk.history))
            walk.fresh = torch.ones_like(walk.fresh)
        return late

    # -- at the end ------------------------------------------------------------------------------------------------

    def _given_up(self, walk: _Walk, problem: Problem) -> str:
        more = ("a larger rank, " if self.preconditioner is not None else "a preconditioner, ")
        without = "" if min(problem.ridge) else " Without a ridge the matrix may have no inverse."
        return (f"After {len(walk.history)} products the residual was {float(walk.history[-1]):.1e}, and "
                f"{self.tolerance:.0e} was asked for: it has not converged. Take {more}more passes, or a larger "
                f"ridge.{without}")


def _lacking(tiles: Triangle) -> float:
    """The share of the tiles that have to be computed."""
    return tiles.missing / len(tiles.places) if isinstance(tiles, Tiles) else 0.0


def _columns(problem: Problem) -> int:
    """How many columns are solved for."""
    return len(problem.ridge) * (problem.outputs + problem.intercept)


def _begun(system: System, rank: int) -> _Walk:
    nought, m = torch.zeros_like(system.right), system.right.shape[1]
    flags = torch.ones(m, dtype=torch.bool, device=nought.device)
    # Targets that are all nought are fitted by nought.
    measured = (system.right.norm(dim=0) > 0).to(nought)
    return _Walk(nought, system.right.clone(), nought.clone(), nought.clone(), nought.new_zeros(m), flags, measured,
                 torch.tensor(system.matrix.dtype == torch.float64), torch.tensor(rank), torch.tensor(0),
                 torch.zeros(0, dtype=torch.float64))


def _taken_up(kept: dict[str, Tensor], system: System) -> _Walk:
    """A state that was kept, where it is one of these equations."""
    names = {f.name for f in fields(_Walk)}
    if not names <= set(kept) or kept["x"].shape != system.right.shape:
        raise DataError(f"The state to go on from is not of this problem and this solver: solutions of shape "
                        f"{tuple(system.right.shape)} are needed. Fit the same data with the same solver, or begin "
                        "anew.")
    return _Walk(**{name: kept[name].clone() for name in names})


def _relative(rest: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, rest.norm(dim=0) / scale.where(scale > 0, 1.0), 0.0)


def _step(system: System, walk: _Walk, preconditioner: LowRank, on: Tensor, scale: Tensor) -> None:
    """One product: the lowest point along the next direction of some columns."""
    rest, mus, tiny = walk.rest[:, on], system.mus[on], torch.finfo(walk.x.dtype).tiny
    z = preconditioner.apply(rest, mus)
    along = (rest * z).sum(0)
    # The form that bears a residual that was measured anew.
    turn = ((rest - walk.before[:, on]) * z).sum(0) / walk.along[on].clamp(min=tiny)
    p = z + torch.where(walk.fresh[on], 0.0, turn.clamp(min=0.0)) * walk.direction[:, on]
    q = system.times(p, bool(walk.exact)) + mus * p
    bend = (p * q).sum(0)
    if not bool((bend > 0).all()):
        _refuse(system, p, bend, mus, walk)
    rate = (rest * p).sum(0) / bend
    walk.x[:, on] += rate * p
    walk.before[:, on], walk.direction[:, on], walk.along[on] = rest, p, along
    walk.rest[:, on] = rest - rate * q
    walk.fresh[on] = False
    walk.history = torch.cat([walk.history, _relative(walk.rest, scale).max().view(1).cpu()])


def _measure(system: System, walk: _Walk, open_: Tensor, scale: Tensor) -> bool:
    """Takes what is left by a product in float64; says whether that is no less than before in spite of float64."""
    on = open_.nonzero().flatten()
    x = walk.x[:, on]
    walk.rest[:, on] = system.right[:, on] - system.times(x, True) - system.mus[on] * x
    found = _relative(walk.rest, scale)
    slow = bool((found > STALLED * walk.measured)[open_].any())
    stalled = slow and bool(walk.exact)
    if slow and not bool(walk.exact):
        walk.exact, walk.fresh = torch.tensor(True), torch.ones_like(walk.fresh)
    walk.measured = torch.where(open_, found, walk.measured)
    walk.history = torch.cat([walk.history, walk.measured.max().view(1).cpu()])
    return stalled


def _state(system: System, walk: _Walk) -> State:
    return State(float(len(walk.history)), float(walk.history[-1]), system.objective(walk.x, walk.rest),
                 lambda: system.solution(walk.x), walk.tensors)


def _spent(walk: _Walk, limit: float) -> str:
    return (f"The residual stays at {float(walk.measured.max()):.1e}, measured in float64, and {limit:.0e} was asked "
            "for: rounding has the last word for this matrix. Raise the ridge or the tolerance.")


def _refuse(system: System, p: Tensor, bend: Tensor, mus: Tensor, walk: _Walk) -> None:
    """Says of a matrix that is not positive by how much, and what to do.

    Raises:
        NonFiniteError: If a product is NaN or infinite.
        DataError: If the matrix is not positive.
    """
    if not bool(bend.isfinite().all()):
        raise NonFiniteError("A product with the kernel matrix is NaN or infinite. Look at the kernel's numbers and at "
                             "the points.")
    bad = int((~(bend > 0)).nonzero()[0])
    least = _least(system, p[:, bad:bad + 1])
    raise DataError(
        f"The kernel matrix is not positive: after {len(walk.history)} products with n ridge = {float(mus[bad]):.1e} a "
        f"direction has no upward curvature, and the matrix has an eigenvalue of {least:.1e} or below. Where that is "
        f"rounding, ridge={MARGIN * abs(least) / len(p):.1e} covers it, or tiles in float64 from points in float64; "
        "else the kernel is none of which a machine can be made."
    )


def _least(system: System, start: Tensor) -> float:
    """About the smallest eigenvalue of the matrix, from some products by the method of Lanczos."""
    basis, products = start / start.norm(), start.new_zeros(len(start), 0)
    for _ in range(min(LOOK, len(start))):
        products = torch.cat([products, system.times(basis[:, -1:], True)], 1)
        fresh = products[:, -1:]
        # Twice, because what is left after the first time may be as small as its rounding.
        for _ in range(2):
            fresh = fresh - basis @ (basis.T @ fresh)
        if not float(fresh.norm()) > 1e-12 * float(products.norm()):
            break
        basis = torch.cat([basis, fresh / fresh.norm()], 1)
    inner = basis[:, :products.shape[1]].T @ products
    return float(torch.linalg.eigvalsh((inner + inner.T) / 2)[0])
