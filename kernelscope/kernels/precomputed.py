r"""A kernel whose values stand in a table: points are numbers of its rows, and :math:`k(i, j) = M_{ij}`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import DataError
from .base import Kernel


class Precomputed(Kernel):
    r"""The kernel of numbered points whose matrix is known.

    Args:
        matrix: M, symmetric, with shape (n, n).

    Raises:
        DataError: If it is no square matrix.

    Example:
        >>> import torch, kernelscope as ks
        >>> k = ks.kernels.Precomputed(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
        >>> k(torch.tensor([1]), torch.tensor([0, 1]))
        tensor([[1., 3.]])
    """

    def __init__(self, matrix: Tensor):
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            came = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise DataError(f"The matrix of a kernel has shape (n, n); {came} came. Pass k(x) of some points x.")
        self.matrix = matrix

    def __repr__(self) -> str:
        return f"Precomputed({len(self.matrix)} points)"

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        rows = self._numbers(x)
        return self.matrix[rows][:, rows if z is None else self._numbers(z)]

    def diagonal(self, x: Any) -> Tensor:
        return self.matrix.diagonal()[self._numbers(x)]

    def _numbers(self, x: Any) -> Tensor:
        points = self.points(x)
        numbers = points.part(0, len(points)).args[0].flatten().long()
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(self.matrix):
            raise DataError(f"A precomputed kernel of {len(self.matrix)} points knows the numbers 0 to "
                            f"{len(self.matrix) - 1}; {int(numbers.max())} is the largest and {int(numbers.min())} "
                            "the least that came. Pass numbers of its rows.")
        return numbers
