r"""Preconditioners for the equations of free centers.

The equations :math:`(K_{zx} W K_{xz}/n + \lambda K_{zz})\,\alpha = K_{zx} W y/n` have about the condition of
:math:`K_{zz}^2`. If the centers are like the points, :math:`K_{zx} W K_{xz}/n \approx K_{zz}^2/p`, so that

.. math:: M = K_{zz}\,(K_{zz}/p + \lambda)

is close to them. It is inverted by a few steps of conjugate gradients that are deflated by the largest eigenvectors
and never invert the tail (``TwoLevel``), which needs a basis of r vectors and no matrix with :math:`p^2` entries. Where
such matrices have room, the equations of a sample of the points are closer still, and are inverted in an orthonormal
basis of the centers' span (``Full``).

References:
    | FALKON: An Optimal Large Scale Kernel Method (Rudi et al., 2017), eq. (8)
    | Deflated and augmented Krylov subspace techniques (Chapman and Saad, 1997)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ..linalg import divided
from .orthonormal import CUT, check_block, spanning
from .problem import Problem

#: From columns of vectors to their products with a matrix.
Product = Callable[[Tensor], Tensor]

#: How near a point's features are to a center's, relative to their squared length, where both are the same point.
SAME = {torch.float64: 1e-12, torch.float32: 1e-6}

#: For how many ridges factors are less work than eigenvectors for all.
SOME = 4

#: What inner steps leave of a residual: less would be lost in the difference between a sample and all points.
ENOUGH = 0.03


class Preconditioner(ABC):
    """Coordinates in which the equations are solved, and an inverse that is close to theirs.

    Attributes:
        size: The number of coordinates k.
        passes: Which share of all points was read to make it.
        notes: What the user should know of it.
    """

    size: int
    passes: float = 0.0
    notes: tuple[str, ...] = ()

    @abstractmethod
    def lift(self, b: Tensor) -> Tensor:
        """From coordinates with shape (k, m) to coefficients with shape (p, m)."""

    @abstractmethod
    def lower(self, g: Tensor) -> Tensor:
        """From gradients by the coefficients to gradients by the coordinates."""

    @abstractmethod
    def smooth(self, b: Tensor) -> Tensor:
        r"""The product with the matrix of :math:`\\|f\\|_H^2` in these coordinates."""

    @abstractmethod
    def apply(self, r: Tensor, ridges: Tensor) -> Tensor:
        """The approximate solution for residuals, each column with its ridge."""


class Full(Preconditioner):
    r"""The inverse by eigendecompositions, in an orthonormal basis of the centers' span.

    In that basis the matrix is :math:`F^T W F/n + \lambda` for the features F of all points. A sample of them,
    ``SAMPLE`` for each center, stands in for all. Where the centers are points themselves they are no sample: all of
    them are there, and each has a feature that nearly no other point has. So points at a center are told from the
    others, and the centers stand in for them with the weight that these have.
    """

    #: How many points for each center are read.
    SAMPLE = 4

    def __init__(self, problem: Problem):
        gram = problem.gram()
        basis, self.notes = spanning(gram)
        n, p = problem.shape
        some = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:self.SAMPLE * p].sort().values
        square, first = basis.new_zeros(basis.shape[1], basis.shape[1]), basis.new_zeros(basis.shape[1])
        at_centers = 0
        for part, block in problem.some_rows(some):
            check_block(block, some[part])
            apart = at_no_center(problem, some[part], block, gram.diagonal())
            features = block[apart] @ basis
            weighed = problem.weighed(features, some[part][apart.cpu()])
            square += weighed.T @ features
            first += weighed.sum(0)
            at_centers += int((~apart).sum())
        if at_centers:
            features = gram @ basis
            square += at_centers / p * (features.T @ features)
            first += at_centers / p * features.sum(0)
        square, first = square / len(some), first / len(some)
        if problem.intercept:
            square -= first[:, None] * first
        self._basis, self._inverse = basis, _inverse(square, problem.ridge, problem.outputs)
        self.size, self.passes = basis.shape[1], len(some) / n

    def lift(self, b: Tensor) -> Tensor:
        return self._basis @ b

    def lower(self, g: Tensor) -> Tensor:
        return self._basis.T @ g

    def smooth(self, b: Tensor) -> Tensor:
        return b

    def apply(self, r: Tensor, ridges: Tensor) -> Tensor:
        return self._inverse(r, ridges)


def _inverse(square: Tensor, ridges: tuple[float, ...], c: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The inverse of a matrix with each ridge, for c columns of each: by a factor for each of some ridges."""
    if len(ridges) <= SOME:
        one = torch.eye(len(square)).to(square)
        found = [torch.linalg.cholesky_ex(square + ridge * one) for ridge in ridges]
        spread = [factor.diagonal().min() / factor.diagonal().max() for factor, _ in found]
        # Where rounding has had a part in the smallest pivots, eigenvalues tell what can be inverted.
        if all(not int(failed) and float(s)**2 > 1e3 * torch.finfo(s.dtype).eps
               for (_, failed), s in zip(found, spread, strict=True)):
            factors = [factor for factor, _ in found]
            return lambda r, _: torch.cat([divided(factor, own) for own, factor in
                                           zip(r.split(c, 1), factors, strict=True)], 1)
    values, vectors = torch.linalg.eigh(square)
    values = values.clamp(min=0.0)[:, None]
    floor = float(values[-1]) * torch.finfo(values.dtype).eps
    return lambda r, each: vectors @ ((vectors.T @ r) / (values + each).clamp(min=floor))


