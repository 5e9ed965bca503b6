r"""Preconditioners for the equations of free centers.

The equations :math:`(K_{zx} W K_{xz}/n + \lambda K_{zz})\,\alpha = K_{zx} W y/n` have about the condition of
:math:`K_{zz}^2`. If the centers are like the points, :math:`K_{zx} W K_{xz}/n \approx K_{zz}^2/p`, so that

.. math:: M = K_{zz}\,(K_{zz}/p + \lambda)

is close to them. It is inverted where that can be done stably: in an orthonormal basis of the centers' span (``Full``), or
by a few steps of conjugate gradients that are deflated by the largest eigenvectors and never invert the tail
(``TwoLevel``), which needs a basis of r vectors and no matrix with :math:`p^2` entries.

References:
    | FALKON: An Optimal Large Scale Kernel Method (Rudi et al., 2017), eq. (8)
    | Deflated and augmented Krylov subspace techniques (Chapman and Saad, 1997)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from .orthonormal import orthonormal
from .problem import Problem

#: From columns of vectors to their products with a matrix.
Product = Callable[[Tensor], Tensor]


class Preconditioner(ABC):
    """Coordinates in which the equations are solved, and an inverse that is close to theirs.

    Attributes:
        flexible: Whether the inverse changes a little from call to call.
    """

    flexible: bool = False

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

    In that basis the matrix is :math:`F^T W F/n + \lambda` for the features F of all points. Features of ``sample`` points
    for each center stand in for them: with s of them its condition is about :math:`(1 + \sqrt{p/s})^2/(1 - \sqrt{p/s})^2`,
    whatever the kernel and the ridge are.
    """

    def __init__(self, problem: Problem, sample: int = 4):
        basis, _ = orthonormal(problem.gram())
        n, p = problem.shape
        some = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:sample * p].sort().values
        square, first = basis.new_zeros(basis.shape[1], basis.shape[1]), basis.new_zeros(basis.shape[1])
        for part, block in problem.some_rows(some):
            features = block @ basis
            weighed = problem.weighed(features, some[part])
            square += weighed.T @ features
            first += weighed.sum(0)
        square, first = square / len(some), first / len(some)
        if problem.intercept:
            square -= first[:, None] * first
        values, vectors = torch.linalg.eigh(square)
        self._basis, self._values = basis @ vectors, values.clamp(min=0.0)

    def lift(self, b: Tensor) -> Tensor:
        return self._basis @ b

    def lower(self, g: Tensor) -> Tensor:
        return self._basis.T @ g

    def smooth(self, b: Tensor) -> Tensor:
        return b

    def apply(self, r: Tensor, ridges: Tensor) -> Tensor:
        floor = float(self._values[-1]) * torch.finfo(r.dtype).eps
        return r / (self._values[:, None] + ridges).clamp(min=floor)


class TwoLevel(Preconditioner):
    r"""The inverse by deflated conjugate gradients on products with :math:`K_{zz}`.

    Args:
        problem: The problem.
        gram: Products with the kernel matrix of the centers.
        vectors: Its largest eigenvectors, with shape (p, r).
        values: Its largest eigenvalues, descending.
        steps: How many inner steps each of the two factors takes.
    """

    flexible = True

    def __init__(self, problem: Problem, gram: Product, vectors: Tensor, values: Tensor, steps: int = 4):
        self._gram, self._vectors, self._values, self._steps = gram, vectors, values, steps
        self._p = len(problem.z)
        # Below this, directions cannot be told from rounding, and are not to be inverted.
        self._floor = float(values[0]) * 1e-7 if values.dtype == torch.float32 else float(values[0]) * 1e-12

    def lift(self, b: Tensor) -> Tensor:
        return b

    def lower(self, g: Tensor) -> Tensor:
        return g

    def smooth(self, b: Tensor) -> Tensor:
        return self._gram(b)

    def apply(self, r: Tensor, ridges: Tensor) -> Tensor:
        scaled = lambda v: self._gram(v) / self._p + ridges * v
        first = self._solve(scaled, self._values[:, None] / self._p + ridges, r)
        lifted = lambda v: self._gram(v) + self._floor * v
        return self._solve(lifted, self._values[:, None] + self._floor, first)

    def _solve(self, product: Product, values: Tensor, r: Tensor) -> Tensor:
        """A few steps from the solution within the deflation space, each orthogonal to it."""
        v = self._vectors
        x = v @ ((v.T @ r) / values)
        rest = r - product(x)
        rest = rest - v @ (v.T @ rest)
        direction, size = rest, rest.square().sum(0)
        for _ in range(self._steps):
            along = product(direction)
            along = along - v @ (v.T @ along)
            bend = (direction * along).sum(0)
            rate = torch.where(bend > 0, size / bend.clamp(min=torch.finfo(r.dtype).tiny), 0.0)
            x = x + rate * direction
            rest = rest - rate * along
            fresh = rest.square().sum(0)
            direction = rest + fresh / size.clamp(min=torch.finfo(r.dtype).tiny) * direction
            size = fresh
        return x


