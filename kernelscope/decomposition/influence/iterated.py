r"""Damped Gauss-Newton equations that no dense matrix solves, by the conjugate gradients of the solvers.

They are solved for the parameters, :math:`(W^T W / n + \delta)\,x = q`, or for the roots of the samples,
:math:`(W W^T + n\delta)\,u = W q` with :math:`x = (q - W^T u) / \delta`, whichever are fewer; for all queries and all
dampings at once, with one preconditioner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...solvers.iteration import begun, iterate
from ...solvers.low_rank import LowRank, nothing, nystrom
from .curved import Curved
from .curved_products import CurvedProducts, products_of

#: The residual at which the iteration ends, relative, and after how many products it is given up.
TOLERANCE, PRODUCTS = {torch.float64: 1e-10, torch.float32: 1e-5}, 1000

#: The rank of the preconditioner for each column that is solved for, the least and the largest.
RANK, LEAST, MOST = 16, 32, 1024

#: How many times at most what is left is solved for again, where that is more than it should be.
ROUNDS = 3

#: How many vectors the iteration holds for each column, and the share of the memory that they, and eigenvectors, fill.
HELD, SHARE = 12, 4


class GaussNewton:
    """The equations for some gradients, each at a damping of its own.

    Args:
        curved: The matrix.
        products: Products with its root.
        asked: The gradients of what is explained, with shape (P, m).
        dampings: The damping of each, with shape (m,).
        primal: Whether they are solved for the parameters.
    """

    def __init__(self, curved: Curved, products: CurvedProducts, asked: Tensor, dampings: Tensor, primal: bool):
        self._count, self._products, self._asked, self._dampings = curved.count, products, asked, dampings
        self.primal, self.dtype = primal, asked.dtype
        right = (asked if primal else products.out(asked)).double()
        self._sizes = right.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
        self.right = right / self._sizes
        self.mus = dampings if primal else curved.count * dampings

    def times(self, v: Tensor, exact: bool) -> Tensor:
        """The matrix times columns."""
        w = v.to(self.dtype)
        if self.primal:
            return self._products.square(w).double() / self._count
        return self._products.out(self._products.back(w)).double()

    def solution(self, x: Tensor) -> Tensor:
        """The solution for the parameters, with shape (P, m)."""
        x = (x * self._sizes).to(self.dtype)
        return x if self.primal else (self._asked - self._products.back(x)) / self._dampings.to(self.dtype)

    def left(self, solution: Tensor) -> Tensor:
        """What a solution for the parameters leaves of the equations, by a product of its own."""
        found = self._products.square(solution) / self._count
        return self._asked - found - solution * self._dampings.to(self.dtype)


class Iterated:
    """Solves for queries, some at a time, with one preconditioner for all of them.

    Args:
        curved: The matrix.
        dampings: The dampings of each query.
        columns: For how many queries and dampings it will be asked.
    """

    def __init__(self, curved: Curved, dampings: list[float], columns: int):
        self._curved, self._dampings, self._columns = curved, dampings, columns
        self._room = curved.memory // SHARE
        # What is solved for the roots is told by the parameters, and loses digits on the way.
        own = 8 * HELD * len(dampings) * curved.size
        self.primal = own <= self._room or curved.size <= curved.count * curved.width
        self._unknowns = curved.size if self.primal else curved.count * curved.width
        self._products = products_of(curved)
        self._preconditioner: LowRank | None = None
        self._made, self.residual = 0, 0.0

    @property
    def how(self) -> str:
        """How many products there were."""
        rank = 0 if self._preconditioner is None else len(self._preconditioner.values)
        unknowns = f"{self._unknowns} {'parameters' if self.primal else 'outputs'}"
        return f"{self._made} products of conjugate gradients for the {unknowns}, preconditioned by rank {rank}"

    def solve(self, queries: Tensor) -> list[Tensor]:
        """The solutions for each damping."""
        each = 8 * len(self._dampings) * max(HELD * self._unknowns, 3 * self._curved.size)
        step = max(1, self._room // each)
        parts = [self._solved(rows) for rows in queries.split(step)]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _solved(self, queries: Tensor) -> list[Tensor]:
        asked = queries.T.repeat(1, len(self._dampings))
        dampings = torch.tensor(self._dampings, dtype=torch.float64, device=queries.device)
        dampings = dampings.repeat_interleave(len(queries))
        tolerance = TOLERANCE.get(queries.dtype, 1e-5)
        size = asked.norm(dim=0).clamp(min=torch.finfo(queries.dtype).tiny)
        solution, left, residual, goal = torch.zeros_like(asked), asked, float("inf"), tolerance
        for _ in range(ROUNDS):
            equations = GaussNewton(self._curved, self._products, left, dampings, self.primal)
            more = solution + self._step(equations, goal)
            left = GaussNewton(self._curved, self._products, asked, dampings, True).left(more)
            before, residual = residual, float((left.norm(dim=0) / size).max())
            if not residual < before:
                residual = before
                break
            solution = more
            if residual <= tolerance:
                break
            # What the roots were solved to became so much more on the way to the parameters, and will again.
            goal = max(tolerance, min(0.1, 0.5 * (tolerance / residual) ** 2))
        self.residual = max(self.residual, residual)
        return list(solution.T.unflatten(0, (len(self._dampings), len(queries))).contiguous())

    def _step(self, equations: GaussNewton, tolerance: float) -> Tensor:
        walk = begun(equations, 0)

        def heard() -> bool:
            left = float(walk.history[-1])
            self._curved.bar.tell(f"product {self._made + len(walk.history)}, residual {left:.0e}")
            return False

        iterate(equations, walk, lambda: self._made_for(equations), tolerance, PRODUCTS, heard)
        self._made += len(walk.history)
        return equations.solution(walk.x)

    def _made_for(self, equations: GaussNewton) -> LowRank:
        if self._preconditioner is None:
            fits = self._room // (4 * 8 * self._unknowns)
            rank = min(max(LEAST, RANK * self._columns), MOST, fits, self._unknowns // 2)
            self._preconditioner = nothing(equations) if rank < 1 else nystrom(equations, rank, seed=0)
        return self._preconditioner
