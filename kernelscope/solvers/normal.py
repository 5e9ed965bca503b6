r"""The equations of free centers, a pass at a time, in the coordinates of a preconditioner.

The coefficients are :math:`\alpha = \alpha_0 + L b` for a lift L, and the objective is a quadratic function of the
coordinates,

.. math:: J(b) = J(0) - 2\, b^T g + b^T A\, b, \qquad A = L^T (K_{zx} W K_{xz}/n + \lambda K_{zz})\, L.

One pass gives A times any columns, and :math:`d^T A d` as a sum of squares, which no rounding makes negative. With b
among the columns it also gives the residual :math:`g - A b` and the objective as they are, and not as they should be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .orthonormal import check_block
from .preconditioner import Preconditioner
from .problem import Problem


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
    total, mean, size = columns.new_zeros(len(columns), m), columns.new_zeros(m), columns.new_zeros(m)
    for part, block in problem.rows(each=4 * m * columns.dtype.itemsize):
        rest = block @ columns
        if targets is not None:
            rest = rest - targets(part)
        heavy = problem.weighed(rest, part)
        total += block.T @ heavy
        mean += heavy.sum(0)
        size += (heavy * rest).sum(0)
        if not bool(total.sum().isfinite()):
            check_block(block, torch.arange(part.start, part.stop))
    return total / n, mean / n, size / n


class Equations:
    """The equations of all outputs at all ridges, one column for each.

    Attributes:
        ridges: The ridge of each column, with shape (m,).
        g: The right side, with shape (k, m).
        sizes: The objective at the start, with shape (m,).
        means: The mean of the machine at the start, with shape (m,).
        sums: The mean of each center's kernel over the points, with shape (p, 1); only used with an intercept.
    """

    def __init__(self, problem: Problem, preconditioner: Preconditioner, start: Tensor | None,
                 kept: dict[str, Tensor] | None = None):
        self.problem, self.preconditioner = problem, preconditioner
        r, c, p = len(problem.ridge), problem.outputs, len(problem.z)
        self.ridges = torch.tensor(problem.ridge, dtype=problem.y.dtype, device=problem.y.device).repeat_interleave(c)
        self.start = problem.y.new_zeros(p, r * c) if start is None else start.movedim(0, 1).reshape(p, r * c)
        if kept is not None:
            self.start, self.g, self.sizes = kept["start"], kept["g"], kept["sizes"]
            self.means, self.sums = kept["means"], kept["sums"]
            return
        self._begin(r if start is not None else 1)
        if start is not None:
            smooth = problem.kernel.matmul(problem.z, None, self.start).to(self.start)
            self.g = self.g - self.ridges * preconditioner.lower(smooth)
            self.sizes = self.sizes + self.ridges * (self.start * smooth).sum(0)

    def tensors(self) -> dict[str, Tensor]:
        """What a pass was needed for."""
        return {"start": self.start, "g": self.g, "sizes": self.sizes, "means": self.means, "sums": self.sums}

    def _begin(self, copies: int) -> None:
        """The first pass, with as many columns as differ; a last one gives the sums of the kernel."""
        problem, c = self.problem, self.problem.outputs
        m, y = copies * c, problem.y - problem.mean() if problem.intercept else problem.y
        aims = lambda part: torch.cat([y[part].repeat(1, copies), -torch.ones_like(y[part][:, :1])], 1)
        total, means, sizes = through(problem, torch.cat([self.start[:, :m], self.start.new_zeros(len(self.start), 1)],
                                                         1), aims)
        self.sums, repeat = total[:, m:], len(self.ridges) // m
        total, means, sizes = total[:, :m], means[:m], sizes[:m]
        if problem.intercept:
            total, sizes = total - self.sums * means, sizes - means.square()
        self.g = -self.preconditioner.lower(total).repeat(1, repeat)
        self.means, self.sizes = means.repeat(repeat), sizes.repeat(repeat)

    def products(self, *columns: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        r"""In one pass, for each set of columns d: :math:`A d`, :math:`d^T A d` and the means that they add."""
        lifted = torch.cat([self.preconditioner.lift(d) for d in columns], 1)
        total, means, sizes = through(self.problem, lifted)
        if self.problem.intercept:
            total, sizes = total - self.sums * means, (sizes - means.square()).clamp(min=0.0)
        found, m = [], len(self.ridges)
        for i, d in enumerate(columns):
            own = slice(i * m, (i + 1) * m)
            smooth = self.ridges * self.preconditioner.smooth(d)
            bend = sizes[own] + (d * smooth).sum(0).clamp(min=0.0)
            found.append((self.preconditioner.lower(total[:, own]) + smooth, bend, means[own]))
        return found

    def coefficients(self, b: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients with shape (r, p, c), and intercepts with shape (r, c); ``means`` are those that b adds."""
        r, c = len(self.problem.ridge), self.problem.outputs
        alpha = (self.start + self.preconditioner.lift(b)).view(-1, r, c).movedim(1, 0).contiguous()
        if not self.problem.intercept:
            return alpha, alpha.new_zeros(r, c)
        # The means at the start are those of what the machine lacks to targets of mean nought.
        return alpha, self.problem.mean() - (self.means + means).view(r, c)
