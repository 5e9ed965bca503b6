r"""The change of a machine between two projections.

A step on a batch B of m points goes from f to :math:`f - \gamma P(K(\cdot, B)\, g + \lambda f)` with :math:`g =
w\,(f(B) - y)/m`. Beside a machine :math:`f_0` whose gradient :math:`\nabla` on *all* points is known, the batch is
asked only for what has changed since then, :math:`\delta = f - f_0`:

.. math:: \delta \leftarrow \delta - \gamma P\Big(K(\cdot, B)\, \frac{w}{m}\,\delta(B) + \nabla + \lambda\delta\Big),

so that the noise of batches ends with the change, and steps end where the gradient does, however the projections went.
What a step adds in the preconditioner's directions is in the span of the centers; what it adds at the points of the
batch is not. These are held beside the machine until a projection brings them into its span, with what they are worth
at the centers,

.. math:: h = K(Z, B_1) a_1 + K(Z, B_2) a_2 + \dots,

gathered on the way, so that every kernel value is computed once. An intercept is taken out of what a batch says by its
mean, so that steps go by the error that is left with the best constant. A ridge shrinks everything alike, and its
preconditioned part needs the machine's inner products with the directions only, which are q numbers for each output.

References:
    | Fast training of large kernel models with delayed projections (Abedsoltan et al., 2024; EigenPro 4), eq. (19)
    | Accelerating stochastic gradient descent using predictive variance reduction (Johnson and Zhang, 2013)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.points import Points
from ..linalg import times
from .nystrom import Nystrom
from .problem import Problem


class Flight:
    """A change of a machine, with centers beside its own.

    Args:
        problem: The problem; all its points may be the centers.
        nystrom: The preconditioner.
        alpha: The coefficients of the change so far, with shape (p, m), for m columns.
        pull: Those of half the gradient at :math:`f_0`; ``None`` where the machine changes from nought and is told the
            targets.
        ridges: The ridge of each column.
        rate: The step size of each column.

    Attributes:
        alpha: The coefficients of its own centers as they are now.
    """

    def __init__(self, problem: Problem, nystrom: Nystrom, alpha: Tensor, pull: Tensor | None, ridges: Tensor,
                 rate: Tensor):
        self._problem, self._nystrom = problem, nystrom
        self.alpha, self._pull, self._ridges, self._rate = alpha, pull, ridges, rate
        self._copies = alpha.shape[1] // problem.outputs
        self._numbers: list[Tensor] = []
        self._coefficients: list[Tensor] = []
        # The inner products of the change, and of the pull, with the directions.
        self._along = nystrom.there.T @ alpha
        self._pulled = None if pull is None else nystrom.there.T @ pull
        # What the centers beside are worth at the own ones, of those that this process has.
        self._worth = problem.own(torch.zeros_like(alpha))

    @property
    def gathered(self) -> Tensor:
        """What the centers beside are worth at the own ones, with shape (p, m)."""
        return self._problem.gathered(self._worth)

    def step(self, numbers: Tensor) -> Tensor:
        """Goes a step on a batch; gives the mean square of what each column is told by it, before the step."""
        problem, nystrom = self._problem, self._nystrom
        m, shrink = len(numbers), 1 - self._rate * self._ridges
        columns = self.alpha.shape[1] + int(problem.intercept)
        worth, pulled = self._worth.new_zeros(len(self._worth), columns), self.alpha.new_zeros(nystrom.level, columns)
        told, error = [], self.alpha.new_zeros(self.alpha.shape[1])
        for some in numbers.split(problem.height()):
            batch = problem.x.chosen(some.tolist())
            block, values, seen = self._seen(batch)
            for others, coefficients in zip(self._numbers, self._coefficients, strict=True):
                near = problem.kernel(batch, problem.x.chosen(others.tolist())).to(values.dtype)
                values += times(near, coefficients)
            rest = values if self._pull is not None else values - problem.y[some].repeat(1, self._copies)
            error += problem.weighed(rest.square(), some).sum(0)
            if problem.intercept:
                # With each column goes what a constant would do.
                rest = torch.cat([rest, rest.new_ones(len(rest), 1)], 1)
            g = problem.weighed(rest, some) / m
            if not problem.square:
                worth += times(block.T, g)
            pulled += times(seen.T, g)
            told.append(g)
        g = torch.cat(told)
        if problem.intercept:
            mean = g[:, :-1].sum(0) / g[:, -1].sum().clamp(min=torch.finfo(g.dtype).tiny)
            g, worth, pulled = (t[:, :-1] - t[:, -1:] * mean for t in (g, worth, pulled))
        update = -self._rate * g
        self.alpha = shrink * self.alpha
        if self._pull is not None and self._pulled is not None:
            pulled = pulled + self._pulled
            self.alpha = self.alpha - self._rate * self._pull
        moved = self._rate * nystrom.shares * (pulled + self._ridges * self._along)
        self.alpha = nystrom.added(self.alpha, moved)
        self._along = shrink * self._along - self._rate * pulled + nystrom.products @ moved
        self._coefficients = [shrink * c for c in self._coefficients]
        if problem.square:
            self.alpha = self.alpha.index_add(0, numbers.to(update.device), update)
        else:
            self._numbers.append(numbers)
            self._coefficients.append(update)
            self._worth = shrink * self._worth - self._rate * worth
        return error / m

    def _seen(self, batch: Points) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel of a batch with the own centers, and the change and the directions at it: one sum of processes."""
        problem, nystrom = self._problem, self._nystrom
        if problem.square:
            block = problem.block(batch)
            return block, times(block, self.alpha), nystrom.seen(block)
        block = problem.own_block(batch)
        both = problem.summed(times(block, problem.own(torch.cat([self.alpha, nystrom.directions], 1))))
        values, seen = both.split([self.alpha.shape[1], nystrom.level], 1)
        return block, values, seen
