r"""Ridge regression in the space of features: all ridges, and what samples left out would say, from one factorisation.

With a row :math:`p_i` of features for each sample, coefficients are those that minimise

.. math:: \frac1W \sum_i w_i\, |p_i \theta - y_i|^2 + \lambda \sum_{j \in P} |\theta_j|^2, \qquad W = \sum_i w_i,

in which some columns, such as a constant, may be free of the penalty; without weights W is the number of samples.
Samples are read in parts: only the products of columns are kept, in double precision, of which the spectrum gives the
coefficients for every :math:`\lambda`.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..errors import DataError

#: Below which share of the largest eigenvalue one of the free columns is taken as nought.
NOUGHT = 1e-12

#: Where a sample's share of its own fitted value is so near one, nothing can be said of it without the sample.
ALONE = 1e-10


class NormalEquations:
    """Products of the columns of features and targets, summed over samples in double precision.

    Attributes:
        gram: Of features with features, with shape (p, p).
        cross: Of features with targets, with shape (p, c).
        squares: Of targets with themselves, with shape (c,).
        count: How many samples there are; those of weight nought do not count.
        weight: The sum of their weights.
    """

    def __init__(self, p: int, c: int, device: torch.device | str = "cpu"):
        nought = torch.zeros(1, dtype=torch.float64, device=device)
        self.gram, self.cross, self.squares = nought.new_zeros(p, p), nought.new_zeros(p, c), nought.new_zeros(c)
        self.count, self.weight = 0, 0.0

    def add(self, features: Tensor, targets: Tensor, weights: Tensor | None = None, sign: int = 1) -> None:
        """Adds samples, or with ``sign=-1`` takes them away.

        Args:
            features: Their features, with shape (n, p).
            targets: Their targets, with shape (n, c).
            weights: Their weights, with shape (n,).
            sign: 1 or -1.
        """
        p, y = features.to(self.gram), targets.to(self.gram)
        w = p.new_ones(len(p)) if weights is None else weights.to(p)
        heavy = p if weights is None else p * w[:, None]
        self.gram.addmm_(heavy.T, p, alpha=sign)
        self.cross.addmm_(heavy.T, y, alpha=sign)
        self.squares += sign * (w @ y.square())
        self.count += sign * int((w > 0).sum())
        self.weight += sign * float(w.sum())

    def copy(self) -> NormalEquations:
        """The same sums, to which samples can be added without changing these."""
        other = NormalEquations(len(self.gram), len(self.squares), self.cross.device)
        other.gram, other.cross, other.squares = self.gram.clone(), self.cross.clone(), self.squares.clone()
        other.count, other.weight = self.count, self.weight
        return other


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
        found[~free] = modes @ (self._shrunk(values, self._shift(ridge))[:, None] * (modes.T @ right))
        found[free] = inverse @ cross[free] - shared @ found[~free]
        return found

    def degrees(self, ridge: float) -> float:
        """The effective number of coefficients: the trace of the matrix that takes targets to fitted values."""
        inverse, _, values, _ = self._parts
        block = self.equations.gram[self.free][:, self.free]
        return float((values * self._shrunk(values, self._shift(ridge))).sum()) + float((inverse * block).sum())

    def residual(self, ridge: float) -> Tensor:
        """The mean square that is left of each target, with shape (c,)."""
        theta = self.coefficients(ridge)
        gram, cross = self.equations.gram, self.equations.cross
        left = self.equations.squares - (theta * (2 * cross - gram @ theta)).sum(0)
        return left.clamp(min=0) / self.equations.weight

    def gcv(self, ridge: float) -> float:
        r"""Generalised cross-validation: what is left, over :math:`(1 - \mathrm{degrees} / n)^2`; infinite for none."""
        share = 1 - self.degrees(ridge) / self.equations.count
        return float(self.residual(ridge).sum()) / share**2 if share > 0 else float("inf")

    def leverage(self, features: Tensor, ridge: float) -> Tensor:
        """How much each sample says of its own fitted value, with shape (n,); its weight has to be multiplied on."""
        beside, apart = self._split(features)
        return self._own(features, beside) + apart.square() @ self._shrunk(self._parts[2], self._shift(ridge))

    def left_out(self, features: Tensor, targets: Tensor, ridge: float, weights: Tensor | None = None) -> Tensor:
        r"""What would be said of each sample if it had not been fitted to, with shape (n, c).

        .. math:: \frac{p_i \theta' - w_i h_i y_i}{1 - w_i h_i}

        with coefficients and leverage for a penalty of :math:`\lambda (W - w_i)`, that of the other samples. So the
        values are those of a fit to the others with the same :math:`\lambda`.

        Args:
            features: Features of samples that are among those of the sums, with shape (n, p).
            targets: Their targets, with shape (n, c).
            ridge: :math:`\lambda`.
            weights: Their weights, with shape (n,).

        Raises:
            DataError: If a sample alone decides what is said of it.

        References:
            | The relationship between variable selection and data augmentation and a method for prediction
              (Allen, 1974)
        """
        _, shared, values, modes = self._parts
        free, cross = self.free.to(modes.device), self.equations.cross
        y = targets.to(modes)
        w = y.new_ones(len(y)) if weights is None else weights.to(y)
        beside, apart = self._split(features)
        shrunk = self._shrunk(values, ridge * (self.equations.weight - w)[:, None])
        fitted = beside @ cross[free] + (apart * shrunk) @ (modes.T @ (cross[~free] - shared.T @ cross[free]))
        own = w * (self._own(features, beside) + (apart.square() * shrunk).sum(1))
        alone = (1 - own < ALONE).nonzero().flatten()
        if len(alone):
            raise DataError(f"{len(alone)} of {len(y)} samples alone decide what is said of them, so that nothing is "
                            "known of them without themselves. Use a ridge above nought, or fewer features than "
                            "samples.")
        return (fitted - own[:, None] * y) / (1 - own)[:, None]

    def duals(self, features: Tensor, targets: Tensor, ridge: float, weights: Tensor | None = None) -> Tensor:
        r"""One coefficient for each sample and target, with shape (n, c): penalised columns are :math:`P^T \alpha`.

        .. math:: \alpha_i = \frac{w_i\, (y_i - p_i \theta)}{W \lambda};

        without a ridge those of the least weighted square.

        Args:
            features: The features of all samples or of some, with shape (n, p).
            targets: Their targets, with shape (n, c).
            ridge: :math:`\lambda`.
            weights: Their weights, with shape (n,).
        """
        _, _, values, modes = self._parts
        theta, y = self.coefficients(ridge), targets.to(modes)
        shift = self._shift(ridge)
        if shift > NOUGHT * float(values.max()):
            alpha = (y - features.to(y) @ theta) / shift
        else:
            inside = modes.T @ theta[~self.free.to(theta.device)]
            alpha = self._split(features)[1] @ (self._shrunk(values, 0.0)[:, None] * inside)
        return alpha if weights is None else alpha * weights.to(alpha)[:, None]

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features by what free columns say, and what is left of the others, along the modes."""
        inverse, shared, _, modes = self._parts
        p, free = features.to(modes), self.free.to(modes.device)
        return p[:, free] @ inverse, (p[:, ~free] - p[:, free] @ shared) @ modes

    def _own(self, features: Tensor, beside: Tensor) -> Tensor:
        """What free columns say of each sample's own fitted value."""
        return (beside * features.to(beside)[:, self.free.to(beside.device)]).sum(1)

    def _shift(self, ridge: float) -> float:
        return ridge * self.equations.weight

    def _shrunk(self, values: Tensor, shift: float | Tensor) -> Tensor:
        """The inverse of the shifted eigenvalues; nought where both are nought."""
        shifted = values + shift
        return torch.where(shifted > NOUGHT * values.max().clamp(min=0), shifted.reciprocal(), 0.0)
