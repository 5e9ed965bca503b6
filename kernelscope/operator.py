r"""Kernel operators.

A kernel k on two sets of points :math:`x_1 \dots x_n` and :math:`z_1 \dots z_m` gives the matrix
:math:`K_{ij} = k(x_i, z_j)`. An operator holds the kernel and the points, never K: it multiplies, slices and
transposes, block by block, so that memory grows with the block and not with nm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .data.points import Points
from .errors import DataError
from .features.base import points_between
from .kernels.base import Kernel


class KernelOperator:
    r"""The matrix of a kernel on two sets of points, multiplied without being stored.

    Args:
        kernel: The kernel.
        x: The points of the rows.
        z: The points of the columns; without it they are x, and the operator is square.

    Example:
        >>> import torch, kernelscope as ks
        >>> k = ks.kernels.Tangent(torch.nn.Linear(2, 1))
        >>> K = ks.KernelOperator(k, torch.eye(2))
        >>> K @ torch.ones(2)
        tensor([3., 3.])
        >>> K.shape, K[:1].shape
        ((2, 2), (1, 2))
    """

    def __init__(self, kernel: Kernel, x: Any, z: Any = None):
        if not isinstance(kernel, Kernel):
            raise DataError(
                f"An operator is made from a kernel, and a {type(kernel).__name__} came. "
                "Pass for example ks.kernels.Tangent(model)."
            )
        self.kernel = kernel
        self.x: Points = kernel.points(x)
        self.z: Points = self.x if z is None else kernel.points(z)
        self._columns = kernel.columns_of(self.z)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m); or (n, c, m, c) for a kernel that keeps c outputs apart."""
        c = self._columns
        return (len(self.x), len(self.z)) if c is None else (len(self.x), c, len(self.z), c)

    @property
    def symmetric(self) -> bool:
        """Whether K is its own transpose."""
        return self.kernel.symmetric and self.x is self.z

    def __repr__(self) -> str:
        return f"KernelOperator({self.kernel!r}, shape={self.shape})"

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.kernel.matmul(self.x, None if self.x is self.z else self.z, v)

    def __getitem__(self, key: Any) -> KernelOperator:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        square = self.x is self.z and isinstance(rows, slice) and isinstance(columns, slice) and rows == columns
        return KernelOperator(self.kernel, _part(self.x, rows), None if square else _part(self.z, columns))

    @property
    def T(self) -> KernelOperator:
        """The transpose."""
        return self if self.symmetric else KernelOperator(self.kernel.T, self.z, None if self.x is self.z else self.x)

    def diagonal(self) -> Tensor:
        """The entries k(x_i, x_i), with shape (n,), or (n, c).

        Raises:
            DataError: If rows and columns are not the same points.
        """
        if self.x is not self.z:
            raise DataError(
                f"Only a square operator has a diagonal; this one has shape {self.shape}, on two sets of points. "
                "Make it with KernelOperator(kernel, x)."
            )
        return self.kernel.diagonal(self.x)

    def dense(self) -> Tensor:
        """The matrix itself, with this operator's shape."""
        return self.kernel(self.x, None if self.x is self.z else self.z)


def _part(points: Points, key: Any) -> Points:
    """Some points: by a slice, by their numbers, or by a truth value for each."""
    numbers = range(*key.indices(len(points))) if isinstance(key, slice) else _numbers(key, len(points))
    if not len(numbers):
        raise DataError(f"None of the {len(points)} points is selected, and an operator needs one. Select some.")
    if isinstance(numbers, range) and numbers.step == 1:
        return points_between(points, numbers.start, numbers.stop)
    return points.chosen(numbers)


def _numbers(key: Any, count: int) -> Sequence[int]:
    found = torch.as_tensor(list(key) if isinstance(key, range) else key)
    if found.dtype == torch.bool:
        if tuple(found.shape) != (count,):
            raise DataError(
                f"Points are selected by one truth value for each of the {count}; shape {tuple(found.shape)} came. "
                f"Pass shape ({count},), or their numbers."
            )
        return found.nonzero().flatten().tolist()
    if found.numel() and (found.is_floating_point() or found.ndim > 1):
        raise DataError(
            f"Points are selected by a slice, their numbers or truth values; {found.dtype} of shape "
            f"{tuple(found.shape)} came. Pass a list of whole numbers."
        )
    numbers = [int(i) for i in found.flatten().tolist()]
    bad = next((i for i in numbers if not -count <= i < count), None)
    if bad is not None:
        raise DataError(f"There are {count} points, so point {bad} does not exist. Count from 0.")
    return [i % count for i in numbers]
