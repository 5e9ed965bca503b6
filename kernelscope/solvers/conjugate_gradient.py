r"""Preconditioned conjugate gradients for free centers: every ridge and every output from the same passes.

Each column (one output at one ridge) has conjugate gradients of its own; what they share is the pass over the points.
Every pass multiplies the direction and the point where the iteration stands, so that each step goes from the residual
as it is to the lowest point of the objective along the direction: no step can raise it, whatever rounding has done
before. The iteration ends when the falls of the last passes are negligible.

References:
    | FALKON: An Optimal Large Scale Kernel Method (Rudi et al., 2017)
    | Flexible Conjugate Gradients (Notay, 2000)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_part
from ..budget import as_words
from ..errors import DataError, OutOfBudget
from ..linalg import eigenpairs
from ..progress import counting
from .base import Cost, Solver
from .normal import KEPT, Equations
from .orthonormal import CUT, check_products
from .preconditioner import Full, Preconditioner, TwoLevel
from .problem import Problem
from .solution import Solution
from .watch import State, Watch

#: How many passes in a row must be negligible before the iteration ends.
PATIENCE = 2

#: By which part of the lowest objective a later one may be higher before rounding has spoiled the iteration.
RISE = 1e-3

#: How many columns may be multiplied twice in each pass; of more, the residual is computed afresh in some passes only.
FEW, SOMETIMES = 64, 5


@dataclass
class _Walk:
    """Where the iteration stands: all that the next pass depends on."""

    b: Tensor
    rest: Tensor  # minus half the gradient
    direction: Tensor
    before: Tensor  # the residual of the last pass
    along: Tensor  # its product with what the preconditioner made of it
    means: Tensor  # of the machine
    objective: Tensor  # of each column, after the step
    fallen: Tensor  # by the step
    nothing: Tensor  # the objective at the start
    first: Tensor  # the first of along
    low: Tensor  # the coordinates with the lowest objective that was measured
    low_means: Tensor
    lowest: Tensor
    spoiled: Tensor  # the columns that rounding has carried up again, and that rest at the lowest
    quiet: Tensor
    history: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}


class ConjugateGradient(Solver):
    """Solves by preconditioned conjugate gradients on the normal equations.

    Args:
        preconditioner: ``"full"`` keeps an orthonormal basis of the centers, ``"two-level"`` some eigenvectors.
        rank: How many eigenvectors the second keeps.
        steps: How many inner steps the second takes at most; ``None`` for as many as cost about one pass.
        tolerance: The fall of the objective in a pass, relative to the objective, that is negligible.
        passes: After how many passes the iteration is given up.

    Raises:
        DataError: If one of them is out of range.

    Example:
        >>> ConjugateGradient("two-level", rank=200)
        ConjugateGradient('two-level', rank=200)
    """

    def __init__(self, preconditioner: str = "full", *, rank: int = 100, steps: int | None = None,
                 tolerance: float = 1e-6, passes: int = 100):
        self.preconditioner = as_choice(preconditioner, "preconditioner", ("full", "two-level"))
        self.rank, self.passes = as_count(rank, "rank", 1), as_count(passes, "passes", 1)
        self.steps = None if steps is None else as_count(steps, "steps", 1)
        self.tolerance = as_part(tolerance, "tolerance", "1e-6")

    def __repr__(self) -> str:
        steps = "" if self.steps is None else f", steps={self.steps}"
        how = "" if self.preconditioner == "full" else f", rank={self.rank}{steps}"
        return f"ConjugateGradient({self.preconditioner!r}{how})"

    def cost(self, problem: Problem) -> Cost:
        n, p = problem.shape
        m, item, passes = problem.outputs * len(problem.ridge), problem.y.dtype.itemsize, 12.0
        walk = 12.0 * p * m * item
        if self.preconditioner == "full":
            sample = min(n, Full.SAMPLE * p)
            return Cost(passes * 8.0 * n * p * m + 4.0 * sample * p * p + 40.0 * p**3, 4.0 * p * p * item + walk,
                        passes + sample / n)
        inner = 4.0 * self._steps(problem) * m * p * p * passes
        return Cost(passes * 8.0 * n * p * m + inner, 6.0 * p * min(self.rank, p) * 8 + walk, passes,
                    2.0 * self._steps(problem) * p * p * passes)

    def solve(self, problem: Problem, watch: Watch | None = None, start: Tensor | None = None) -> Solution:
        """The solution for each ridge of the problem.

        Args:
            problem: The problem.
            watch: Hears of each pass, and holds the state to go on from.
            start: Coefficients to begin with, with shape (r, p, c), as another solver found them; without them, nought.

        Raises:
            NonFiniteError: If the kernel gives NaN or infinite values.
            DataError: If the kernel is not symmetric, or what was kept is of another problem.
            OutOfBudget: If it does not fit into the problem's memory; said before the first pass.
        """
        self._check_budget(problem)
        watch = Watch() if watch is None else watch
        preconditioner = self._prepared(problem)
        kept = None if watch.kept is None else _checked(watch.kept, problem, preconditioner)
        equations = Equations(problem, preconditioner, start, kept)
        walk = _begun(equations) if kept is None else _Walk(**{f.name: kept[f.name].clone() for f in fields(_Walk)})
        notes: list[str] = []
        with counting(self.passes, "fit", "pass") as done:
            done(len(walk.history) - 1)
            while int(walk.quiet) < PATIENCE and not notes:
                if len(walk.history) >= self.passes:
                    notes += [self._given_up(problem, walk)] if not walk.quiet else []
                    break
                self._step(equations, walk)
                done(1)
                if watch.heard(self._state(equations, walk)) and int(walk.quiet) < PATIENCE:
                    notes.append(f"Stopped after {len(walk.history)} passes, as was asked; in the last one the "
                                 f"objective fell by {_share(problem, walk):.1e} of itself.")
        if bool(walk.spoiled.any()):
            kind = str(problem.y.dtype).removeprefix("torch.")
            notes.append(f"Rounding to {kind} carried the objective up again, so the machine with the lowest one is "
                         "given. Pass points in double precision, take EigenPro, or raise the ridge.")
        state = self._state(equations, walk)
        coefficients, intercepts = state.coefficients()
        assert state.objective is not None
        return Solution(coefficients, intercepts, state.objective, state.passes, tuple(walk.history.tolist()),
                        (*preconditioner.notes, *notes))

    def _step(self, equations: Equations, walk: _Walk) -> None:
        """One pass: the lowest point along the next direction."""
        preconditioner, tiny = equations.preconditioner, torch.finfo(walk.b.dtype).tiny
        z = preconditioner.apply(walk.rest, equations.ridges)
        along = (walk.rest * z).sum(0)
        if len(walk.history) == 1:
            walk.first, walk.direction = along, z
        else:
            # The form that bears an inverse, and a residual, that change a little.
            turn = ((walk.rest - walk.before) * z).sum(0) / walk.along.clamp(min=tiny)
            direction = z + turn.clamp(min=0.0) * walk.direction
            # Where rounding has turned a direction uphill, a column begins anew.
            walk.direction = torch.where((direction * walk.rest).sum(0) > 0, direction, z)
        walk.before, walk.along, promised, brought = walk.rest, along, walk.fallen, walk.fallen
        if walk.b.shape[1] <= FEW or len(walk.history) % SOMETIMES == 0:
            look, bend = equations.look(walk.b, walk.direction)
            brought = promised + walk.objective - look.objective
            walk.rest, walk.objective, walk.means = look.rest, look.objective, look.means
            _stay_low(walk)
        else:
            bend = equations.bend(walk.direction)
        climb = (walk.rest * walk.direction).sum(0)
        # Where rounding has the last word, a column rests.
        moves = (bend.curvature > 0) & (climb > 0) & ~walk.spoiled
        rate = torch.where(moves, climb / bend.curvature.clamp(min=tiny), 0.0)
        walk.b = walk.b + rate * walk.direction
        walk.rest = walk.rest - rate * bend.product
        walk.means = walk.means + rate * bend.means
        walk.fallen = rate * climb
        walk.objective = walk.objective - walk.fallen
        residual = (along / walk.first.clamp(min=tiny)).clamp(min=0.0).sqrt().max()
        walk.history = torch.cat([walk.history, residual.view(1).to(walk.history)])
        floor = 8 * torch.finfo(walk.b.dtype).eps * walk.nothing
        enough = self.tolerance * walk.objective.clamp(min=0.0) + floor
        # A fall that was promised and did not come was rounding.
        idle = walk.spoiled | (walk.fallen <= enough) | ((brought <= enough) & (promised > enough))
        walk.quiet = walk.quiet + 1 if bool(idle.all()) else torch.zeros_like(walk.quiet)

    @staticmethod
    def _state(equations: Equations, walk: _Walk) -> State:
        b, means = walk.b, walk.means
        objective = tuple(float(part.sum()) for part in walk.objective.view(len(equations.problem.ridge), -1))
        return State(len(walk.history) + equations.preconditioner.passes, float(walk.history[-1]), objective,
                     lambda: equations.coefficients(b, means),
                     lambda: {**equations.tensors(), **walk.tensors()})

    def _given_up(self, problem: Problem, walk: _Walk) -> str:
        said = (f"After {self.passes} passes the objective still fell by {_share(problem, walk):.1e} of itself in one "
                "pass: it has not converged. ")
        if self.preconditioner == "full":
            return said + "Raise passes or the ridge."
        # Where points lie outside of what the centers cover, even the smallest eigenvectors of their kernel count.
        return said + ("A smooth kernel with a small ridge depends on more of the centers' eigenvectors than rank "
                       'keeps. Take preconditioner="full" where it fits in memory, or raise rank, the ridge or passes.')

    def _check_budget(self, problem: Problem) -> None:
        needed = self.cost(problem).memory
        if needed > problem.memory:
            other = ('preconditioner="two-level"' if self.preconditioner == "full" else "a smaller rank")
            raise OutOfBudget(
                f"{self!r} with {len(problem.z)} centers takes {as_words(needed)}, and memory allows "
                f"{as_words(problem.memory)}. Take {other}, fewer centers, or raise memory."
            )

    def _steps(self, problem: Problem) -> int:
        """As many inner steps as cost about one pass, for each step multiplies both factors."""
        n, p = problem.shape
        return self.steps if self.steps is not None else max(4, min(16, n // (2 * p)))

    def _prepared(self, problem: Problem) -> Preconditioner:
        if self.preconditioner == "full":
            return Full(problem)
        p = len(problem.z)
        gram = problem.gram_times
        check_products(gram, p)
        rank = min(self.rank, max(1, p // 2))
        found = eigenpairs(gram, p, rank, tolerance=1e-4)
        ratio = float(found.values[-1] / found.values[0])
        if not found.residuals[-1] < 0.1 * found.values[-1] and ratio > 0:
            # Vectors have to be exact beside the smallest of their eigenvalues, and those of this kernel are steep.
            found = eigenpairs(gram, p, rank, tolerance=max(0.1 * ratio, CUT[problem.y.dtype]))
        return TwoLevel(problem, gram, found.vectors.to(problem.y), found.values.to(problem.y), self._steps(problem))


def _begun(equations: Equations) -> _Walk:
    look = equations.begin()
    nought, none = torch.zeros_like(look.rest), torch.zeros_like(look.means)
    return _Walk(nought, look.rest, nought, nought, none, look.means, look.objective, none, look.objective, none,
                 nought, look.means, look.objective, torch.zeros_like(look.objective, dtype=torch.bool),
                 torch.zeros((), dtype=torch.long), torch.ones(1, dtype=torch.float64))


def _stay_low(walk: _Walk) -> None:
    """Takes columns whose objective was measured higher than before back to where it was lowest."""
    better = (walk.objective <= walk.lowest) & ~walk.spoiled
    walk.low, walk.low_means = torch.where(better, walk.b, walk.low), torch.where(better, walk.means, walk.low_means)
    walk.lowest = torch.where(better, walk.objective, walk.lowest)
    walk.spoiled = walk.spoiled | (walk.objective > walk.lowest + RISE * walk.lowest.abs()) | ~walk.objective.isfinite()
    walk.b = torch.where(walk.spoiled, walk.low, walk.b)
    walk.means = torch.where(walk.spoiled, walk.low_means, walk.means)
    walk.objective = torch.where(walk.spoiled, walk.lowest, walk.objective)


def _share(problem: Problem, walk: _Walk) -> float:
    """The fall of the last pass, relative to the objective; of the ridge where it is largest."""
    r, tiny = len(problem.ridge), torch.finfo(walk.b.dtype).tiny
    return float((walk.fallen.view(r, -1).sum(1) / walk.objective.view(r, -1).sum(1).clamp(min=tiny)).max())


def _checked(kept: dict[str, Tensor], problem: Problem, preconditioner: Preconditioner) -> dict[str, Tensor]:
    """A state that was kept, where it is one of this problem."""
    needed = {f.name for f in fields(_Walk)} | set(KEPT)
    m = len(problem.ridge) * problem.outputs
    shape = preconditioner.size, m
    if not needed <= set(kept) or tuple(kept["b"].shape) != shape or tuple(kept["start"].shape) != (len(problem.z), m):
        raise DataError(
            f"The state to go on from is not of this problem and this solver: coordinates of shape {shape} are needed. "
            "Fit the same data with the same solver, or begin anew."
        )
    return {name: value.to(problem.y.device) for name, value in kept.items()}
