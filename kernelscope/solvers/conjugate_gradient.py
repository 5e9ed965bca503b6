r"""Preconditioned conjugate gradients for free centers: every ridge and every output from the same passes.

Each column (one output at one ridge) has conjugate gradients of its own; what they share is the pass over the points.
The objective falls at every step by a number that is known, :math:`\tfrac12 (r^T z)^2 / p^T A p`, so the iteration ends
when the falls of the last passes are negligible, and a step that would raise it is not taken.

References:
    | FALKON: An Optimal Large Scale Kernel Method (Rudi et al., 2017)
    | Flexible Conjugate Gradients (Notay, 2000)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import as_choice
from ..errors import DataError
from ..features.base import points_between
from ..linalg import eigenpairs
from ..progress import counting
from .base import Cost, Solver
from .preconditioner import Full, Preconditioner, TwoLevel
from .problem import Problem
from .solution import Solution
from .watch import Watch

#: How many passes' falls must be negligible before the iteration ends.
PATIENCE = 2


class ConjugateGradient(Solver):
    """Solves by preconditioned conjugate gradients on the normal equations.

    Args:
        preconditioner: ``"full"`` keeps an orthonormal basis of the centers, ``"two-level"`` some eigenvectors.
        rank: How many eigenvectors the second keeps.
        steps: How many inner steps the second takes.
        tolerance: The fall of the objective in a pass, relative to all of its falls so far, that is negligible.
        passes: After how many passes the iteration is given up.
    """

    def __init__(self, preconditioner: str = "full", *, rank: int = 100, steps: int = 4, tolerance: float = 1e-8,
                 passes: int = 100):
        self.preconditioner = as_choice(preconditioner, "preconditioner", ("full", "two-level"))
        if rank < 1 or steps < 1 or passes < 1 or not 0 < tolerance < 1:
            raise DataError("rank, steps and passes must be at least 1, and tolerance between 0 and 1.")
        self.rank, self.steps, self.tolerance, self.passes = rank, steps, tolerance, passes

    def __repr__(self) -> str:
        how = "" if self.preconditioner == "full" else f", rank={self.rank}, steps={self.steps}"
        return f"ConjugateGradient({self.preconditioner!r}{how})"

    def cost(self, problem: Problem) -> Cost:
        n, p = problem.shape
        passes, item = 12.0, problem.y.dtype.itemsize
        if self.preconditioner == "full":
            return Cost(passes * 4.0 * n * p * problem.outputs + 20.0 * p**3, 4.0 * p * p * item, passes)
        inner = 2.0 * (self.steps + 2) * p * p * passes
        return Cost(passes * 4.0 * n * p * problem.outputs + inner, 3.0 * p * min(self.rank, p) * item, passes)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        preconditioner = self._prepared(problem)
        c, r = problem.outputs, len(problem.ridge)
        ridges = torch.tensor(problem.ridge, dtype=problem.y.dtype, device=problem.y.device).repeat_interleave(c)
        start = problem.y.new_zeros(len(problem.z), c)
        gradient, size = problem.gradient(start)
        rest = preconditioner.lower(-gradient).repeat(1, r)
        b = torch.zeros_like(rest)
        fall, falls, history, notes = rest.new_zeros(r * c), rest.new_zeros(r * c), [1.0], []
        first: Tensor | None = None
        direction = before = z_before = None
        quiet = 0
        with counting(self.passes, "fit", "pass") as done:
            for _ in range(self.passes):
                z = preconditioner.apply(rest, ridges)
                along = (rest * z).sum(0)
                first = along if first is None else first
                if direction is None:
                    direction = z
                else:
                    # The form that bears an inverse which changes a little.
                    turn = ((rest - before) * z).sum(0) if preconditioner.flexible else along
                    direction = z + (turn / z_before.clamp(min=_tiny(rest))).clamp(min=0.0) * direction
                product = self._product(problem, preconditioner, direction, ridges)
                bend = (direction * product).sum(0)
                climb = (rest * direction).sum(0)
                # Where rounding has the last word, a column rests.
                rate = torch.where((bend > 0) & (climb > 0), climb / bend.clamp(min=_tiny(rest)), 0.0)
                b = b + rate * direction
                before, z_before = rest, along
                rest = rest - rate * product
                fall = rate * climb
                falls = falls + fall
                history.append(float((along / first.clamp(min=_tiny(rest))).max().clamp(min=0.0).sqrt()))
                done(1)
                quiet = quiet + 1 if bool((fall <= self.tolerance * falls).all()) else 0
                if quiet >= PATIENCE:
                    break
            else:
                notes.append(
                    f"After {self.passes} passes the objective still fell by {float((fall / falls.clamp(min=_tiny(rest))).max()):.1e} "
                    "of all it had fallen. Raise passes, or take the full preconditioner."
                )
        alpha = preconditioner.lift(b).view(-1, r, c).movedim(1, 0)
        objective = tuple(size - float(part.sum()) for part in falls.view(r, c))
        return Solution(alpha, self._intercepts(problem, alpha), objective, len(history), tuple(history), tuple(notes))

    def _prepared(self, problem: Problem) -> Preconditioner:
        if self.preconditioner == "full":
            return Full(problem)
        p = len(problem.z)
        gram = lambda v: problem.kernel.matmul(problem.z, None, v).to(problem.y.dtype)
        rank = min(self.rank, max(1, p // 2))
        found = eigenpairs(gram, p, rank, tolerance=1e-3)
        return TwoLevel(problem, gram, found.vectors, found.values, self.steps)

    @staticmethod
    def _product(problem: Problem, preconditioner: Preconditioner, direction: Tensor, ridges: Tensor) -> Tensor:
        """The matrix of the equations times directions, in one pass."""
        n, p = problem.shape
        columns = preconditioner.lift(direction)
        total = columns.new_zeros(columns.shape)
        sums, kernel_sums = columns.new_zeros(columns.shape[1]), columns.new_zeros(p, 1)
        for part, block in problem.rows():
            values = problem.weighed(block @ columns, part)
            total += block.T @ values
            if problem.intercept:
                sums += values.sum(0)
                ones = torch.ones(len(values), 1, dtype=values.dtype, device=values.device)
                kernel_sums += block.T @ problem.weighed(ones, part)
        if problem.intercept:
            total -= kernel_sums * (sums / n)
        return preconditioner.lower(total / n) + ridges * preconditioner.smooth(direction)

    @staticmethod
    def _intercepts(problem: Problem, alpha: Tensor) -> Tensor:
        r, p, c = alpha.shape
        if not problem.intercept:
            return alpha.new_zeros(r, c)
        columns, total = alpha.movedim(0, 1).reshape(p, r * c), alpha.new_zeros(r * c)
        for part, block in problem.rows():
            total += problem.weighed(block @ columns, part).sum(0)
        return problem.mean() - (total / len(problem.x)).view(r, c)


def _tiny(t: Tensor) -> float:
    return torch.finfo(t.dtype).tiny
