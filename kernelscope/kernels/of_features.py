r"""Kernels of features: the products of what maps say of two points.

.. math:: k(x, z) = \langle\phi(x), \psi(z)\rangle, \qquad K v = \Phi(x)\, \Psi(z)^T v

Multiplied from the right, such a kernel needs no entry of its matrix: v is pulled to the features, and pushed back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError
from ..features.base import FeatureMap, check_alike, points_between, products
from ..features.composed import with_maps
from ..progress import counting
from .base import Kernel, check_vector


class FeatureKernel(Kernel):
    r"""The products of features, :math:`\langle\phi(x), \psi(z)\rangle`.

    Args:
        left: The map :math:`\phi`.
        right: The map :math:`\psi`; without it the kernel is :math:`\langle\phi(x), \phi(z)\rangle`, which is symmetric
            and positive semidefinite.
        outputs: For maps with several outputs: ``"trace"`` sums over them, ``"full"`` keeps them apart.

    Example:
        >>> from kernelscope.features import RandomFourier
        >>> FeatureKernel(RandomFourier(100, bandwidth="median")).fitted(torch.tensor([[0.0], [2.0]]))
        FeatureKernel(RandomFourier(100, bandwidth=2, kind='orthogonal', seed=0))
    """

    def __init__(self, left: FeatureMap, right: FeatureMap | None = None, outputs: str = "trace"):
        if outputs not in ("trace", "full"):
            raise DataError(f'outputs must be "trace" or "full"; {outputs!r} came.')
        self.left, self.right, self.outputs = left, right, outputs
        self.symmetric = right is None
        self.targets = left.targets or (right is not None and right.targets)

    def __repr__(self) -> str:
        right = "" if self.right is None else f", {self.right!r}"
        outputs = "" if self.outputs == "trace" else f", outputs={self.outputs!r}"
        return f"{type(self).__name__}({self.left!r}{right}{outputs})"

    def fitted(self, x: Any) -> FeatureKernel:
        points = self.points(x)
        right = None if self.right is None else self.right.fitted(points)
        return with_maps(self, left=self.left.fitted(points), right=right)

    def points(self, x: Any) -> Points:
        # What reads targets reads inputs too.
        return (self.right if self.right is not None and self.right.targets else self.left).points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.left.columns_of(x) if self.outputs == "full" else None

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        x, z = self.points(x), None if z is None else self.points(z)
        if self.right is None:
            return self.left.inner(x, z, self.outputs == "full")
        return products(self.left, x, self.right, x if z is None else z, self.outputs == "full")

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        right = self.left if self.right is None else self.right
        near = self.points(x)
        far = near if z is None else self.points(z)
        check_vector(self, near, far, v)
        c = None if self.outputs == "full" else self.left.columns_of(near)
        return multiply_by_features(self.left, near, right, far, v, c)

    def diagonal(self, x: Any) -> Tensor:
        if self.right is None:
            return self.left.squares(x, self.outputs == "full")
        points = self.points(x)
        some = (points_between(points, rows.start, rows.stop) for rows in self.left.steps(points))
        found = torch.cat([(self.left.phi(part) * self.right.phi(part)).sum(-1) for part in some])
        return found if self.outputs == "full" or found.ndim == 1 else found.sum(1)

    @property
    def T(self) -> Kernel:
        return self if self.right is None else FeatureKernel(self.right, self.left, self.outputs)


def multiply_by_features(left: FeatureMap, x: Points, right: FeatureMap, z: Points, v: Tensor, c: int | None) -> Tensor:
    r""":math:`\Phi(x) \Psi(z)^T v`; summed over c outputs, which is a sum of such products, one for each."""
    check_alike(left, x, right, z)
    times = 1 if c is None else c
    with counting(times * (len(x) + len(z)), "K @ v", "points") as done:
        near = x.watched(done)
        far = near if z is x else z.watched(done)
        if c is None:
            return left.push(near, right.pull(far, v))
        total: Tensor | None = None
        for j in range(c):
            placed = v.new_zeros(len(far), c, *v.shape[1:])
            placed[:, j] = v
            term = left.push(near, right.pull(far, placed))[:, j]
            total = term if total is None else total + term
        assert total is not None
        return total
