r"""The mean of a loss and the ridge's term, as a function of coordinates, a pass at a time.

With the features :math:`F = K_{xz} B` of a basis B that is orthonormal in the kernel's space, and a column of ones
where there is an intercept,

.. math:: J(b) = \frac1n \sum_i w_i\, \ell(F_i b, y_i) + \lambda\, |b|^2,

without the intercept in :math:`|b|`. Gradients and products with the Hessian take a pass each. What follows from
outputs that are known, such as the objective anywhere along a line, takes none.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..linalg import times
from .losses import Loss
from .orthonormal import check_block, orthonormal
from .problem import Problem

#: How many outputs are worked on at once where no kernel is needed.
PIECE = 2**20


class Objective:
    """The objective of every ridge, each with coordinates of its own.

    Args:
        problem: The problem.
        loss: The loss.

    Attributes:
        own: The kernel of each center with itself, with shape (p,).
        size: The number of coordinates k of an output, the intercept included.
        ridges: The ridges, with shape (r,).
        bowl: The second derivative of the ridge's term, with shape (k, r, 1); nought for the intercept.
    """

    def __init__(self, problem: Problem, loss: Loss):
        self.problem, self.loss = problem, loss
        gram = problem.gram()
        self._basis, _ = orthonormal(gram)
        self.own = gram.diagonal().clone()
        self.size = self._basis.shape[1] + problem.intercept
        self.ridges = torch.tensor(problem.ridge, dtype=gram.dtype, device=gram.device)
        self.bowl = (2 * self.ridges).repeat(self.size, 1)[:, :, None]
        if problem.intercept:
            self.bowl[-1] = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (k, r, c) of coordinates: of an output at a ridge each."""
        return self.size, len(self.ridges), self.problem.outputs

    def begin(self) -> Tensor:
        """Coordinates to begin with: the best constant, where there is an intercept."""
        b = self._basis.new_zeros(self.shape)
        if self.problem.intercept:
            b[-1] = self.loss.start(self.problem.y, self.problem.weights)
        return b

    def solution(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients with shape (r, p, c), and intercepts with shape (r, c)."""
        alpha, constant = self._lifted(b)
        return alpha.view(-1, *b.shape[1:]).movedim(1, 0), constant.view(b.shape[1:]).clone()

    def features(self, block: Tensor) -> Tensor:
        """The features of points, with shape (m, k), from their rows of the kernel matrix."""
        found = block @ self._basis
        return torch.cat([found, torch.ones_like(found[:, :1])], 1) if self.problem.intercept else found

    def gradient(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass: the outputs of all points, with shape (n, r, c), and the gradient, with the shape of b."""
        alpha, constant = self._lifted(b)
        own = self.problem.own(alpha)
        outputs, total, sums = self._begun(own)
        for part, block in self._rows():
            f = (self.problem.summed(times(block, own)) + constant).view(-1, *b.shape[1:])
            outputs[part] = f
            total, sums = self._added(total, sums, block, part, self.loss.slopes(f, self._y(part)))
            if not bool(total.sum().isfinite()):
                check_block(block, torch.arange(part.start, part.stop))
        return outputs, self._lowered(total, sums) + self.bowl * b

    def product(self, outputs: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass: how outputs change along v, and the Hessian at outputs times v, with the shape of v."""
        alpha, constant = self._lifted(v)
        own = self.problem.own(alpha)
        along, total, sums = self._begun(own)
        for part, block in self._rows():
            change = (self.problem.summed(times(block, own)) + constant).view(-1, *v.shape[1:])
            along[part] = change
            bends = self.loss.bends(outputs[part], self._y(part))
            total, sums = self._added(total, sums, block, part, self.loss.bent(bends, change))
        return along, self._lowered(total, sums) + self.bowl * v

    def value(self, outputs: Tensor, b: Tensor) -> Tensor:
        """The objective of each ridge, with shape (r,), summed in float64; no pass."""
        found = (self.bowl * b.square()).sum((0, 2)).double() / 2
        for part in self._pieces():
            found = found + self._mean(self.loss.values(outputs[part], self._y(part)), part)
        return found

    def along(self, outputs: Tensor, change: Tensor, b: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objective, slope and bend by t, at outputs + t change and b + t s, for each ridge; no pass."""
        t = t.to(b)[:, None]
        here = b + t * s
        value = (self.bowl * here.square()).sum((0, 2)).double() / 2
        slope, bend = (self.bowl * here * s).sum((0, 2)).double(), (self.bowl * s.square()).sum((0, 2)).double()
        for part in self._pieces():
            v, y = change[part], self._y(part)
            f = outputs[part] + t * v
            value = value + self._mean(self.loss.values(f, y), part)
            slope = slope + self._mean((self.loss.slopes(f, y) * v).sum(-1), part)
            bend = bend + self._mean((self.loss.bent(self.loss.bends(f, y), v) * v).sum(-1), part)
        return value, slope, bend

    # -- inside ------------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[tuple[slice, Tensor]]:
        _, r, c = self.shape
        return self.problem.own_rows(each=6 * r * c * self._basis.dtype.itemsize)

    def _pieces(self) -> Iterator[slice]:
        _, r, c = self.shape
        n, step = len(self.problem.x), max(1, PIECE // (r * c))
        return (slice(i, min(i + step, n)) for i in range(0, n, step))

    def _y(self, part: slice) -> Tensor:
        """Targets that every ridge shares, with shape (m, 1, c)."""
        return self.problem.y[part, None]

    def _mean(self, values: Tensor, part: slice) -> Tensor:
        """What points with shape (m, r) add to a mean."""
        return self.problem.weighed(values, part).double().sum(0) / len(self.problem.x)

    def _begun(self, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, r, c = self.shape
        return own.new_empty(len(self.problem.x), r, c), torch.zeros_like(own), own.new_zeros(r * c)

    def _lifted(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients with shape (p, rc), and what is added to each output, with shape (rc,)."""
        k, flat = self._basis.shape[1], b.reshape(len(b), -1)
        return self._basis @ flat[:k], flat[k:].sum(0)

    def _added(self, total: Tensor, sums: Tensor, block: Tensor, part: slice, values: Tensor) -> tuple[Tensor, Tensor]:
        heavy = self.problem.weighed(values.reshape(len(values), -1), part)
        return total.add_(times(block.T, heavy)), sums.add_(heavy.sum(0))

    def _lowered(self, total: Tensor, sums: Tensor) -> Tensor:
        """From sums over points to the mean's gradient by the coordinates."""
        total = self.problem.gathered(total)
        below = [self._basis.T @ total, sums[None]] if self.problem.intercept else [self._basis.T @ total]
        return torch.cat(below).view(self.shape) / len(self.problem.x)
