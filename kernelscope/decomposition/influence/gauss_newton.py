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

from ...errors import DataError, NonFiniteError
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
        self._factors = [_factor(self._square, 1, damping) for damping in dampings]

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
        self._factors = [_factor(self._square, n, damping) for damping in dampings]

    def solve(self, queries: Tensor) -> list[Tensor]:
        """The solutions for each damping."""
        met = queries.new_zeros(len(queries), len(self._square))
        for part, rows in self._curved.rows():
            met[:, part] = queries @ rows.T
        weights = [divided(factor, met.T).T for factor in self._factors]
        found = [queries.clone() for _ in weights]
        for part, rows in self._curved.rows():
            for direction, own in zip(found, weights, strict=True):
                direction.addmm_(own[:, part], rows, alpha=-1)
        found = [direction / damping for direction, damping in zip(found, self._dampings, strict=True)]
        # By the equations for the parameters: what is left of those for the outputs does not tell how many digits the
        # difference above has lost.
        left = self._dampings[0] * found[0] - queries
        for _, rows in self._curved.rows():
            left.addmm_(found[0] @ rows.T, rows, alpha=1 / self._curved.count)
        self.residual = max(self.residual, float(left.norm() / _size(queries)))
        return found


def at_samples(curved: Curved, solved: list[Tensor]) -> list[Tensor]:
    """The influences of all samples by solutions of shape (R, P), for each with shape (R, n)."""
    found = [rows.new_zeros(len(rows), curved.count) for rows in solved]
    for part, slopes in curved.slopes():
        for own, rows in zip(found, solved, strict=True):
            own[:, part] = -(rows @ slopes.T) / curved.count
    return found


def _factor(square: Tensor, count: int, damping: float) -> Tensor:
    """The factor of a matrix, lifted by a damping for each of ``count`` samples.

    Raises:
        NonFiniteError: If the matrix is NaN or infinite.
        DataError: If rounding makes it indefinite.
    """
    lifted = square.clone()
    lifted.diagonal().add_(count * damping)
    factor, failed = torch.linalg.cholesky_ex(lifted)
    if int(failed):
        top = float(square.diagonal().max()) / count
        if not bool(square.isfinite().all()):
            raise NonFiniteError("The curvature of the loss at the end of the run is NaN or infinite at some sample. "
                                 "Look at the samples, and at operations like sqrt(0) in the network.")
        raise DataError(f"A damping of {damping:.1e} is lost in the rounding of {str(square.dtype)[6:]}, beside "
                        f"curvature of {top:.1e}: the equations have no solution that can be told. Pass a larger "
                        "damping, or dtype=torch.float64. A tenth of the damping that is asked for is solved too.")
    return factor


def _size(rows: Tensor) -> float:
    return max(float(rows.norm()), torch.finfo(rows.dtype).tiny)
