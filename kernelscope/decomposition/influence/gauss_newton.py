r"""Damped influence at the end parameters, by the generalised Gauss-Newton matrix.

With J the Jacobian of the outputs of n training samples, :math:`H_{out}` the Hessian of each loss by its outputs and
:math:`S S^T = H_{out}`, the derivative of the output by a sample's weight is

.. math:: -\frac1n \nabla f^T (J^T H_{out} J / n + \delta I)^{-1} \nabla\ell_i, \qquad
          (W^T W / n + \delta I)^{-1} = \frac1\delta\big(I - W^T (W W^T + n\delta I)^{-1} W\big), \quad W = S^T J .

The matrix that is smaller, P by P or nc by nc, is factorised; where neither fits, the preconditioned conjugate
gradients of the solvers take products with W and its transpose, and the residual they leave is told.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...linalg import divided
from .curved import Curved
from .iterated import Iterated


class Solver(Protocol):
    """What solves the damped equations of one matrix, for as many queries as are asked, one after the other."""

    @property
    def how(self) -> str:
        """How they are solved, in words."""

    @property
    def residual(self) -> float:
        """The largest relative residual so far."""

    def solve(self, queries: Tensor) -> list[Tensor]:
        r""":math:`(W^T W / n + \delta I)^{-1} q` for rows of queries (R, P), for each damping with shape (R, P)."""


def solver_of(curved: Curved, dampings: list[float], columns: int) -> Solver:
    """What solves the equations within memory.

    Args:
        curved: The matrix.
        dampings: The dampings.
        columns: For how many queries and dampings they will be solved.
    """
    small, item = min(curved.size, curved.count * curved.width), curved.roots.element_size()
    # The matrix, a factor for each damping, and one that is being made.
    if (len(dampings) + 2) * small * small * item > curved.memory:
        return Iterated(curved, dampings, columns)
    return (Primal if curved.size <= curved.count * curved.width else Dual)(curved, dampings)


class Primal:
    """The matrix of all parameters, factorised.

    Args:
        curved: The matrix.
        dampings: The dampings.
    """

    def __init__(self, curved: Curved, dampings: list[float]):
        self.how, self.residual = f"Cholesky of the {curved.size} parameters", 0.0
        self._first = dampings[0]
        self._square = curved.roots.new_zeros(curved.size, curved.size)
        for _, rows in curved.rows():
            self._square.addmm_(rows.T, rows)
        self._square /= curved.count
        self._factors = [torch.linalg.cholesky(_lifted(self._square, damping)) for damping in dampings]

    def solve(self, queries: Tensor) -> list[Tensor]:
        """The solutions for each damping."""
        found = [divided(factor, queries.T).T for factor in self._factors]
        left = found[0] @ self._square + self._first * found[0] - queries
        self.residual = max(self.residual, float(left.norm() / _size(queries)))
        return found


class Dual:
    """The matrix of all roots of samples, factorised.

    Args:
        curved: The matrix.
        dampings: The dampings.
    """

    def __init__(self, curved: Curved, dampings: list[float]):
        n, count = curved.count, curved.count * curved.width
        self.how, self.residual = f"Cholesky of the {count} outputs", 0.0
        self._curved, self._dampings = curved, dampings
        self._square = curved.roots.new_zeros(count, count)
        for part, rows in curved.rows():
            for other, columns in curved.rows():
                if other.start <= part.start:
                    block = rows @ columns.T
                    self._square[part, other], self._square[other, part] = block, block.T
        self._factors = [torch.linalg.cholesky(_lifted(self._square, n * damping)) for damping in dampings]

    def solve(self, queries: Tensor) -> list[Tensor]:
        """The solutions for each damping."""
        met = queries.new_zeros(len(queries), len(self._square))
        for part, rows in self._curved.rows():
            met[:, part] = queries @ rows.T
        weights = [divided(factor, met.T).T for factor in self._factors]
        left = weights[0] @ self._square + self._curved.count * self._dampings[0] * weights[0] - met
        self.residual = max(self.residual, float(left.norm() / _size(met)))
        found = [queries.clone() for _ in weights]
        for part, rows in self._curved.rows():
            for direction, own in zip(found, weights, strict=True):
                direction.addmm_(own[:, part], rows, alpha=-1)
        return [direction / damping for direction, damping in zip(found, self._dampings, strict=True)]


def at_samples(curved: Curved, solved: list[Tensor]) -> list[Tensor]:
    """The influences of all samples by solutions of shape (R, P), for each with shape (R, n)."""
    found = [rows.new_zeros(len(rows), curved.count) for rows in solved]
    for part, slopes in curved.slopes():
        for own, rows in zip(found, solved, strict=True):
            own[:, part] = -(rows @ slopes.T) / curved.count
    return found


def _lifted(square: Tensor, damping: float) -> Tensor:
    lifted = square.clone()
    lifted.diagonal().add_(damping)
    return lifted


def _size(rows: Tensor) -> float:
    return max(float(rows.norm()), torch.finfo(rows.dtype).tiny)
