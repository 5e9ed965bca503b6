r"""Kernel regression with the kernel of a time, beside the network.

Among the training samples the machine :math:`g = k_x^T (K + \rho)^{-1} Y` is fitted by the solvers of this package; and
the same *from the initial output*, :math:`g = f_0(x) + k_x^T (K + \rho)^{-1}(Y - f_0)`, as gradient descent with a
kernel that does not move would end. What the network itself learned is *carried* over: its change on the samples is
fitted, and its outputs on the points are predicted by :math:`g = f_0(x) + k_x^T (K + \rho)^{-1}(f_T - f_0)`. The ridge
is relative, :math:`\rho = r\, \mathrm{tr}K/n`, and r is one for all times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.points import as_points
from ...kernels.precomputed import Precomputed
from ...solvers.eigensystem import Eigensystem
from ...solvers.problem import Problem
from ..task import Task

#: The relative ridges of which the one with the smallest error of leaving one out is taken.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, eq=False)
class Fits:
    """What is fitted at each time.

    Attributes:
        task: What targets ask for.
        targets: Y, with shape (n, C).
        start: The initial outputs of samples and then of points, with shape (n + m, c).
        ends: The final ones.
        truth: The targets of the points, with shape (m, C), or ``None``.
        ridges: The relative ridges.
    """

    task: Task
    targets: Tensor
    start: Tensor
    ends: Tensor
    truth: Tensor | None
    ridges: tuple[float, ...]

    def at(self, matrix: Tensor, cross: Tensor, values: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """The scores of each ridge by name, with shape (r,), with a kernel and its eigenpairs.

        Args:
            matrix: K of the samples, with shape (n, n).
            cross: :math:`k_x`, with shape (m, n).
            values: Eigenvalues of K.
            vectors: Its eigenvectors.
        """
        n, width = self.targets.shape
        moved = (self.ends - self.start)[:n]
        y = torch.cat([self.targets, *([self.targets - self.start[:n]] if self.alike else []), moved], 1).to(matrix)
        points = as_points(torch.arange(n, device=matrix.device))
        mean = float(matrix.diagonal().double().mean())
        problem = Problem(Precomputed(matrix), points, y, points, tuple(r * mean / n for r in self.ridges))
        solver = Eigensystem(values, vectors)
        missed = solver.left_out(problem)[:, :, :width].double().square().sum((1, 2))
        spread = float((self.targets - self.targets.mean(0)).square().sum())
        found = {"left out": missed.cpu() / (spread or 1.0)}
        if not len(cross):
            return found
        given = torch.stack([cross @ alpha for alpha in solver.solve(problem).coefficients]).double().cpu()
        start, end = self.start[n:], self.ends[n:]
        found |= self._scored(given[:, :, :width], "")
        if self.alike:
            found |= self._scored(given[:, :, width:2 * width] + start, " from f0")
        return found | {"carried": _each(given[:, :, -moved.shape[1]:] + start, lambda g: self.task.off(g, end))}

    @property
    def alike(self) -> bool:
        """Whether outputs are of the shape of targets, so that they can be compared."""
        return self.targets.shape == self.start[:len(self.targets)].shape

    def _scored(self, given: Tensor, name: str) -> dict[str, Tensor]:
        """The scores of predictions with shape (r, m, C)."""
        found, end = {}, self.ends[len(self.targets):]
        if self.truth is not None:
            truth = self.truth
            found[f"score{name}"] = _each(given, lambda g: self.task.scored(g, truth))
        if self.alike:
            if self.task.classes:
                own = self.task.answers(end)
                found[f"agreement{name}"] = _each(given, lambda g: float((self.task.answers(g) == own).double().mean()))
            found[f"distance{name}"] = _each(given, lambda g: self.task.far(g, end))
        return found


def _each(given: Tensor, measure: Callable[[Tensor], float]) -> Tensor:
    return torch.tensor([measure(values) for values in given], dtype=torch.float64)
