r"""The curvature of an objective, about, from a sample of the points.

The Hessian by the coordinates is :math:`F^T D F/n + 2\lambda` for features F of all points, with the weights and the
curvatures of their losses in D. Where that counts no more than the passes it saves, all points are taken. Of a sample,
points at a center must not be missed, since each has a feature that nearly no other point has: they are all taken, and
of the others at least ``SAMPLE`` for each center, who count for all that are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..linalg import divided
from .objective import Objective
from .orthonormal import CUT
from .preconditioner import at_no_center
from .problem import Problem

#: How many points for each center are taken at least, of those at a center and of the others.
SAMPLE = 4

#: How many multiplications for each kernel entry the curvature may take: those of about ten passes, which it saves.
WORTH = 1000

#: How many multiplications for each kernel entry a pass counts.
PASS = 100

#: How often more is added to a diagonal, each time ten times as much: in the end, more than there was.
TRIES = 20


class Sample:
    """Some points, who stand for all.

    Args:
        objective: The objective, whose points are read once where not all are taken.
        many: How many points to take, of those at a center and of the others.

    Attributes:
        numbers: The numbers of the points, with shape (s,).
        weights: How many points each counts for, as a share of all and times the point's own weight, with shape (s,).
        passes: Which share of all points was read.
    """

    def __init__(self, objective: Objective, many: int):
        problem = objective.problem
        n = len(problem.x)
        generator = torch.Generator().manual_seed(0)
        if n <= many:
            strata = [torch.arange(n)]
        else:
            far = torch.cat([at_no_center(problem, torch.arange(part.start, part.stop), block, objective.own).cpu()
                             for part, block in problem.rows()])
            strata = [which.nonzero()[:, 0] for which in (~far, far) if bool(which.any())]
        numbers, shares = [], []
        for stratum in strata:
            some = stratum[torch.randperm(len(stratum), generator=generator)[:many]]
            numbers.append(some)
            shares.append(torch.full((len(some),), len(stratum) / len(some) / n, dtype=torch.float64))
        self.numbers, order = torch.cat(numbers).sort()
        self.weights = problem.weighed(torch.cat(shares)[order, None].to(problem.y), self.numbers)[:, 0]
        self.passes = 0.0 if n <= many else 1.0

    def __len__(self) -> int:
        return len(self.numbers)

    def price(self, problem: Problem) -> float:
        """About how many passes a factor for each output at each ridge counts."""
        n, p = problem.shape
        return problem.outputs * len(problem.ridge) * len(self) * p / (PASS * n)

    @staticmethod
    def count(problem: Problem, factors: int) -> int:
        """How many points to take of a problem with so many factors."""
        n, p = problem.shape
        return min(n, max((SAMPLE + 1) * p, WORTH * n // (p * factors)))


def worth(problem: Problem, factors: int) -> bool:
    """Whether so many factors count no more than the passes they save."""
    n, p = problem.shape
    return factors * min(n, (SAMPLE + 1) * p) * p <= WORTH * n


class Curvature:
    """About the inverse of the Hessian: by Cholesky factors, one for each output and ridge, or one for each ridge.

    A loss of straight lines may have no curvature where it stands, and no ridge may lend it any. So there is a lift in
    every direction, of what could not be told from rounding anyway.

    Args:
        objective: The objective.
        sample: The points that tell of the curvature.
        outputs: The outputs of all points, with shape (n, r, c).
        apart: Whether each output has a factor of its own; else they share one for their mean curvature.

    Attributes:
        lift: What is added to the Hessian of each ridge, with shape (r,).
    """

    def __init__(self, objective: Objective, sample: Sample, outputs: Tensor, apart: bool):
        problem, loss = objective.problem, objective.loss
        numbers = sample.numbers.to(outputs.device)
        d = loss.diagonal(loss.bends(outputs[numbers], problem.y[numbers, None])) * sample.weights[:, None, None]
        d = (d if apart else d.mean(-1, keepdim=True)).flatten(1)
        self._loss, self._apart, k = loss, apart, objective.size
        square = d.new_zeros(d.shape[1], k, k)
        for part, block in problem.some_rows(sample.numbers):
            features = objective.features(block)
            for own, weights in zip(square, d[part].T, strict=True):
                own.addmm_((features * weights[:, None]).T, features)
        r = len(objective.ridges)
        diagonal = square.view(r, -1, k, k).diagonal(dim1=2, dim2=3)
        diagonal += objective.bowl[:, :, 0].T[:, None]
        top = diagonal.amax((1, 2))
        self.lift = CUT[top.dtype] * torch.where(top > 0, top, 1.0)
        diagonal += self.lift[:, None, None]
        self._factors = torch.stack([_factor(each) for each in square])

    def solve(self, g: Tensor) -> Tensor:
        """About the inverse times gradients, with the shape (k, r, c)."""
        k, r, c = g.shape
        columns = g.permute(1, 2, 0).reshape(r * c, k, 1) if self._apart else g.movedim(1, 0)
        found = divided(self._factors, columns)
        return self._loss.felt(found.view(r, c, k).permute(2, 0, 1) if self._apart else found.movedim(0, 1))


def _factor(square: Tensor) -> Tensor:
    """The Cholesky factor, with more on the diagonal where rounding asks for it."""
    lift = len(square) * torch.finfo(square.dtype).eps * float(square.diagonal().max())
    for _ in range(TRIES):
        factor, bad = torch.linalg.cholesky_ex(square)
        if not int(bad):
            return factor
        square.diagonal().add_(lift)
        lift *= 10
    raise NonFiniteError("The curvature of the loss at the outputs of this step is NaN or infinite. Look at the "
                         "targets and the weights, which may be very large.")
