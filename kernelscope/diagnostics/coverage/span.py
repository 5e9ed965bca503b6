r"""The span of training features, and what of a query's feature lies inside.

Features of n samples are the rows of :math:`\Phi`, and :math:`K = \Phi\Phi^T = U\,\mathrm{diag}(\lambda)\,U^T`. A
query's feature :math:`\phi`, of which :math:`k_x = \Phi\phi` is known, has in the direction of mode j the energy

.. math:: a_j(x) = \frac{(u_j^T k_x)^2}{\lambda_j} = (v_j^T\phi)^2,\qquad
          k_x^T (K + \lambda)^{-1} k_x = \sum_j a_j \frac{\lambda_j}{\lambda_j + \lambda}.

At :math:`\lambda = 0` the sum is the squared norm of the projection of :math:`\phi` onto the span. Modes come from K,
or from :math:`\Phi^T\Phi` where there are fewer features than samples. Without sample i the sum is, for its
own feature,

.. math:: q_{-i} = k_{ii} + \lambda - \frac{1}{[(K + \lambda)^{-1}]_{ii}}.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Span:
    r"""The modes of training features.

    Attributes:
        values: The eigenvalues :math:`\lambda_j` that are more than round-off, descending, with shape (r,).
        squares: The squared entries :math:`U_{ij}^2` of the eigenvectors, with shape (n, r).
        null: The share of each sample's unit vector in the null space of K, with shape (n,).
        diagonal: :math:`k(x_i, x_i)`, with shape (n,).
        vectors: U with shape (n, r), or V with shape (p, r).
        dual: Whether modes are those of K, and not those of :math:`\Phi^T\Phi`.
    """

    values: Tensor
    squares: Tensor
    null: Tensor
    diagonal: Tensor
    vectors: Tensor
    dual: bool

    @classmethod
    def of_kernel(cls, matrix: Tensor, eps: float = torch.finfo(torch.float64).eps) -> Span:
        """From K.

        Args:
            matrix: K, with shape (n, n).
            eps: The round-off of its entries.

        Example:
            >>> span = Span.of_kernel(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
            >>> span.values
            tensor([2.], dtype=torch.float64)
        """
        matrix = matrix.double()
        values, vectors, rest = _modes((matrix + matrix.T) / 2, eps)
        return cls(values, vectors.square(), rest.square().sum(1), matrix.diagonal().clone(), vectors, True)

    @classmethod
    def of_features(cls, phi: Tensor, eps: float = torch.finfo(torch.float64).eps) -> Span:
        r"""From the features, through :math:`\Phi^T\Phi`.

        Args:
            phi: The features, with shape (n, p).
            eps: The round-off of their products.
        """
        phi = phi.double()
        values, vectors, _ = _modes(phi.T @ phi, eps)
        squares = (phi @ vectors).square() / values
        return cls(values, squares, (1 - squares.sum(1)).clamp(min=0), phi.square().sum(1), vectors, False)

    def __len__(self) -> int:
        return len(self.diagonal)

    def ridge(self, relative: float) -> float:
        r"""A ridge :math:`\lambda = \rho\,\mathrm{tr}K / n` from its share :math:`\rho`."""
        return relative * float(self.diagonal.mean())

    def energies(self, rows: Tensor) -> Tensor:
        r""":math:`a_j(x)`, with shape (q, r).

        Args:
            rows: :math:`k_x` with shape (q, n) where modes are those of K; else the features, with shape (q, p).
        """
        found = (rows.double() @ self.vectors).square()
        return found / self.values if self.dual else found

    def within(self, energies: Tensor, ridge: float = 0.0) -> Tensor:
        r""":math:`k_x^T (K + \lambda)^{-1} k_x` with shape (q,), of the pseudo-inverse at ridge 0."""
        return energies @ (self.values / (self.values + ridge))

    def outside_range(self, rows: Tensor) -> Tensor:
        r""":math:`|(I - KK^+)\,k_x| / |k_x|`, with shape (q,): nought but for round-off, whatever the query is."""
        rows = rows.double()
        left = rows - (rows @ self.vectors) @ self.vectors.T
        return left.norm(dim=1) / rows.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)

    def solve(self, targets: Tensor, ridge: float) -> Tensor:
        r""":math:`(K + \lambda)^{-1} y`, with shape (n,), of modes of K; at ridge 0 by the pseudo-inverse."""
        inside = self.vectors.T @ targets.double()
        found = self.vectors @ (inside / (self.values + ridge))
        return found + (targets - self.vectors @ inside) / ridge if ridge else found

    def inverse_diagonal(self, ridge: float) -> Tensor:
        r"""The diagonal of :math:`(K + \lambda)^{-1}`, with shape (n,), for a ridge above 0."""
        return self.squares @ (1 / (self.values + ridge)) + self.null / ridge

    def left_out(self, ridge: float = 0.0) -> Tensor:
        r""":math:`q_{-i}`: what the others hold of each sample's feature, with shape (n,)."""
        if ridge:
            found = self.diagonal + ridge - 1 / self.inverse_diagonal(ridge)
        else:
            # A sample that is part of a null vector of K is a sum of the others.
            free = self.null > len(self) * torch.finfo(torch.float64).eps ** 0.5
            alone = self.diagonal - 1 / (self.squares @ (1 / self.values)).clamp(min=torch.finfo(torch.float64).tiny)
            found = torch.where(free, self.diagonal, alone)
        return torch.minimum(found.clamp(min=0), self.diagonal)


def shares(within: Tensor, diagonal: Tensor) -> Tensor:
    """Parts of squared norms, between 0 and 1; of a feature that is nought, of which nothing was learned, 0."""
    known = diagonal > 0
    return torch.where(known, within / torch.where(known, diagonal, 1.0), 0.0).clamp(0, 1)


def _modes(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenpairs of a positive semi-definite matrix that are more than round-off, descending, and other vectors."""
    values, vectors = torch.linalg.eigh(matrix)
    least = len(values) * eps * float(values[-1].clamp(min=0)) if len(values) else 0.0
    kept = values > least
    return values[kept].flip(0), vectors[:, kept].flip(1).contiguous(), vectors[:, ~kept]
