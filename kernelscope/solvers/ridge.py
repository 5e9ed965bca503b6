r"""Ridge regression in the space of features: all ridges, and what samples left out would say, from one factorisation.

With a row :math:`p_i` of features for each sample, coefficients are those that minimise

.. math:: \frac1n \sum_i w_i\, |p_i \theta - y_i|^2 + \lambda \sum_{j \in P} |\theta_j|^2,

in which some columns, such as a constant, may be free of the penalty. Samples are read in parts: only the products of
columns are kept, in double precision, of which the spectrum gives the coefficients for every :math:`\lambda`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

#: Below which share of the largest eigenvalue one of the free columns is taken as nought.
NOUGHT = 1e-12


class NormalEquations:
    """Products of the columns of features and targets, summed over samples in double precision.

    Attributes:
        gram: Of features with features, with shape (p, p).
        cross: Of features with targets, with shape (p, c).
        squares: Of targets with themselves, with shape (c,).
        count: How many samples there are.
    """

    def __init__(self, p: int, c: int, device: torch.device | str = "cpu"):
        nought = torch.zeros(1, dtype=torch.float64, device=device)
        self.gram, self.cross, self.squares = nought.new_zeros(p, p), nought.new_zeros(p, c), nought.new_zeros(c)
        self.count = 0

    def add(self, features: Tensor, targets: Tensor, weights: Tensor | None = None, sign: int = 1) -> None:
        """Adds samples, or with ``sign=-1`` takes them away.

        Args:
            features: Their features, with shape (n, p).
            targets: Their targets, with shape (n, c).
            weights: Their weights, with shape (n,).
            sign: 1 or -1.
        """
        p, y = features.to(self.gram), targets.to(self.gram)
        heavy = p if weights is None else p * weights.to(p)[:, None]
        self.gram.addmm_(heavy.T, p, alpha=sign)
        self.cross.addmm_(heavy.T, y, alpha=sign)
        self.squares += sign * (y.square() if weights is None else y.square() * weights.to(p)[:, None]).sum(0)
        self.count += sign * len(p)


class RidgePath:
    r"""The coefficients for every ridge, from one factorisation.

    Args:
        equations: The sums.
        free: Which columns are not penalised, as truth values with shape (p,); none if not given.
    """

    def __init__(self, equations: NormalEquations, free: Tensor | None = None):
        self.equations = equations
        p = len(equations.gram)
        self.free = torch.zeros(p, dtype=torch.bool) if free is None else free.cpu()

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The inverse of the free block, what penalised columns are by free ones, and the spectrum of the rest."""
        gram, free = self.equations.gram, self.free.to(self.equations.gram.device)
        inverse = torch.linalg.pinv(gram[free][:, free], hermitian=True, rtol=NOUGHT)
        shared = inverse @ gram[free][:, ~free]
        rest = gram[~free][:, ~free] - gram[~free][:, free] @ shared
        values, modes = torch.linalg.eigh((rest + rest.T) / 2)
        return inverse, shared, values.clamp(min=0), modes

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the penalised columns, less what free columns explain, the largest first."""
        return self._parts[2].flip(0)

    def coefficients(self, ridge: float) -> Tensor:
        r""":math:`\theta` with shape (p, c)."""
        inverse, shared, values, modes = self._parts
        free, cross = self.free.to(modes.device), self.equations.cross
        found = torch.zeros_like(cross)
        right = cross[~free] - shared.T @ cross[free]
        found[~free] = modes @ (self._shrunk(values, ridge)[:, None] * (modes.T @ right))
        found[free] = inverse @ cross[free] - shared @ found[~free]
        return found

    def degrees(self, ridge: float) -> float:
        """The effective number of coefficients: the trace of the matrix that takes targets to fitted values."""
        inverse, _, values, _ = self._parts
        block = self.equations.gram[self.free][:, self.free]
        return float((values * self._shrunk(values, ridge)).sum()) + float((inverse * block).sum())

    def residual(self, ridge: float) -> Tensor:
        """The mean square that is left of each target, with shape (c,)."""
        theta = self.coefficients(ridge)
        gram, cross = self.equations.gram, self.equations.cross
        left = self.equations.squares - (theta * (2 * cross - gram @ theta)).sum(0)
        return left.clamp(min=0) / self.equations.count

    def gcv(self, ridge: float) -> float:
        r"""Generalised cross-validation: what is left, over :math:`(1 - \mathrm{degrees} / n)^2`; infinite for none."""
        share = 1 - self.degrees(ridge) / self.equations.count
        return float(self.residual(ridge).sum()) / share**2 if share > 0 else float("inf")

    def leverage(self, features: Tensor, ridge: float) -> Tensor:
        """How much each sample says of its own fitted value, with shape (n,); its weight has to be multiplied on."""
        inverse, shared, values, modes = self._parts
        p, free = features.to(modes), self.free.to(modes.device)
        apart = (p[:, ~free] - p[:, free] @ shared) @ modes
        return (p[:, free] @ inverse * p[:, free]).sum(1) + apart.square() @ self._shrunk(values, ridge)

    def _shrunk(self, values: Tensor, ridge: float) -> Tensor:
        """The inverse of the eigenvalues with the ridge; nought where both are nought."""
        shifted = values + ridge * self.equations.count
        return torch.where(shifted > NOUGHT * values.max().clamp(min=0), shifted.reciprocal(), 0.0)
