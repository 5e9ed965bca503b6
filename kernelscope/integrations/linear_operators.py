"""Kernels for GPyTorch, and kernel matrices as the linear operators that it is made of.

A matrix in tiles, or one that is multiplied without being stored, is handed over as it is: what linear_operator does
with products alone, such as conjugate gradients, log-determinants and Lanczos, it does with it, out of core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError
from ..kernels.base import Kernel
from ..operator import KernelOperator
from ..tiles.triangle import Triangle

if TYPE_CHECKING:
    import gpytorch
    import linear_operator


def as_linear_operator(K: Triangle | KernelOperator) -> linear_operator.LinearOperator:
    """The matrix as a ``linear_operator.LinearOperator``, whose products are those of the matrix.

    It is a constant: nothing is differentiated by what it is made of.

    Args:
        K: ``ks.Tiles``, or a ``ks.KernelOperator`` with one number for each pair of points.

    Raises:
        DataError: If it is neither, or linear_operator is not installed.

    Example:
        >>> import kernelscope as ks
        >>> from kernelscope.integrations import as_linear_operator
        >>> K = ks.KernelOperator(ks.kernels.Laplacian(bandwidth=1.0), torch.eye(3))
        >>> as_linear_operator(K).shape
        torch.Size([3, 3])
    """
    if not isinstance(K, Triangle | KernelOperator) or len(K.shape) != 2:
        came = f"shape {K.shape}" if isinstance(K, KernelOperator) else what_came(K)
        raise DataError(f"A linear operator is made of a kernel matrix; {came} came. Pass ks.Tiles, or a "
                        'ks.KernelOperator of a kernel with outputs="trace".')
    return _operator_class()(matrix=K)


def as_gpytorch_kernel(kernel: Kernel) -> gpytorch.kernels.Kernel:
    """The kernel as a ``gpytorch.kernels.Kernel``, for models of Gaussian processes.

    Its numbers stay as they are: it has no hyperparameters that gpytorch could learn, though others around it may.

    Args:
        kernel: A kernel with one number for each pair of points.

    Raises:
        DataError: If it is no kernel, or gpytorch is not installed.

    Example:
        >>> import kernelscope as ks
        >>> from kernelscope.integrations import as_gpytorch_kernel
        >>> k = as_gpytorch_kernel(ks.kernels.Laplacian(bandwidth=1.0))
        >>> k(torch.tensor([[0.0], [1.0]])).to_dense()
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """
    if not isinstance(kernel, Kernel):
        raise DataError(f"A kernel for gpytorch is made of a kernel; {what_came(kernel)} came. Pass for example "
                        "ks.kernels.Laplacian(bandwidth=20.0).")
    return _kernel_class()(kernel)


@lru_cache(maxsize=1)
def _operator_class() -> Any:
    """A subclass of what may not be installed."""
    try:
        from linear_operator import LinearOperator, to_linear_operator
    except ModuleNotFoundError as error:
        raise DataError("as_linear_operator needs linear_operator, which is not installed. Install it with pip install "
                        "linear_operator.") from error

    class MatrixOperator(LinearOperator):
        def __init__(self, matrix: Triangle | KernelOperator):
            super().__init__(matrix=matrix)
            self.matrix = matrix

        def _matmul(self, rhs: Tensor) -> Tensor:
            columns = rhs.movedim(-2, 0) if rhs.ndim > 1 else rhs
            found = (self.matrix @ columns.reshape(len(columns), -1)).to(rhs)
            found = found.view(self.matrix.shape[0], *columns.shape[1:])
            return found.movedim(0, -2) if rhs.ndim > 1 else found

        # Rows and columns are read where they are, instead of being multiplied out of the matrix.

        def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Any:
            part = self.matrix[row_index, col_index]
            return to_linear_operator(part) if isinstance(part, Tensor) else MatrixOperator(part)

        def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Any) -> Tensor:
            rows, i = row_index.unique(return_inverse=True)
            columns, j = col_index.unique(return_inverse=True)
            part = self.matrix[rows, columns]
            return (part if isinstance(part, Tensor) else part.dense())[i, j]

        def _size(self) -> torch.Size:
            return torch.Size(self.matrix.shape)

        def _transpose_nonbatch(self) -> MatrixOperator:
            return MatrixOperator(self.matrix.T)

        def _diagonal(self) -> Tensor:
            return self.matrix.diagonal()

        def _bilinear_derivative(self, left_vecs: Tensor, right_vecs: Tensor) -> tuple[Tensor | None, ...]:
            return ()

        @property
        def dtype(self) -> torch.dtype:
            return self._one.dtype

        @property
        def device(self) -> torch.device:
            return self._one.device

        @property
        def _one(self) -> Tensor:
            """An entry, of the precision and on the device of all of them."""
            return self.matrix[:1, :1] if isinstance(self.matrix, Triangle) else self.matrix[:1, :1].dense()

    return MatrixOperator


@lru_cache(maxsize=1)
def _kernel_class() -> Any:
    """A subclass of what may not be installed."""
    try:
        from gpytorch.kernels import Kernel as Theirs
    except ModuleNotFoundError as error:
        raise DataError("as_gpytorch_kernel needs gpytorch, which is not installed. Install it with pip install "
                        "gpytorch.") from error

    class GPyTorchKernel(Theirs):
        has_lengthscale = False

        def __init__(self, kernel: Kernel):
            super().__init__()
            self.kernel = kernel

        def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
            if x1.ndim > 2 or params.get("last_dim_is_batch"):
                raise DataError(f"{self.kernel!r} takes points with shape (n, d), and shape {tuple(x1.shape)} came. "
                                "Fit batches one by one.")
            same = x1 is x2 or (x1.shape == x2.shape and torch.equal(x1, x2))
            if diag:
                return self.kernel.diagonal(x1) if same else self.kernel(x1, x2).diagonal()
            return self.kernel(x1) if same else self.kernel(x1, x2)

    return GPyTorchKernel
