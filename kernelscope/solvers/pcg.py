r"""Preconditioned conjugate gradients where every point is a center: exact kernel ridge regression.

:math:`(S K S + \mu)\,\beta = B` is solved for all outputs and all ridges at once, which share the products with K: each
reads the kernel matrix once.
"""

from __future__ import annotations

import torch

from ..arguments import as_choice, as_count, as_part, as_seed
from ..budget import as_words
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..progress import counting
from ..tiles.computed import Computed
from ..tiles.tiles import Tiles
from ..tiles.triangle import Triangle
from .base import Cost, Solver
from .iteration import Walk, begun, iterate, measured, taken_up
from .low_rank import LowRank, nothing, nystrom, rpcholesky
from .problem import Problem
from .solution import Solution
from .system import System
from .watch import State, Watch

#: After how many products a rank that was not asked for is doubled, and about how many one expects.
PATIENCE, EXPECTED = 100, 60

#: What an intercept adds to the residual of an output is at most as much again.
BESIDE = 0.5

#: The ranks that are taken without being asked for, and the share of the memory that eigenvectors may fill.
LEAST, SHARE = 64, 0.5


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
        walk = begun(system, self._rank(problem)) if watch.kept is None else taken_up(watch.kept, system)
        limit = self.tolerance * (BESIDE if problem.intercept else 1.0)
        with counting(self.passes, "fit", "products") as done:
            done(len(walk.history))

            def heard() -> bool:
                done(1)
                return watch.heard(_state(system, walk))

            ended = iterate(system, walk, lambda: self._made(system, walk), limit, self.passes, heard,
                            lambda: self._late(walk, problem))
        if not len(walk.history):
            # Targets that are all nought were fitted before the first product.
            measured(system, walk)
            watch.heard(_state(system, walk))
        notes = {"": [], "passes": [self._given_up(walk, problem)], "rounding": [_spent(walk, limit)],
                 "stopped": [f"Stopped after {len(walk.history)} products, as was asked; the residual was "
                             f"{float(walk.history[-1]):.1e}."]}[ended]
        alpha, b = system.solution(walk.x)
        return Solution(alpha, b, system.objective(walk.x, walk.rest), float(len(walk.history)),
                        tuple(walk.history.tolist()), tuple(notes))

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

    def _made(self, system: System, walk: Walk) -> LowRank:
        rank = int(walk.rank)
        if self.preconditioner is None:
            return nothing(system)
        if self.preconditioner == "rpcholesky":
            return rpcholesky(system, rank, self.seed)
        return nystrom(system, rank, self.seed)

    def _late(self, walk: Walk, problem: Problem) -> bool:
        """Doubles a rank that was not asked for, if the iteration takes long and there is room."""
        rank = min(2 * int(walk.rank), len(problem.x) // 2)
        late = (self.rank is None and self.preconditioner is not None and rank > int(walk.rank)
                and len(walk.history) - int(walk.since) >= PATIENCE and self._own(problem, rank) <= problem.memory)
        if late:
            walk.rank, walk.since = torch.tensor(rank), torch.tensor(len(walk.history))
            walk.fresh = torch.ones_like(walk.fresh)
        return late

    # -- at the end ------------------------------------------------------------------------------------------------

    def _given_up(self, walk: Walk, problem: Problem) -> str:
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


def _state(system: System, walk: Walk) -> State:
    return State(float(len(walk.history)), float(walk.history[-1]), system.objective(walk.x, walk.rest),
                 lambda: system.solution(walk.x), walk.tensors)


def _spent(walk: Walk, limit: float) -> str:
    return (f"The residual stays at {float(walk.measured.max()):.1e}, measured in float64, and {limit:.0e} was asked "
            "for: rounding has the last word for this matrix. Raise the ridge or the tolerance.")
