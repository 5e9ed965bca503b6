r"""EigenPro's preconditioner: the largest directions of the data made as small as the next one.

The integral operator :math:`T f = \frac1n \sum_i f(x_i)\, k(\cdot, x_i)` has, by s points S with :math:`K_{SS}/s = E
\Lambda E^T`, about the eigenvalues :math:`\lambda_i` and the eigenfunctions :math:`\psi_i = (s\lambda_i)^{-1/2} \sum_j
E_{ji}\, k(\cdot, S_j)`, which are orthonormal. Steps of a machine with centers Z stay in their span, so what counts of
an eigenfunction is its projection :math:`\Pi\psi_i`. With a ridge :math:`\lambda` they go by :math:`\Pi T \Pi +
\lambda`, and the preconditioner

.. math::
    P = \Pi - \sum_{i \le q} \Big(1 - \frac{\lambda_{q+1} + \lambda}{\lambda_i + \lambda}\Big)\,
    \Pi\psi_i \otimes \Pi\psi_i

makes its first q directions about as large as the next one. It is symmetric and positive on the span, so steps end
where the gradient does. (Without the projection, as EigenPro 3 and 4 are published, they end elsewhere: the gradient of
the best machine is orthogonal to the span and not nought, and the eigenfunctions are not in the span.)

How large a step may be is not taken from :math:`\lambda_{q+1}`, which is that of the sample, but measured on batches of
other points: the largest eigenvalue of the preconditioned kernel matrix of a batch is what a step on this batch can do.

References:
    | Kernel machines that adapt to GPUs for effective large batch training (Ma and Belkin, 2019; EigenPro 2), section 3
    | Toward Large Kernel Models (Abedsoltan et al., 2023; EigenPro 3), section 4
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .orthonormal import check_block, checked
from .problem import Problem
from .projection import Projection

#: Relative to the largest, eigenvalues below which those of a sample are rounding.
FLOOR = {torch.float64: 1e-13, torch.float32: 1e-7}

#: One of so many of the sample's eigenvectors is taken; those after it are those of the sample and not of the data.
PART = 8

#: How many products find the largest eigenvalue of a batch.
PRODUCTS = 30


class Nystrom:
    r"""The preconditioner, for several ridges at once.

    Args:
        problem: The problem.
        projection: The projection to the span of its centers; ``None`` where all points are centers.
        numbers: Which of its points are the sample S.
        level: How many directions q are made smaller; as many as the sample can tell if it is ``None``.
        ridges: The ridge of each column, with shape :math:`(m,)`.

    Attributes:
        directions: The coefficients of :math:`\Pi\psi_i`, with shape :math:`(p, q)`, or of the sample alone, (s, q).
        values: The eigenvalues :math:`\lambda_i`, with shape :math:`(q,)`.
        next: The eigenvalue :math:`\lambda_{q+1}`.
        shares: How much of each direction is taken away, with shape :math:`(q, m)`.
        products: The inner products of the directions, with shape :math:`(q, q)`.
        there: The directions at the centers, with shape :math:`(p, q)`.
    """

    def __init__(self, problem: Problem, projection: Projection | None, numbers: Tensor, level: int | None,
                 ridges: Tensor):
        sample = problem.x.chosen(numbers.tolist())
        s, dtype = len(numbers), problem.y.dtype
        gram = checked(problem.kernel(sample), numbers, "points").double() / s
        if problem.intercept:
            # Of what a constant can do nothing is left for the machine.
            gram = gram - gram.mean(0)
            gram = gram - gram.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        values, vectors = values.flip(0), vectors.flip(1)
        if not float(values[0]) > 0:
            beside = " but a constant, which the intercept is" if problem.intercept else ""
            raise DataError("The kernel of the points is nought or negative, so no function can be made of it"
                            f"{beside}. Look at the points, which may all be the same, and at the bandwidth.")
        told = int((values > FLOOR[dtype] * values[0]).sum())
        q = max(0, min(max(1, s // PART) if level is None else level, told - 1, s - 1))
        self.values = values[:q].to(dtype)
        self.next = float(values[q].clamp(min=0.0)) if q < s else 0.0
        self.shares = 1 - (self.next + ridges) / (self.values[:, None] + ridges)
        functions = vectors[:, :q].to(dtype) / (s * self.values).sqrt()
        blocks = (problem.kernel(part, sample).to(dtype) for part in problem.center_parts())
        seen = torch.cat([block @ functions for block in blocks])
        if not bool(seen.sum().isfinite()):
            for number in numbers.tolist():
                check_block(problem.block(problem.x.chosen([number])), torch.tensor([number]))
        if projection is None:
            self._numbers: Tensor | None = numbers.to(functions.device)
            self.directions = functions
            self.products = torch.eye(q, dtype=dtype, device=functions.device)
            self.there = seen
            return
        self._numbers = None
        self.directions = projection.solve(seen)
        self.there = projection.product(self.directions)
        products = (self.directions.T @ self.there).double()
        # A projection shortens. What rounding, or a measure of lengths that is only near, has made longer than 1 in
        # some direction is made as long as it may be there.
        lengths, turned = torch.linalg.eigh((products + products.T) / 2)
        short = ((turned * lengths.clamp(min=1.0).rsqrt()) @ turned.T).to(dtype)
        self.directions, self.there = self.directions @ short, self.there @ short
        self.products = ((turned * lengths.clamp(min=0.0, max=1.0)) @ turned.T).to(dtype)

    @property
    def level(self) -> int:
        """The number of directions q."""
        return len(self.values)

    def seen(self, block: Tensor) -> Tensor:
        """The directions at some points, with shape (b, q), from their kernel with the centers."""
        return (block if self._numbers is None else block[:, self._numbers]) @ self.directions

    def added(self, alpha: Tensor, shares: Tensor) -> Tensor:
        """A machine with multiples of the directions, with shape (q, m), added to it."""
        if self._numbers is None:
            return alpha + self.directions @ shares
        return alpha.index_add(0, self._numbers, self.directions @ shares)

    def largest(self, problem: Problem, projection: Projection | None, numbers: Tensor, m: int) -> Tensor:
        r"""The largest eigenvalue of :math:`W^{1/2} k_P(B, B)\, W^{1/2}/m` on a batch B, for each column of ridges.

        With a projection it is that of the projected kernel, which is smaller. Points without weight count in m alone.
        """
        batch = problem.x.chosen(numbers.tolist())
        block = problem.block(batch)
        check_block(block, numbers)
        seen, root = self.seen(block), block.new_ones(len(numbers), 1)
        if problem.weights is not None:
            root = problem.weights[numbers].clamp(min=0.0).sqrt()[:, None]
        if projection is not None:
            half = projection.half(block.T)
            product = lambda v: half.T @ (half @ v)
        else:
            gram = problem.kernel(batch).to(block.dtype)
            product = lambda v: gram @ v
        start = torch.randn(len(numbers), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        tiny = torch.finfo(block.dtype).tiny
        centered = lambda v: v - root * ((root.T @ v) / root.square().sum()) if problem.intercept else v
        v = start.to(block).repeat(1, self.shares.shape[1])
        size = v.norm(dim=0)
        for _ in range(PRODUCTS):
            v = root * centered(v / size.clamp(min=tiny))
            v = centered(root * (product(v) - seen @ (self.shares * (seen.T @ v))))
            size = v.norm(dim=0)
        return size / m
