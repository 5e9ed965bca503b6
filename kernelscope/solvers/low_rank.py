r"""Preconditioners from an approximation of low rank.

With :math:`A \approx U L U^T`, r eigenpairs in descending order, the matrix :math:`A + \mu` is nearly

.. math:: P = \frac{1}{l_r + \mu}\, U (L + \mu)\, U^T + (I - U U^T),

whose inverse takes two products with U. Where :math:`l_r` is no larger than :math:`\mu`, conjugate gradients need few
steps, however ill-conditioned A is. One approximation serves every :math:`\mu`.

References:
    | Randomized Nyström Preconditioning (Frangella, Tropp and Udell, 2023)
    | Robust, Randomized Preconditioning for Kernel Ridge Regression (Díaz et al., 2023)
    | Randomly Pivoted Cholesky (Chen et al., 2023); Embrace Rejection (Epperly, Tropp and Webber, 2024)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .equations import Equations
from .system import System

#: Which part of the rank is proposed at a time by the randomly pivoted Cholesky method, and at least how many.
PART, FEWEST = 10, 16


@dataclass(frozen=True, eq=False)
class LowRank:
    """Some eigenpairs.

    Attributes:
        vectors: U, with shape (n, r).
        values: L, descending, with shape (r,).
    """

    vectors: Tensor
    values: Tensor

    def apply(self, v: Tensor, mus: Tensor) -> Tensor:
        r""":math:`P^{-1} v`, each column at its own :math:`\mu`.

        Args:
            v: With shape (n, m).
            mus: With shape (m,).
        """
        if not len(self.values):
            return v
        inner = self.vectors.T @ v
        share = (self.values[-1] + mus) / (self.values[:, None] + mus).clamp(min=torch.finfo(v.dtype).tiny) - 1
        return v + self.vectors @ (share * inner)


def nothing(system: Equations) -> LowRank:
    """The approximation by nought, whose preconditioner changes nothing."""
    return LowRank(system.right.new_zeros(len(system.right), 0), system.right.new_zeros(0))


def nystrom(system: Equations, rank: int, seed: int) -> LowRank:
    r"""The randomised Nyström approximation :math:`(A\Omega)(\Omega^T A\Omega)^+(A\Omega)^T`, from one product.

    Args:
        system: The equations, whose matrix is A without :math:`\mu`.
        rank: How many columns :math:`\Omega` has.
        seed: Where they are drawn.

    Raises:
        DataError: If the matrix is far from positive.
    """
    n = len(system.right)
    drawn = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(drawn.to(system.right))[0]
    del drawn
    there = system.times(basis, exact=False)
    eps = torch.finfo(system.dtype).eps
    shift = n**0.5 * eps * float(torch.linalg.matrix_norm(there))
    inner = basis.T @ there
    inner = (inner + inner.T) / 2
    while True:
        factor, failed = torch.linalg.cholesky_ex(inner + shift * torch.eye(rank).to(inner))
        if not int(failed):
            break
        # The product of a matrix that rounding has made indefinite shows in its smallest eigenvalue.
        least, most = torch.linalg.eigvalsh(inner)[[0, -1]].tolist()
        if least < -1e-3 * most:
            raise DataError(f"The kernel matrix has an eigenvalue of {least:.1e} or below, beside {most:.1e}: it is "
                            "not positive semidefinite. A machine needs a kernel that is.")
        shift = 2 * max(shift, -least, torch.finfo(torch.float64).tiny)
    there += shift * basis
    return _pairs(torch.linalg.solve_triangular(factor, there.T, upper=False).T, shift)


def rpcholesky(system: System, rank: int, seed: int) -> LowRank:
    """The randomly pivoted Cholesky approximation, from the columns of as many points as its rank.

    Pivots are proposed many at a time in proportion to what is left of the diagonal, and rejected so that those that
    stay are drawn as if one by one.

    Args:
        system: The equations.
        rank: How many columns are computed.
        seed: Where pivots are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    left = system.diagonal().cpu()
    n, start = len(left), float(left.sum())
    factor, count = system.right.new_zeros(n, rank), 0
    while count < rank and float(left.sum()) > n * torch.finfo(torch.float64).eps * start:
        many = min(rank - count, max(FEWEST, rank // PART))
        proposed = torch.multinomial(left / left.sum(), many, replacement=True, generator=generator)
        chance = torch.rand(many, generator=generator, dtype=torch.float64)
        own = factor[proposed.to(factor.device), :count]
        taken, lower = _rejected((system.corner(proposed) - own @ own.T).cpu(), left[proposed], chance)
        pivots = proposed[taken]
        columns = system.columns(pivots) - factor[:, :count] @ own[taken.to(own.device)].T
        new = torch.linalg.solve_triangular(lower.to(columns), columns.T, upper=False).T
        factor[:, count:count + len(taken)] = new
        left = (left - new.square().sum(1).cpu()).clamp(min=0.0)
        left[pivots] = 0.0
        count += len(taken)
    return _pairs(factor[:, :count], 0.0)


def _rejected(inner: Tensor, left: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the proposed pivots stay, and the Cholesky factor of what is left of their matrix.

    A point that is proposed again after it was taken has nothing left, and is rejected.
    """
    inner, lower = inner.clone(), torch.zeros_like(inner)
    taken: list[int] = []
    for i in range(len(inner)):
        if float(chance[i] * left[i]) < float(inner[i, i]) and float(inner[i, i]) > 1e-12 * float(left.max()):
            column = inner[i:, i] / inner[i, i].sqrt()
            lower[i:, len(taken)] = column
            inner[i:, i:] -= column[:, None] * column
            taken.append(i)
    places = torch.tensor(taken, dtype=torch.long)
    return places, lower[places][:, :len(taken)]


def _pairs(factor: Tensor, shift: float) -> LowRank:
    """The eigenpairs of :math:`F F^T` less a shift."""
    basis, small = torch.linalg.qr(factor)
    left, lengths, _ = torch.linalg.svd(small)
    return LowRank(basis @ left, (lengths.square() - shift).clamp(min=0.0))
