r"""The exact solution where the eigenpairs of the kernel matrix are known already.

With :math:`K = U S U^T` of all points, the coefficients of a ridge are :math:`\alpha = U (S + n\lambda)^{-1} U^T y`,
and what each point would have been given without itself costs no more:

.. math:: y_i - f_{-i}(x_i) = \frac{y_i - (H y)_i}{1 - H_{ii}}, \qquad H = U\, \frac{S}{S + n\lambda}\, U^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .base import Cost, Solver
from .orthonormal import CUT
from .problem import Problem
from .solution import Solution
from .watch import State, Watch


class Eigensystem(Solver):
    r"""Solves by known eigenpairs, in :math:`O(n^2)` operations for each output and ridge.

    As in :class:`Direct`, directions below rounding are left out.

    Args:
        values: The eigenvalues S of the kernel matrix of all points, with shape (n,).
        vectors: The eigenvectors U, in columns, with shape (n, n).

    References:
        Elements of Statistical Learning (Hastie, Tibshirani and Friedman, 2009), section 7.10: leaving one out.

    Example:
        >>> import torch, kernelscope as ks
        >>> matrix = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
        >>> known = ks.solvers.Eigensystem(*torch.linalg.eigh(matrix))
        >>> machine = ks.fit(ks.kernels.Precomputed(matrix), torch.arange(2), torch.tensor([1.0, 2.0]).double(),
        ...                  solver=known, progress=False)
        >>> machine(torch.arange(2)).round(decimals=9).tolist()
        [1.0, 2.0]
    """

    def __init__(self, values: Tensor, vectors: Tensor):
        if values.ndim != 1 or tuple(vectors.shape) != (len(values), len(values)):
            raise DataError("An eigensystem has n values and vectors with shape (n, n); "
                            f"{tuple(values.shape)} and {tuple(vectors.shape)} came. Pass torch.linalg.eigh(matrix).")
        self.values, self.vectors = values, vectors

    def __repr__(self) -> str:
        return f"Eigensystem({len(self.values)} pairs)"

    def cost(self, problem: Problem) -> Cost:
        n, c = len(self.values), problem.outputs
        return Cost(4.0 * n * n * c * len(problem.ridge), 2.0 * n * n * problem.y.dtype.itemsize, 0.0)

    def solve(self, problem: Problem, watch: Watch | None = None) -> Solution:
        values, vectors = self._kept(problem)
        inner = vectors.T @ problem.y
        size = float(problem.y.square().sum())
        found, objectives = [], []
        for ridge in problem.ridge:
            shifted = (values + len(self.values) * ridge)[:, None]
            found.append(vectors @ (inner / shifted))
            # At its best the objective is what the targets lose by it: (|y|^2 - y' K alpha) / n.
            objectives.append((size - float((values[:, None] / shifted * inner.square()).sum())) / len(self.values))
        alpha = torch.stack(found)
        solution = Solution(alpha, alpha.new_zeros(len(found), problem.outputs), tuple(objectives), 1.0)
        if watch is not None:
            watch.heard(State(1.0, 0.0, solution.objective, lambda: (alpha, solution.intercepts), dict))
        return solution

    def left_out(self, problem: Problem) -> Tensor:
        """For each ridge what is missed of each target by the machine of all other points, with shape (r, n, c)."""
        values, vectors = self._kept(problem)
        inner, squares = vectors.T @ problem.y, vectors.square()
        found = []
        for ridge in problem.ridge:
            share = values / (values + len(self.values) * ridge)
            own = (1 - squares @ share).clamp(min=torch.finfo(values.dtype).eps)
            found.append((problem.y - vectors @ (share[:, None] * inner)) / own[:, None])
        return torch.stack(found)

    def _kept(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """The pairs above rounding."""
        if not problem.square or problem.weights is not None or problem.intercept or len(problem.x) != len(self.values):
            raise DataError("Known eigenpairs solve a problem of the same points, all of them centers, without weights "
                            'and without intercept. Use solver="direct" for any other.')
        values = self.values.to(problem.y)
        there = values > CUT[values.dtype] * float(values.max())
        return values[there], self.vectors.to(problem.y)[:, there]
