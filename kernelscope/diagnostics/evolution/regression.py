r"""Kernel regression with the kernel of a time, beside the network.

Among the training samples the machine :math:`g = k_x^T (K + \rho)^{-1} Y` is fitted by the solvers of this package; and
the same *from the initial output*, :math:`g = f_0(x) + k_x^T (K + \rho)^{-1}(Y - f_0)`, as gradient descent with a kernel
that does not move would end. The ridge is relative, :math:`\rho = r\, \mathrm{tr}K/n`, and r is one for all times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.points import as_points
from ...kernels.precomputed import Precomputed
from ...solvers.eigensystem import Eigensystem
from ...solvers.problem import Problem
from .task import Task

#: The relative ridges of which the one with the smallest error of leaving one out is taken.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

#: By what names predictions are told, from the targets and from the initial output.
FORMS = ("", " from f0")


@dataclass(frozen=True, eq=False)
class Fits:
    """What is fitted at each time.

    Attributes:
        task: What targets ask for.
        targets: Y, with shape (n, C).
        start: The initial outputs of samples and of points, with shapes (n, c) and (m, c), if they are comparable with
            Y; else ``None``.
        ends: The final outputs of the points, with shape (m, c).
        truth: The targets of the points, with shape (m, C), or ``None``.
        ridges: The relative ridges.
    """

    task: Task
    targets: Tensor
    start: tuple[Tensor, Tensor] | None
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
        columns = [self.targets] if self.start is None else [self.targets, self.targets - self.start[0]]
        y = torch.cat(columns, 1).to(matrix)
        points = as_points(torch.arange(n, device=matrix.device))
        mean = float(matrix.diagonal().double().mean())
        problem = Problem(Precomputed(matrix), points, y, points, tuple(r * mean / n for r in self.ridges))
        solver = Eigensystem(values, vectors)
        missed = solver.left_out(problem)[:, :, :width].double().square().sum((1, 2))
        found = {"left out": missed.cpu() / float((self.targets - self.targets.mean(0)).square().sum())}
        if not len(cross):
            return found
        machines = solver.solve(problem).coefficients
        for i, name in enumerate(FORMS[:len(columns)]):
            given = torch.stack([cross @ alpha[:, i * width:(i + 1) * width] for alpha in machines]).double().cpu()
            found |= self._scored(given if not i or self.start is None else given + self.start[1], name)
        return found

    def _scored(self, given: Tensor, name: str) -> dict[str, Tensor]:
        """The scores of predictions with shape (r, m, C)."""
        found = {}
        each = lambda measure: torch.tensor([measure(values) for values in given], dtype=torch.float64)
        if self.truth is not None:
            truth = self.truth
            found[f"score{name}"] = each(lambda values: self.task.scored(values, truth))
        if self.start is not None:
            if self.task.classes:
                own = self.task.answers(self.ends)
                found[f"agreement{name}"] = each(
                    lambda values: float((self.task.answers(values) == own).double().mean()))
            found[f"distance{name}"] = each(lambda values: self.task.far(values, self.ends))
        return found
