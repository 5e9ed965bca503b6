r"""The exact solution, by dense algebra in an orthonormal basis.

With the features :math:`F = K_{xz} B` of a basis B that is orthonormal in the kernel's space, the machine is the ridge
regression :math:`(F^T W F / n + \lambda)\, b = F^T W y / n` with :math:`\alpha = B b`. One pass makes both sides, and
one eigendecomposition serves every ridge.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..budget import as_words
from ..errors import OutOfBudget
from .base import Cost, Solver
from .orthonormal import CUT, check_block, spanning
from .problem import Problem
from .solution import Solution
from .watch import State, Watch


class Direct(Solver):
    r"""Solves by an eigendecomposition, in :math:`O(np^2 + p^3)` operations and :math:`O(p^2)` memory.

    Example:
        >>> from kernelscope.solvers import Direct
        >>> Direct()
        Direct()
    """

    def __repr__(self) -> str:
        return "Direct()"

    def cost(self, problem: Problem) -> Cost:
        n, p = problem.shape
        return Cost(2.0 * n * p * p * 2 + 20.0 * p**3, 5.0 * p * p * problem.y.dtype.itemsize, 1.0)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        needed = self.cost(problem).memory
        if needed > problem.memory:
            raise OutOfBudget(
                f"A direct solution with {len(problem.z)} centers takes {as_words(int(needed))}, and memory allows "
                f"{as_words(problem.memory)}. Take fewer centers, another solver, or raise memory."
            )
        n, _ = problem.shape
        basis, lost = spanning(problem.gram())
        k, c = basis.shape[1], problem.outputs
        square, cross = basis.new_zeros(k, k), basis.new_zeros(k, c)
        first, size = basis.new_zeros(k), 0.0
        mean = problem.mean() if problem.intercept else problem.y.new_zeros(c)
        for part, block in problem.rows(each=2 * k * basis.dtype.itemsize):
            check_block(block, torch.arange(part.start, part.stop))
            features, rest = block @ basis, problem.y[part] - mean
            heavy = problem.weighed(features, part)
            square += heavy.T @ features
            cross += heavy.T @ rest
            first += heavy.sum(0)
            size += float((problem.weighed(rest, part) * rest).sum())
        square, cross, first, size = square / n, cross / n, first / n, size / n
        if problem.intercept:
            square -= first[:, None] * first
        values, vectors = torch.linalg.eigh(square)
        found = self._solution(problem, basis, values, vectors, vectors.T @ cross, first, mean, size, list(lost))
        if watch is not None:
            watch.heard(State(1.0, 0.0, found.objective, lambda: (found.coefficients, found.intercepts), dict))
        return found

    @staticmethod
    def _solution(problem: Problem, basis: Tensor, values: Tensor, vectors: Tensor, cross: Tensor, first: Tensor,
                  mean: Tensor, size: float, notes: list[str]) -> Solution:
        coefficients, intercepts, objectives = [], [], []
        for ridge in problem.ridge:
            shifted = values + ridge
            solid = shifted > CUT[values.dtype] * float(values[-1])
            if not bool(solid.all()):
                notes.append(
                    f"With ridge {ridge:g}, {int((~solid).sum())} of {len(solid)} directions are below rounding and "
                    "were left out. A ridge would settle them."
                )
            b = torch.where(solid[:, None], cross / shifted.clamp(min=torch.finfo(values.dtype).tiny)[:, None], 0.0)
            objectives.append(size - float((2 * cross * b - shifted[:, None] * b.square()).sum()))
            own = vectors @ b
            coefficients.append(basis @ own)
            intercepts.append(mean - first @ own if problem.intercept else mean)
        return Solution(torch.stack(coefficients), torch.stack(intercepts), tuple(objectives), 1.0, notes=tuple(notes))
