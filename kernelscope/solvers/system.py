r"""The equations of a machine whose centers are all points.

The coefficients of the minimum solve :math:`(K + n\lambda W^{-1})\,\alpha + b\,1 = y` with :math:`1^T\alpha = 0`. With
:math:`S = W^{1/2}` and :math:`\alpha = S\beta` the matrix is a symmetric one and a multiple of the identity,

.. math:: (S K S + \mu)\,\beta = S\,(y - \bar y), \qquad \mu = n\lambda,

and points without weight drop out by themselves. An intercept takes one more column for each ridge,
:math:`(SKS + \mu)\,s = S 1`: with u the solution without it, :math:`b = 1^T S u / 1^T S s` and
:math:`\beta = u - b\,s`. Every output at every ridge is a column of its own; they share the products with K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..features.base import points_between
from ..tiles.triangle import LANES, Triangle
from .problem import Problem

#: The share of the memory that the sums of the lanes may fill.
SHARE = 0.125


class System:
    r"""The equations :math:`(S K S + \mu)\,\beta = B`, multiplied by all processes together.

    Args:
        problem: The problem.
        matrix: K.

    Attributes:
        mus: :math:`\mu` of each column, with shape (m,).
        right: B, with shape (n, m), each column divided by a power of two near its largest entry.
    """

    def __init__(self, problem: Problem, matrix: Triangle):
        self.problem, self.matrix = problem, matrix
        y = problem.y.double()
        self._mean = problem.mean().double() if problem.intercept else y.new_zeros(problem.outputs)
        self._roots = None if problem.weights is None else problem.weights.double().sqrt()[:, None]
        right = y - self._mean
        if problem.intercept:
            right = torch.cat([right, torch.ones_like(right[:, :1])], 1)
        right = self._scaled(right)
        self._each = right.shape[1]
        right = right.repeat(1, len(problem.ridge))
        # By a power of two, which rounds nothing: squares of very small targets are nought.
        self._sizes = torch.ldexp(torch.ones_like(right[0]), right.abs().amax(0).frexp().exponent - 1)
        self.right = right / self._sizes
        n = len(problem.x)
        self._ridges = torch.tensor(problem.ridge, dtype=torch.float64, device=right.device)
        self.mus = (n * self._ridges).repeat_interleave(self._each)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the tiles."""
        return self.matrix.dtype

    def times(self, v: Tensor, exact: bool) -> Tensor:
        r""":math:`S K S v` for v with shape (n, k) in float64.

        Args:
            v: The columns.
            exact: Whether tiles are multiplied in float64, or in their own precision.
        """
        w = self._scaled(v)
        # The lanes of all processes meet in memory.
        step = max(1, int(SHARE * self.problem.memory // (LANES * len(v) * 8)))
        product = lambda part: self.problem.laned(lambda lane: self.matrix.lane_times(lane, part, exact), part)
        return self._scaled(torch.cat([product(part) for part in w.split(step, 1)], 1))

    def columns(self, numbers: Tensor) -> Tensor:
        """The columns of some points, :math:`(S K S)_{:, i}` with shape (n, k); each strip by one process."""
        points = self.matrix.points
        far = points.chosen(numbers.tolist())

        def lane(number: int) -> Tensor:
            found = torch.zeros(len(points), len(numbers)).to(self.right)
            for i in range(number, self.matrix.strips, LANES):
                rows = self.matrix.strip(i)
                found[rows] = self.matrix.kernel(points_between(points, rows.start, rows.stop), far).to(found)
            return found

        like = torch.empty(len(points), len(numbers)).to(self.right)
        found = self._scaled(self.problem.laned(lane, like))
        return found if self._roots is None else found * self._roots[numbers].T

    def corner(self, numbers: Tensor) -> Tensor:
        """The rows and columns of some points, with shape (k, k)."""
        found = self.matrix.kernel(self.matrix.points.chosen(numbers.tolist())).to(self.right)
        return found if self._roots is None else found * self._roots[numbers] * self._roots[numbers].T

    def diagonal(self) -> Tensor:
        """The diagonal of :math:`S K S`, with shape (n,)."""
        found = self.matrix.kernel.diagonal(self.matrix.points).to(self.right)
        return found if self._roots is None else found * self._roots[:, 0].square()

    def solution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients, with shape (r, n, c), and the intercepts, with shape (r, c), of a solution (n, m)."""
        beta, b = self._taken_apart(x)
        alpha = beta if self._roots is None else beta * self._roots[:, None]
        return alpha.movedim(1, 0).to(self.problem.y.dtype), (self._mean + b).to(self.problem.y.dtype)

    def objective(self, x: Tensor, rest: Tensor) -> tuple[float, ...]:
        r"""The mean squared error plus the ridge's term, for each ridge, where what is left of the equations is known.

        With :math:`R = B - (SKS + \mu)\beta - b S 1` the machine misses the targets by :math:`R + \mu\beta`, and
        :math:`SKS\beta = B - R - \mu\beta - b S 1`.
        """
        n, r, c = len(x), len(self.problem.ridge), self.problem.outputs
        beta, b = self._taken_apart(x)
        parts = (rest * self._sizes).view(n, r, self._each)
        ones = self._scaled(torch.ones_like(x[:, :1]))[:, :, None]
        left = parts[:, :, :c] - (b * parts[:, :, c:] if self.problem.intercept else 0)
        missed = left + self.mus.view(r, self._each)[:, :1] * beta
        fitted = (self.right * self._sizes).view(n, r, self._each)[:, :, :c] - missed - b * ones
        return tuple((missed.square().sum((0, 2)) / n + self._ridges * (beta * fitted).sum((0, 2))).tolist())

    def _taken_apart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Beta with shape (n, r, c), and b with shape (r, c)."""
        r, c = len(self.problem.ridge), self.problem.outputs
        parts = (x * self._sizes).view(len(x), r, self._each)
        u = parts[:, :, :c]
        if not self.problem.intercept:
            return u, x.new_zeros(r, c)
        s = parts[:, :, c:]
        ones = self._scaled(torch.ones_like(x[:, :1]))[:, :, None]
        below = (ones * s).sum(0)
        # Before the first step the constant has no column yet.
        b = torch.where(below > 0, (ones * u).sum(0) / below.where(below > 0, 1.0), 0.0)
        return u - b * s, b

    def _scaled(self, v: Tensor) -> Tensor:
        return v if self._roots is None else v * self._roots
