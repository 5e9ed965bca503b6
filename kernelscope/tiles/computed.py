r"""Tiles computed from a kernel, and a matrix whose tiles are computed whenever they are asked for.

A tile on the diagonal is :math:`k(x_I)` alone, of which the lower half is taken: it is symmetric by construction. All
others are :math:`k(x_I, x_J)` with :math:`J < I`. A tile that is not finite is refused where it is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import as_count, what_came
from ..budget import as_bytes
from ..data.points import Points
from ..errors import DataError, NonFiniteError
from ..features.base import points_between
from ..kernels.base import Kernel
from .triangle import LANES, Triangle

#: The largest side of a tile that is not stored, and the smallest.
LARGEST, SMALLEST = 1024, 64

#: How far a tile on the diagonal may be from symmetric, relative to its largest entry.
ASYMMETRY = {torch.float64: 1e-10, torch.float32: 1e-4}


class Computed(Triangle):
    """The matrix of a kernel, whose tiles are computed when they are needed; as many as have room stay in memory.

    Args:
        kernel: A symmetric kernel with one number for each pair of points.
        x: The points.
        side: The side of a tile; if not given, one that suits the number of points.
        memory: About how much the tiles that are kept may use.

    Example:
        >>> import torch, kernelscope as ks
        >>> K = Computed(ks.kernels.Laplacian(bandwidth=1.0), torch.tensor([[0.0], [1.0]]))
        >>> K @ torch.ones(2)
        tensor([1.3679, 1.3679])
    """

    def __init__(self, kernel: Kernel, x: Any, side: int | None = None, memory: int | str = "1GB"):
        check_kernel(kernel)
        points = kernel.points(x)
        if side is None:
            side = SMALLEST
            while side < LARGEST and side * LANES < len(points):
                side *= 2
        super().__init__(kernel, points, as_count(side, "side", 1), precision(kernel, points), as_bytes(memory))

    def __repr__(self) -> str:
        return f"Computed({self.kernel!r}, shape={self.shape})"

    def _tile(self, i: int, j: int) -> Tensor:
        return computed(self.kernel, self.points, self.strip(i), self.strip(j))


def check_kernel(kernel: Any) -> None:
    """Refuses what has no symmetric matrix of numbers.

    Raises:
        DataError: If it is no kernel, or not a symmetric one.
    """
    if not isinstance(kernel, Kernel):
        raise DataError(f"Tiles are those of a kernel; {what_came(kernel)} came. Pass for example "
                        "ks.kernels.Laplacian(bandwidth=20.0).")
    if not kernel.symmetric:
        raise DataError(f"Tiles are kept of the lower triangle of a symmetric matrix, and {kernel!r} is not symmetric. "
                        "Use k + k.T, or a KernelOperator.")


def precision(kernel: Kernel, points: Points) -> torch.dtype:
    """The precision that a kernel gives for points.

    Raises:
        DataError: If it does not give one real number for each pair.
    """
    one = kernel(points_between(points, 0, 1))
    if tuple(one.shape) != (1, 1) or one.dtype not in ASYMMETRY:
        raise DataError(f"Tiles hold one number in single or double precision for each pair of points; {kernel!r} gave "
                        f'{one.dtype} of shape {tuple(one.shape)} for one. Use outputs="trace", and points in float32 '
                        "or float64.")
    return one.dtype


@torch.no_grad()
def computed(kernel: Kernel, points: Points, rows: slice, columns: slice) -> Tensor:
    """The tile of some rows and columns, finite; symmetric where these are the same.

    Raises:
        NonFiniteError: If the kernel of two points is NaN or infinite.
        DataError: If the kernel is not symmetric.
    """
    near = points_between(points, rows.start, rows.stop)
    same = rows == columns
    tile = kernel(near, None if same else points_between(points, columns.start, columns.stop))
    # A sum shows in one number whether there is something to look for; it may overflow itself.
    if not bool(tile.sum().isfinite()) and not bool(tile.isfinite().all()):
        i, j = (~tile.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(f"The kernel of points {rows.start + i} and {columns.start + j} is NaN or infinite. Look "
                             "at the kernel's numbers and at these points.")
    if not same:
        return tile
    gap, size = float((tile - tile.T).abs().max()), float(tile.abs().max())
    if gap > ASYMMETRY[tile.dtype] * size:
        raise DataError(f"{kernel!r} says it is symmetric, and its matrix is not: entries of points from {rows.start} "
                        f"to {rows.stop - 1} differ by {gap:.1e}, of {size:.1e} at most. Mend the kernel.")
    return tile.tril() + tile.tril(-1).T
