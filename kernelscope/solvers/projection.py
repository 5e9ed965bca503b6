r"""Projection to the functions that the centers span.

The function of the span that is closest to u in the kernel's space has the coefficients :math:`\theta = K_{zz}^{-1}
u(Z)`. Where the matrix fits into memory it is factored, with as little on its diagonal as rounding asks for. Else they
are found by conjugate gradients on its products, whose error in the norm of :math:`K_{zz}` *is* the distance in the
kernel's space: stopped early, they give a function that is shorter than the projection and closer to u than nothing, so
that a projection that is not exact loses a part of a step and adds nothing of its own.

References:
    | Fast training of large kernel models with delayed projections (Abedsoltan et al., 2024; EigenPro 4), section 4
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from ..linalg import divided, eigenpairs, times
from .orthonormal import CUT, checked
from .problem import SHARE, Problem

#: What is added to the diagonal of a factored matrix, relative to its largest eigenvalue.
JITTER = {torch.float64: 1e-11, torch.float32: 1e-6}

#: How many steps an iteration takes at most, and the part of the squared length that a step must add for it to go on.
STEPS, LEAST = 20, 1e-4


class Projection:
    r"""Products with :math:`K_{zz}` and with about its inverse.

    Args:
        problem: The problem.
        rank: How many of the largest eigenvectors are taken out of the iteration, where there is one.

    Attributes:
        kept: Whether the matrix is held in memory.
    """

    def __init__(self, problem: Problem, rank: int):
        self._problem = problem
        p = len(problem.z)
        # It is held once as it is and once as its factor, in double precision.
        self.kept = 3 * p * p * torch.float64.itemsize <= SHARE * problem.memory
        if self.kept:
            self._gram = checked(problem.gram()).double()
            # The largest sum of a row bounds the largest eigenvalue.
            largest = float(self._gram.abs().sum(1).max())
            if not largest > 0:
                raise DataError("The kernel of the centers is nought, so no function can be made of it.")
            jitter = JITTER[problem.y.dtype] * largest
            while jitter < largest:
                self._factor, failed = torch.linalg.cholesky_ex(self._gram + jitter * torch.eye(p).to(self._gram))
                if not int(failed):
                    return
                jitter *= 10
            raise DataError("The kernel matrix of the centers is not positive semidefinite. A machine needs a kernel "
                            "that is.")
        found = eigenpairs(self.product, p, min(rank, max(1, p // 2)), tolerance=1e-2)
        solid = found.values > CUT[problem.y.dtype] * found.values[0]
        self._vectors, self._values = found.vectors[:, solid].to(problem.y), found.values[solid].to(problem.y)
        self._rest = float(self._values[-1])

    def product(self, v: Tensor) -> Tensor:
        r""":math:`K_{zz} v`."""
        if self.kept:
            return (times(self._gram, v.double())).to(v.dtype)
        return self._problem.gram_times(v).to(v.dtype)

    def solve(self, h: Tensor) -> Tensor:
        r"""About :math:`K_{zz}^{-1} h` for columns h."""
        return divided(self._factor, h.double()).to(h.dtype) if self.kept else self._iterated(h)

    def half(self, h: Tensor) -> Tensor:
        r""":math:`L^{-1} h` for columns h, where :math:`K_{zz} = L L^T` is held: its squares are those of functions."""
        return torch.linalg.solve_triangular(self._factor, h.double(), upper=False).to(h.dtype)

    def _iterated(self, h: Tensor) -> Tensor:
        theta, rest = torch.zeros_like(h), h
        z = self._eased(rest)
        direction, size = z, (rest * z).sum(0)
        length = torch.zeros_like(size)
        tiny = torch.finfo(h.dtype).tiny
        for _ in range(STEPS):
            along = self.product(direction)
            bend = (direction * along).sum(0)
            # A column that rounding has reached rests.
            rate = torch.where((bend > 0) & (size > 0), size / bend.clamp(min=tiny), 0.0)
            gain = rate * size
            theta = theta + rate * direction
            length = length + gain
            if bool((gain <= LEAST * length).all()):
                break
            rest = rest - rate * along
            z = self._eased(rest)
            fresh = (rest * z).sum(0)
            direction, size = z + (fresh / size.clamp(min=tiny)).clamp(min=0.0) * direction, fresh
        return theta

    def _eased(self, r: Tensor) -> Tensor:
        """The inverse on the largest eigenvectors, and a multiple of the rest."""
        known = self._vectors.T @ r
        return self._vectors @ (known / self._values[:, None] - known / self._rest) + r / self._rest
