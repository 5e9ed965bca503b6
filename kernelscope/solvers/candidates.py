r"""The best machine in the span of a few, in one pass.

The objective is a parabola in the weights t of machines :math:`f = \sum_i t_i f_i` and a constant, so one pass over the
points gives the best weights of every column exactly. What is chosen is never worse than any of the machines, nor than
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg import times
from .problem import Problem
from .projection import Projection

#: In how many parts of a stage machines are averaged, at least and at most, and how many columns they have together.
LEAST, MOST, COLUMNS = 2, 8, 64


class Averages:
    """The means of machines over the parts of a stage, but for its first part: they still came from afar.

    Args:
        columns: How many columns a machine has; the more, the fewer parts.

    Attributes:
        parts: How many there are.
    """

    def __init__(self, columns: int):
        self.parts = max(LEAST, min(MOST, COLUMNS // columns))
        self._sums: dict[int, tuple[Tensor, int]] = {}

    def add(self, machine: Tensor, where: float) -> None:
        """Takes a machine at a place of the stage, which begins at 0 and ends before 1."""
        part = int(where * self.parts)
        if part:
            total, count = self._sums.get(part, (torch.zeros_like(machine), 0))
            self._sums[part] = total + machine, count + 1

    def means(self) -> list[Tensor]:
        """The mean of each part in which there was one."""
        return [total / count for total, count in self._sums.values()]


@dataclass(frozen=True, eq=False)
class Best:
    """A machine, and what one pass over the points says of it.

    Attributes:
        alpha: The coefficients, with shape (p, m), for m columns.
        offset: What is added to each column, with shape (m,).
        objective: The mean squared error of each column plus its ridge's term.
        residual: The norm of half the gradient of each column.
        start: The same norm where the coefficients are nought.
        pull: The coefficients of half the gradient in the kernel's space, with shape (p, m).
    """

    alpha: Tensor
    offset: Tensor
    objective: Tensor
    residual: Tensor
    start: Tensor
    pull: Tensor


def best_of(problem: Problem, projection: Projection | None, machines: Sequence[Tensor], ridges: Tensor) -> Best:
    """The best combination of machines, each given by its coefficients with shape (p, m).

    Args:
        problem: The problem.
        projection: To the span of its centers; ``None`` where all points are centers, and nothing is to be projected.
        machines: The machines.
        ridges: The ridge of each column.
    """
    n, p = problem.shape
    count, m = len(machines), len(ridges)
    copies = m // problem.outputs
    columns, constant = torch.cat(list(machines), 1), int(problem.intercept)
    square = torch.zeros(m, count + constant, count + constant, dtype=torch.float64, device=columns.device)
    cross, size = square.new_zeros(m, count + constant), square.new_zeros(m)
    own = problem.own(columns)
    pulled, target = torch.zeros_like(own), own.new_zeros(len(own), problem.outputs)
    ones = own.new_zeros(len(own), 1)
    there = []
    for part, block in problem.own_rows(each=(3 * columns.shape[1] + 2 * m) * columns.dtype.itemsize):
        values, y = problem.summed(times(block, own)), problem.y[part]
        pulled += times(block.T, problem.weighed(values, part))
        heavy = problem.weighed(y, part)
        target += times(block.T, heavy)
        features = values.view(len(values), count, m)
        if projection is None:
            there.append(values)
        if constant:
            one = values.new_ones(len(values), 1)
            ones += times(block.T, problem.weighed(one, part))
            features = torch.cat([features, one[:, :, None].expand(-1, 1, m)], 1)
        heavy_features = features if problem.weights is None else features * problem.weights[part, None, None]
        square += torch.einsum("nim,njm->mij", heavy_features.double(), features.double())
        repeated = y.repeat(1, copies)
        cross += torch.einsum("nim,nm->mi", heavy_features.double(), repeated.double())
        size += (heavy * y).double().sum(0).repeat(copies)
    pulled, target, ones = (problem.gathered(t) for t in (pulled, target, ones))
    # Where all points are centers the values at the one are those at the other.
    smooth = torch.cat(there) if projection is None else projection.gram(columns)
    square, cross, size = square / n, cross / n, size / n
    lengths = torch.einsum("pim,pjm->mij", columns.view(p, count, m).double(), smooth.view(p, count, m).double())
    whole = square.clone()
    whole[:, :count, :count] += ridges.double()[:, None, None] * (lengths + lengths.mT) / 2
    t = _lowest(whole, cross)
    objective = size - 2 * (t * cross).sum(1) + torch.einsum("mi,mij,mj->m", t, whole, t)
    weights = t.to(columns)
    combined = torch.einsum("pim,mi->pm", columns.view(p, count, m), weights[:, :count])
    offset = weights[:, count] if constant else weights.new_zeros(m)
    target = target.repeat(1, copies)
    gradient = (torch.einsum("pim,mi->pm", pulled.view(p, count, m), weights[:, :count]) - target + ones * offset) / n
    found = torch.einsum("pim,mi->pm", smooth.view(p, count, m), weights[:, :count])
    gradient += ridges * found
    if projection is None:
        pull = problem.weighed(found + offset - problem.y.repeat(1, copies)) / n + ridges * combined
    else:
        pull = projection.solve(gradient)
    start = (target - ones * problem.mean().repeat(copies) * constant) / n
    return Best(combined, offset, objective.clamp(min=0.0), gradient.norm(dim=0), start.norm(dim=0), pull)


def _lowest(whole: Tensor, cross: Tensor) -> Tensor:
    """The minimum of each parabola; directions that rounding cannot tell from none are left out."""
    scale = whole.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    values, vectors = torch.linalg.eigh(whole / (scale[:, :, None] * scale[:, None, :]))
    there = torch.einsum("mij,mi->mj", vectors, cross / scale)
    solid = values > 1e-10 * values[:, -1:]
    return torch.einsum("mij,mj->mi", vectors, torch.where(solid, there / values.clamp(min=1e-300), 0.0)) / scale
