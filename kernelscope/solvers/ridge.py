r"""Ridge regression in the space of features: all ridges, and what samples left out would say, from one factorisation.

With a row :math:`p_i` of features for each sample, coefficients are those that minimise

.. math:: \frac1W \sum_i w_i\, |p_i \theta - y_i|^2 + \lambda \sum_{j \in P} |\theta_j|^2, \qquad W = \sum_i w_i,

in which some columns, such as a constant, may be free of the penalty; without weights W is the number of samples.
Samples are read in parts: only the products of columns are kept, in double precision, of which the spectrum gives the
coefficients for every :math:`\lambda`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError

#: Below which share of the largest eigenvalue one is taken as nought; and below which share of the sum of all, before
#: free columns took theirs.
NOUGHT, ROUNDING = 1e-12, 1e-14

#: From which share of the sum of all eigenvalues a ridge is more than what sums of products lose by rounding.
HELD = 1e-15

#: How little of a column of ones free columns may leave for it to be one of their sums.
CONSTANT = 1e-10

#: Where a sample's share of its own fitted value is so near one, nothing can be said of it without the sample.
ALONE = 1e-10

#: The ridges that one is chosen among, as shares of the mean eigenvalue.
SHARES = tuple(10.0 ** (k / 2) for k in range(-24, 5))


class NormalEquations:
    """Products of the columns of features and targets, summed over samples in double precision.

    Of targets only what they differ from ``center`` by is multiplied, the mean of those that came first: a mean that is
    large beside the rest would take its digits.

    Attributes:
        gram: Of features with features, with shape (p, p).
        totals: The sums of features, with shape (p,).
        center: What is taken from targets, with shape (c,).
        near_cross: Of features with targets less their center, with shape (p, c).
        near_squares: Of targets less their center with themselves, with shape (c,).
        near_totals: The sums of targets less their center, with shape (c,).
        count: How many samples there are; those of weight nought do not count.
        weight: The sum of their weights.
    """

    def __init__(self, p: int, c: int, device: torch.device | str = "cpu"):
        nought = torch.zeros(1, dtype=torch.float64, device=device)
        self.gram, self.totals, self.near_cross = nought.new_zeros(p, p), nought.new_zeros(p), nought.new_zeros(p, c)
        self.center, self.near_squares, self.near_totals = (nought.new_zeros(c) for _ in range(3))
        self.count, self.weight = 0, 0.0

    @property
    def cross(self) -> Tensor:
        """Of features with targets, with shape (p, c)."""
        return self.near_cross + torch.outer(self.totals, self.center)

    @property
    def squares(self) -> Tensor:
        """Of targets with themselves, with shape (c,)."""
        return self.near_squares + self.center * (2 * self.near_totals + self.weight * self.center)

    @property
    def spread(self) -> Tensor:
        """Of targets less their own mean with themselves, with shape (c,)."""
        mean = self.near_totals / self.weight if self.weight > 0 else torch.zeros_like(self.near_totals)
        return (self.near_squares - mean * self.near_totals).clamp(min=0)

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
        if not self.weight and bool(w.any()):
            self.center = (w @ y) / w.sum()
        y = y - self.center
        self.gram.addmm_(heavy.T, p, alpha=sign)
        self.totals += sign * heavy.sum(0)
        self.near_cross.addmm_(heavy.T, y, alpha=sign)
        self.near_squares += sign * (w @ y.square())
        self.near_totals += sign * (w @ y)
        self.count += sign * int((w > 0).sum())
        self.weight += sign * float(w.sum())

    def copy(self) -> NormalEquations:
        """The same sums, to which samples can be added without changing these."""
        other = NormalEquations(len(self.gram), len(self.center), self.gram.device)
        for name, value in vars(self).items():
            setattr(other, name, value.clone() if isinstance(value, Tensor) else value)
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

    @cached_property
    def _clear(self) -> Tensor:
        """Which eigenvalues are well above rounding; what it leaves of others is not to be divided by."""
        values = self._parts[2]
        if not len(values):
            return values > 0
        return values > torch.maximum(NOUGHT * values.max(), ROUNDING * self._size)

    @cached_property
    def _faint(self) -> Tensor:
        """The other eigenvalues, as many as samples can have, which a ridge above rounding can be added to."""
        values = self._parts[2]
        faint = ~self._clear
        # They come in order, so that the largest are those before the ones that are clear.
        return faint & (torch.arange(len(values), device=values.device) >= int(faint.sum()) - self._spare)

    @property
    def _size(self) -> Tensor:
        """The sum of all eigenvalues, before free columns took theirs."""
        return self.equations.gram.diagonal()[~self.free].sum()

    def _held(self, shift: float | Tensor) -> Any:
        """Whether a shift is above what the sums lose by rounding."""
        return shift > HELD * float(self._size)

    @cached_property
    def _constant(self) -> Tensor | None:
        """The coefficients with which free columns make a column of ones; ``None`` if they do not."""
        totals = self.equations.totals[self.free]
        found = self._parts[0] @ totals
        left = self.equations.weight - float(found @ totals)
        return found if abs(left) <= CONSTANT * self.equations.weight else None

    @property
    def _center(self) -> Tensor:
        """What is taken from targets, and added to what is said of them: nought without a constant."""
        return self.equations.center * (self._constant is not None)

    @property
    def _cross(self) -> Tensor:
        return self.equations.cross if self._constant is None else self.equations.near_cross

    @property
    def _squares(self) -> Tensor:
        return self.equations.squares if self._constant is None else self.equations.near_squares

    @cached_property
    def _along(self) -> Tensor:
        """Targets along the modes, with shape (q, c)."""
        _, shared, _, modes = self._parts
        free, cross = self.free.to(modes.device), self._cross
        return modes.T @ (cross[~free] - shared.T @ cross[free])

    @cached_property
    def _spare(self) -> int:
        """How many samples there are beyond those that all columns can pass through."""
        block = self.equations.gram[self.free][:, self.free]
        taken = round(float((self._parts[0] * block).sum())) + int(self._clear.sum())
        return max(0, self.equations.count - taken)

    @cached_property
    def _least(self) -> Tensor:
        """The sum of squares that is left of each target without a ridge, with shape (c,)."""
        if not self._spare:
            return torch.zeros_like(self._squares)
        cross = self._cross[self.free]
        explained = (cross * (self._parts[0] @ cross)).sum(0) + self._shrunk(0.0) @ self._along.square()
        return (self._squares - explained).clamp(min=0)

    @property
    def spectrum(self) -> Tensor:
        """The eigenvalues of the penalised columns, less what free columns explain, the largest first."""
        return (self._parts[2] * self._clear).flip(0)

    def lost(self, ridge: float) -> int:
        """How many directions get no weight since rounding of the sums leaves nothing of them to add the ridge to.

        Without a ridge these are only such whose eigenvalue is known to be above rounding.
        """
        if not self._spare or self._held(self._shift(ridge)):
            return 0
        return int((self._faint & (self._parts[2] > (0.0 if ridge else ROUNDING * self._size))).sum())

    def blurred(self, ridge: float) -> bool:
        """Whether directions get a weight whose eigenvalues are near rounding."""
        return self._held(self._shift(ridge)) and bool(self._faint.any())

    def coefficients(self, ridge: float) -> Tensor:
        r""":math:`\theta` with shape (p, c)."""
        found = self._coefficients(ridge)
        if self._constant is not None:
            found[self.free] += torch.outer(self._constant, self.equations.center)
        return found

    def _coefficients(self, ridge: float) -> Tensor:
        """Those for targets less their center."""
        inverse, shared, _, modes = self._parts
        free, cross = self.free.to(modes.device), self._cross
        found = torch.zeros_like(cross)
        found[~free] = modes @ (self._shrunk(self._shift(ridge))[:, None] * self._along)
        found[free] = inverse @ cross[free] - shared @ found[~free]
        return found

    def degrees(self, ridge: float) -> float:
        """The effective number of coefficients: the trace of the matrix that takes targets to fitted values."""
        inverse, _, values, _ = self._parts
        block = self.equations.gram[self.free][:, self.free]
        return float((values * self._shrunk(self._shift(ridge))).sum()) + float((inverse * block).sum())

    def residual(self, ridge: float) -> Tensor:
        """The mean square that is left of each target, with shape (c,)."""
        shift, values = self._shift(ridge), self._parts[2]
        found = self._least + shift ** 2 * self._bent(ridge)
        if self._held(shift):
            explained = torch.where(self._faint, (values + 2 * shift) / (values + shift).square(), 0.0)
            found = (found - explained @ self._along.square()).clamp(min=0)
        return found / self.equations.weight

    def gcv(self, ridge: float) -> float:
        r"""Generalised cross-validation: what is left, over :math:`(1 - \mathrm{degrees} / n)^2`.

        Where columns pass through all samples both are nought without a ridge, and their limit is given.

        References:
            | Generalized cross-validation as a method for choosing a good ridge parameter (Golub et al., 1979)
        """
        shift, count = self._shift(ridge), self.equations.count
        inverse = self._shrunk(shift)
        inside = float(inverse[self._clear].sum())
        if self._spare:
            free = self._spare + shift * inside - float((self._parts[2] * inverse)[self._faint].sum())
            return float(self.residual(ridge).sum()) / (free / count) ** 2
        # The ridge is a factor of both.
        left = float(self._bent(ridge).sum()) / self.equations.weight
        return left / (inside / count) ** 2 if inside else float("inf")

    def best_ridge(self) -> float:
        """The ridge with the least generalised cross-validation, among shares of the mean eigenvalue.

        Raises:
            DataError: If there are too few samples for any.
        """
        count, free = self.equations.count, int(self.free.sum())
        if free >= count:
            raise DataError(f"{count} rows are too few for {free} columns that are not penalised (the linear skip and "
                            "the constant). Hand in more points, or pass skip=False.")
        values = self.spectrum
        mean = float(values.mean()) / self.equations.weight if len(values) else 0.0
        # Features that say nothing beside the free columns get no weight, whatever the ridge.
        return min((share * mean for share in SHARES), key=self.gcv) if mean > 0 else 1.0

    def leverage(self, features: Tensor, ridge: float) -> Tensor:
        """How much each sample says of its own fitted value, with shape (n,); its weight has to be multiplied on."""
        beside, apart = self._split(features)
        return self._own(features, beside) + apart.square() @ self._shrunk(self._shift(ridge))

    def left_out(self, features: Tensor, targets: Tensor, ridge: float, weights: Tensor | None = None) -> Tensor:
        r"""What would be said of each sample if it had not been fitted to, with shape (n, c).

        .. math:: \frac{p_i \theta' - w_i h_i y_i}{1 - w_i h_i}

        with coefficients and leverage for a penalty of :math:`\lambda (W - w_i)`, that of the other samples. So the
        values are those of a fit to the others with the same :math:`\lambda`. Where columns pass through all samples,
        the limit of a small ridge is among them.

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
        return self.looked_at(features, targets, ridge, weights)[0]

    def looked_at(self, features: Tensor, targets: Tensor, ridge: float,
                  weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What would be said of each sample without it, what is said of it, and its leverage times its weight."""
        cross, center = self._cross[self.free], self._center
        beside, apart = self._split(features)
        y = targets.to(apart) - center
        w = y.new_ones(len(y)) if weights is None else weights.to(y)
        own, squared = self._own(features, beside), apart.square()
        base, inverse = beside @ cross, self._shrunk(self._shift(ridge))
        fitted, leverage = base + apart @ (inverse[:, None] * self._along), w * (own + squared @ inverse)
        if weights is None:
            # One penalty is that of all.
            shrunk = self._shrunk(ridge * (self.equations.weight - 1))
            others, bent = apart @ (shrunk[:, None] * self._along), squared @ shrunk
        else:
            shrunk = self._shrunk(ridge * (self.equations.weight - w)[:, None])
            others, bent = (apart * shrunk) @ self._along, (squared * shrunk).sum(1)
        if self._spare:
            lack, share = y - base - others, 1 - w * (own + bent)
            share[share < ALONE] = 0
        else:
            # The same two numbers over the ridge, of which nothing is lost where it is small.
            heavy = shrunk * self._shrunk(0.0)
            lack, share = (apart * heavy) @ self._along, w * (squared * heavy).sum(1)
        alone = ((share == 0) & (w > 0)).nonzero().flatten()
        if len(alone):
            raise DataError(f"{len(alone)} of {len(y)} samples alone decide what is said of them, so that nothing is "
                            "known of them without themselves. Use a ridge above nought, or leave out the features "
                            "that only they have.")
        values = torch.where((w > 0)[:, None], y - lack / share[:, None], fitted)
        return values + center, fitted + center, leverage

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
        values, shift = self._parts[2], self._shift(ridge)
        small = len(values) and shift <= NOUGHT * float(values.max())
        if self._spare and self._held(shift) and (not small or self.blurred(ridge)):
            y = targets.to(values) - self._center
            alpha = (y - features.to(y) @ self._coefficients(ridge)) / shift
        else:
            # The same, of which nothing is lost where the ridge is small.
            heavy = self._shrunk(shift) * self._shrunk(0.0)
            alpha = self._split(features)[1] @ (heavy[:, None] * self._along)
        return alpha if weights is None else alpha * weights.to(alpha)[:, None]

    def duals_of(self, features: Tensor, coefficients: Tensor, ridge: float, weights: Tensor | None = None) -> Tensor:
        r"""One number for each sample and target, of the least square, whose sum :math:`P^T \alpha` is what is given.

        Along directions near rounding it is less than that, as by a step of an iteration.

        Args:
            features: The features of all samples or of some, with shape (n, p).
            coefficients: Of penalised columns, with shape (q, c).
            ridge: :math:`\lambda`, by which directions are known or not.
            weights: The weights of the samples, with shape (n,).
        """
        modes = self._parts[3]
        inverse = torch.where(self._clear, self._shrunk(0.0), self._shrunk(self._shift(ridge)))
        alpha = self._split(features)[1] @ (inverse[:, None] * (modes.T @ coefficients.to(modes)))
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

    def _shrunk(self, shift: float | Tensor) -> Tensor:
        """The inverse of the shifted eigenvalues; nought for directions of which nothing is known."""
        values = self._parts[2]
        return torch.where(self._clear | (self._faint & self._held(shift)), (values + shift).reciprocal(), 0.0)

    def _bent(self, ridge: float) -> Tensor:
        """What a ridge adds to the squares that are left of each target, over the square of its shift."""
        clear = self._shrunk(0.0)
        return (self._shrunk(self._shift(ridge)).square() * clear) @ self._along.square()
