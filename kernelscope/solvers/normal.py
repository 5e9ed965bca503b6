r"""The equations of free centers, a pass at a time, in the coordinates of a preconditioner.

The coefficients are :math:`\alpha = \alpha_0 + L b` for a lift L, and half the gradient of the objective by the
coordinates is

.. math:: L^T (K_{zx} W (K_{xz} \alpha - y)/n + \lambda K_{zz}\, \alpha).

One pass gives it together with the objective, as they are and not as they should be; and for a direction d the product
:math:`A d` and :math:`d^T A d`, where :math:`A = L^T (K_{zx} W K_{xz}/n + \lambda K_{zz}) L`. Both numbers are sums of
squares, over what is left of the targets and over :math:`K_{xz} L d`, which bear large coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg import times
from .orthonormal import check_block
from .preconditioner import Preconditioner
from .problem import Problem

#: What of the equations is kept to go on from.
KEPT = ("start", "sums", "smooth", "norm")


def through(problem: Problem, columns: Tensor,
            targets: Callable[[slice], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    r"""In one pass, for :math:`R = K_{xz} C - T`: :math:`K_{zx} W R / n`, and the means of R and of its squares.

    Args:
        problem: The problem.
        columns: C, with shape (p, m).
        targets: Gives the rows of T for some points; without it T is nought.

    Returns:
        Tensors with shapes (p, m), (m,) and (m,); means are weighted as points are.

    Raises:
        NonFiniteError: If the kernel of a point and a center is NaN or infinite.
    """
    n, m = len(problem.x), columns.shape[1]
    own = problem.own(columns)
    total, mean, size = torch.zeros_like(own), columns.new_zeros(m), columns.new_zeros(m)
    for part, block in problem.own_rows(each=4 * m * columns.dtype.itemsize):
        rest = problem.summed(times(block, own))
        if targets is not None:
            rest = rest - targets(part)
        heavy = problem.weighed(rest, part)
        total += times(block.T, heavy)
        mean += heavy.sum(0)
        size += (heavy * rest).sum(0)
        if not bool(total.sum().isfinite()):
            check_block(block, torch.arange(part.start, part.stop))
    return problem.gathered(total) / n, mean / n, size / n


@dataclass(frozen=True, eq=False)
class Look:
    """Where an iteration stands, measured.

    Attributes:
        rest: Minus half the gradient, with shape (k, m).
        objective: Of each column, with shape (m,).
        means: Of the machine, with shape (m,).
    """

    rest: Tensor
    objective: Tensor
    means: Tensor


@dataclass(frozen=True, eq=False)
class Bend:
    """What a direction d does to the gradient, the objective and the means: A d, d' A d, and what they gain."""

    product: Tensor
    curvature: Tensor
    means: Tensor


class Equations:
    """The equations of all outputs at all ridges, one column for each.

    Args:
        problem: The problem.
        preconditioner: Whose coordinates are used.
        start: Coefficients to begin with, with shape (r, p, c).
        kept: What ``tensors`` gave.
    """

    def __init__(self, problem: Problem, preconditioner: Preconditioner, start: Tensor | None,
                 kept: dict[str, Tensor] | None = None):
        self.problem, self.preconditioner = problem, preconditioner
        r, c, p = len(problem.ridge), problem.outputs, len(problem.z)
        self.ridges = torch.tensor(problem.ridge, dtype=problem.y.dtype, device=problem.y.device).repeat_interleave(c)
        self._y = problem.y - problem.mean() if problem.intercept else problem.y
        if kept is not None:
            self.start, self.sums, self._smooth, self._norm = (kept[name] for name in KEPT)
            return
        self.start = problem.y.new_zeros(p, r * c) if start is None else start.movedim(0, 1).reshape(p, r * c)
        self._smooth, self._norm = problem.y.new_zeros(preconditioner.size, r * c), problem.y.new_zeros(r * c)
        self.sums = problem.y.new_zeros(p, 1)
        if start is not None:
            there = problem.gram_times(self.start)
            self._smooth, self._norm = preconditioner.lower(there), (self.start * there).sum(0)

    def tensors(self) -> dict[str, Tensor]:
        """What is the same in every pass."""
        return dict(zip(KEPT, (self.start, self.sums, self._smooth, self._norm), strict=True))

    def begin(self) -> Look:
        """The first pass, which also takes the mean of each center's kernel over the points."""
        m, none = len(self.ridges), self.start[:, :1] * 0
        total, means, sizes = through(self.problem, torch.cat([self.start, none], 1), lambda part: torch.cat(
            [self._aims(part), -torch.ones_like(self._y[part, :1])], 1))
        self.sums = total[:, m:]
        return self._look(torch.zeros_like(self._smooth), total[:, :m], means[:m], sizes[:m])

    def bend(self, d: Tensor) -> Bend:
        """A pass for a direction alone."""
        return self._bend(d, *through(self.problem, self.preconditioner.lift(d)))

    def look(self, b: Tensor, d: Tensor) -> tuple[Look, Bend]:
        """A pass for coordinates and a direction."""
        m, lift = len(self.ridges), self.preconditioner.lift
        both, nought = torch.cat([self.start + lift(b), lift(d)], 1), torch.zeros_like(self.ridges)
        total, means, sizes = through(self.problem, both, lambda part: torch.cat(
            [self._aims(part), nought.expand(len(self._y[part]), m)], 1))
        return (self._look(b, total[:, :m], means[:m], sizes[:m]), self._bend(d, total[:, m:], means[m:], sizes[m:]))

    def coefficients(self, b: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients with shape (r, p, c), and intercepts with shape (r, c), where the machine has these means."""
        r, c = len(self.problem.ridge), self.problem.outputs
        alpha = (self.start + self.preconditioner.lift(b)).view(-1, r, c).movedim(1, 0).contiguous()
        if not self.problem.intercept:
            return alpha, alpha.new_zeros(r, c)
        # The means are those of what exceeds targets of mean nought.
        return alpha, self.problem.mean() - means.view(r, c)

    def _aims(self, part: slice) -> Tensor:
        return self._y[part].repeat(1, len(self.problem.ridge))

    def _look(self, b: Tensor, total: Tensor, means: Tensor, sizes: Tensor) -> Look:
        total, sizes = self._centered(total, means, sizes)
        smooth = self.preconditioner.smooth(b)
        norm = self._norm + (b * (2 * self._smooth + smooth)).sum(0)
        rest = -self.preconditioner.lower(total) - self.ridges * (self._smooth + smooth)
        return Look(rest, sizes + self.ridges * norm.clamp(min=0.0), means)

    def _bend(self, d: Tensor, total: Tensor, means: Tensor, sizes: Tensor) -> Bend:
        total, sizes = self._centered(total, means, sizes)
        smooth = self.ridges * self.preconditioner.smooth(d)
        return Bend(self.preconditioner.lower(total) + smooth, sizes + (d * smooth).sum(0).clamp(min=0.0), means)

    def _centered(self, total: Tensor, means: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What is left where an intercept takes up the means."""
        if not self.problem.intercept:
            return total, sizes
        return total - self.sums * means, (sizes - means.square()).clamp(min=0.0)
