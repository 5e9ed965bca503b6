r"""Kernel operators.

A kernel k on two sets of points :math:`x_1 \dots x_n` and :math:`z_1 \dots z_m` gives the matrix
:math:`K_{ij} = k(x_i, z_j)`. An operator holds the kernel and the points, never K: it multiplies, slices and transposes,
block by block, so that memory grows with the block and not with nm.
"""

from __future__ import annotations

from typing import Any

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
        if rows == columns == slice(None):
            return self
        square = self.x is self.z and _same(rows, columns)
        left = _part(self.x, rows)
        return KernelOperator(self.kernel, left, None if square else _part(self.z, columns))

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


def _same(rows: Any, columns: Any) -> bool:
    if isinstance(rows, slice) or isinstance(columns, slice):
        return isinstance(rows, slice) and isinstance(columns, slice) and rows == columns
    return False


def _part(points: Points, key: Any) -> Points:
    """Some points: by a slice, or by their numbers."""
    if isinstance(key, int):
        key = slice(key, key + 1 or None)
    if isinstance(key, slice):
        start, stop, stride = key.indices(len(points))
        if stride == 1:
            return points_between(points, start, max(start, stop))
        return points.chosen(range(start, stop, stride))
    if isinstance(key, Tensor):
        key = key.nonzero().flatten().tolist() if key.dtype.is_floating_point is False and str(key.dtype) == "torch.bool" \
            else key.tolist()
    numbers = [int(i) for i in key]
    bad = next((i for i in numbers if not -len(points) <= i < len(points)), None)
    if bad is not None:
        raise DataError(f"There are {len(points)} points, so point {bad} does not exist. Count from 0.")
    return points.chosen([i % len(points) for i in numbers])