def at_no_center(problem: Problem, numbers: Tensor, block: Tensor, own: Tensor) -> Tensor:
    """Which points are at no center, by the squared distances of features relative to their squared lengths."""
    lengths = problem.kernel.diagonal(problem.x.chosen(numbers.tolist())).to(block)
    nearest = block.mul(-2).add_(own).amin(1) + lengths
    return nearest > SAME[block.dtype] * lengths


class TwoLevel(Preconditioner):
    r"""The inverse by conjugate gradients on products with :math:`K_{zz}`, preconditioned by its largest eigenvectors.

    Args:
        problem: The problem.
        gram: Products with the kernel matrix of the centers.
        vectors: About its largest eigenvectors, with shape (p, r).
        values: Its largest eigenvalues, descending.
        steps: How many inner steps each of the two factors takes at most.
    """

    def __init__(self, problem: Problem, gram: Product, vectors: Tensor, values: Tensor, steps: int):
        self._gram, self._steps = gram, steps
        self.size = p = len(problem.z)
        # Below this, directions cannot be told from rounding, and are not to be inverted.
        self._floor = CUT[values.dtype] * float(values[0])
        solid = values > self._floor
        self._vectors, self._values = vectors[:, solid], values[solid]
        trace = float(problem.kernel.diagonal(problem.z).sum())
        # Where nothing is left for a tail, rounding is.
        self._tail = max(trace - float(self._values.sum()), self._floor) / max(1, p - len(self._values))

    def lift(self, b: Tensor) -> Tensor:
        return b

    def lower(self, g: Tensor) -> Tensor:
        return g

    def smooth(self, b: Tensor) -> Tensor:
        return self._gram(b)

    def apply(self, r: Tensor, ridges: Tensor) -> Tensor:
        z = self._solve(1.0, self._floor, self._solve(1 / self.size, ridges, r))
        # Where rounding has spoiled the steps, what is left without them still goes downhill.
        safe = self._near(1.0, self._floor, self._near(1 / self.size, ridges, r))
        return torch.where((r * z).sum(0) > 0, z, safe)

    def _near(self, scale: float, shift: Tensor | float, r: Tensor) -> Tensor:
        """The solution of (scale K + shift) x = r for the eigenvectors and a flat tail."""
        v, tail = self._vectors, scale * self._tail + shift
        return r / tail + v @ ((1 / (scale * self._values[:, None] + shift) - 1 / tail) * (v.T @ r))

    def _solve(self, scale: float, shift: Tensor | float, r: Tensor) -> Tensor:
        """Some steps towards the same solution for all of K."""
        tiny, near = torch.finfo(r.dtype).tiny, lambda rest: self._near(scale, shift, rest)
        product = lambda d: scale * self._gram(d) + shift * d
        x = torch.zeros_like(r)
        rest, direction = r, near(r)
        size = (rest * direction).sum(0)
        enough = ENOUGH**2 * size
        for _ in range(self._steps + 1):
            along = product(direction)
            bend = (direction * along).sum(0)
            rate = torch.where(bend > 0, size / bend.clamp(min=tiny), 0.0)
            x = x + rate * direction
            rest = rest - rate * along
            z = near(rest)
            fresh = (rest * z).sum(0)
            if bool((fresh <= enough).all()):
                break
            direction = z + fresh / size.clamp(min=tiny) * direction
            size = fresh
        return x
