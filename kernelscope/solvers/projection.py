r"""Projection to the functions that the centers span.

The function of the span that is closest to u in the kernel's space has the coefficients :math:`\theta = K_{zz}^{-1}
u(Z)`. Where the matrix fits into memory it is factored, with as little on its diagonal as rounding asks for.

Where it does not, lengths in the span are measured by a matrix that is near to it,

.. math:: G = F F^T + D, \qquad F = K_{zs} K_{ss}^{-1/2},

for a sample S of r of the centers and what it leaves of the diagonal, in D, a little evened. What is closest in this
sense is found from :math:`p r` numbers without an iteration. Steps that are projected so go elsewhere and end at the
same place, since they go by the gradient of all points, which is nought at the best machine however lengths are
measured.

References:
    | Fast training of large kernel models with delayed projections (Abedsoltan et al., 2024; EigenPro 4), section 4
    | Sparse Gaussian Processes using Pseudo-inputs (Snelson and Ghahramani, 2006), eq. (6)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from ..linalg import divided, times
from .orthonormal import check_products, checked, lost, orthonormal
from .problem import SHARE, Problem

#: What is added to the diagonal of a factored matrix, relative to its largest eigenvalue.
JITTER = {torch.float64: 1e-11, torch.float32: 1e-5}

#: From how many centers in the sample on more of them are not worth their part of each step.
MOST = 1000

#: Which part of the mean of what is left of the diagonal is added to all of it: where hardly anything is left of some
#: centers, their directions would be too long.
EVEN = 0.1


class Projection:
    r"""Products with the matrix that measures lengths in the span, and with its inverse.

    Args:
        problem: The problem.

    Attributes:
        kept: Whether the matrix is :math:`K_{zz}`, held in memory.
        width: How many products a projection takes for each center and column.
        notes: What the user should know of it.
    """

    def __init__(self, problem: Problem):
        self._problem = problem
        p = len(problem.z)
        self.notes: tuple[str, ...] = ()
        self.kept = _fits(problem)
        if self.kept:
            self.width = p
            self._hold(checked(problem.gram()).double())
        else:
            self.width = 2 * _sample(problem)
            self._come_near(_sample(problem))

    @staticmethod
    def cost(problem: Problem) -> tuple[float, float]:
        """The bytes that it takes, and the operations to prepare it."""
        p, r = float(len(problem.z)), _sample(problem)
        return (24.0 * p * p, p**3) if _fits(problem) else (16.0 * p * r, 20.0 * p * r * r)

    def _hold(self, gram: Tensor) -> None:
        self._gram = gram
        # The largest sum of a row bounds the largest eigenvalue.
        largest = float(gram.abs().sum(1).max())
        if not largest > 0:
            raise DataError("The kernel of the centers is nought, so no function can be made of it.")
        jitter = JITTER[self._problem.y.dtype] * largest
        while jitter < largest:
            self._factor, failed = torch.linalg.cholesky_ex(gram + jitter * torch.eye(len(gram)).to(gram))
            if not int(failed):
                return
            jitter *= 10
        raise DataError("The kernel matrix of the centers is not positive semidefinite. A machine needs a kernel "
                        "that is.")

    def _come_near(self, r: int) -> None:
        problem = self._problem
        p = len(problem.z)
        check_products(problem.gram_times, p)
        some = torch.randperm(p, generator=torch.Generator().manual_seed(0))[:r].sort().values
        sample = problem.z.chosen(some.tolist())
        basis, values = orthonormal(problem.kernel(sample).to(problem.y.dtype), some)
        self.notes = lost(values, r)
        columns = torch.cat([problem.kernel(part, sample).to(basis) @ basis for part in problem.center_parts()])
        columns = columns.double()
        left = (problem.kernel.diagonal(problem.z).double() - columns.square().sum(1)).clamp(min=0.0)
        least = JITTER[problem.y.dtype] * float(columns.square().sum())
        self._root = (left + max(EVEN * float(left.mean()), least)).sqrt()[:, None]
        self._vectors, roots, _ = torch.linalg.svd(columns / self._root, full_matrices=False)
        self._values = 1 + roots.square()

    def gram(self, v: Tensor) -> Tensor:
        r""":math:`K_{zz} v`."""
        return self.product(v) if self.kept else self._problem.gram_times(v).to(v.dtype)

    def product(self, v: Tensor) -> Tensor:
        r"""The product with :math:`K_{zz}`, or with what is near to it."""
        if self.kept:
            return times(self._gram, v.double()).to(v.dtype)
        known, beside = self._split(self._root * v.double())
        return (self._root * (times(self._vectors, self._values[:, None] * known) + beside)).to(v.dtype)

    def solve(self, h: Tensor) -> Tensor:
        r"""The product of columns with the inverse of the same matrix."""
        if self.kept:
            return divided(self._factor, h.double()).to(h.dtype)
        known, beside = self._split(h.double() / self._root)
        return ((times(self._vectors, known / self._values[:, None]) + beside) / self._root).to(h.dtype)

    def half(self, h: Tensor) -> Tensor:
        """Columns whose inner products are those of h with the inverse between them."""
        if self.kept:
            return torch.linalg.solve_triangular(self._factor, h.double(), upper=False).to(h.dtype)
        known, beside = self._split(h.double() / self._root)
        return torch.cat([known / self._values.sqrt()[:, None], beside]).to(h.dtype)

    def _split(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The inner products with the eigenvectors, and what is orthogonal to them."""
        known = times(self._vectors.T, v)
        return known, v - times(self._vectors, known)


def _fits(problem: Problem) -> bool:
    """Whether the matrix is held: once as it is, once as its factor and once between them, in double precision.

    What single precision has made of its small eigenvalues is better left out where a sample can be all of the centers.
    """
    p = len(problem.z)
    small = problem.y.dtype != torch.float64 and p <= MOST
    return not small and 3 * p * p * torch.float64.itemsize <= SHARE * problem.memory


def _sample(problem: Problem) -> int:
    """How many of the centers stand for all of them."""
    p = len(problem.z)
    return max(1, min(p, MOST, int(SHARE * problem.memory) // (2 * torch.float64.itemsize * p)))
