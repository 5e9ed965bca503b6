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

from . import linalg
from .data.points import Points
from .errors import DataError, OutOfRange
from .features.base import points_between
from .kernels.base import Kernel
from .linalg import Eigenpairs, Estimate
from .progress import counting, telling


class KernelOperator:
    r"""The matrix of a kernel on two sets of points, multiplied without being stored.

    Args:
        kernel: The kernel.
        x: The points of the rows.
        z: The points of the columns; without it, or where it is x itself, they are x, and the operator is square.
        progress: Whether a bar is shown; on a terminal or in a notebook, and for what takes long, if not given.

    Example:
        >>> import torch, kernelscope as ks
        >>> k = ks.kernels.Tangent(torch.nn.Linear(2, 1))
        >>> K = ks.KernelOperator(k, torch.eye(2))
        >>> K @ torch.ones(2)
        tensor([3., 3.])
        >>> K.shape, K[:1].shape
        ((2, 2), (1, 2))
    """

    def __init__(self, kernel: Kernel, x: Any, z: Any = None, progress: bool | None = None):
        if not isinstance(kernel, Kernel):
            raise DataError(
                f"An operator is made from a kernel, and a {type(kernel).__name__} came. "
                "Pass for example ks.kernels.Tangent(model)."
            )
        self.kernel = kernel
        self.x: Points = kernel.points(x)
        self.z: Points = self.x if z is None or z is x else kernel.points(z)
        self.progress = progress
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
        with telling(self.progress):
            return self.kernel.matmul(self.x, None if self.x is self.z else self.z, v)

    def __getitem__(self, key: Any) -> KernelOperator:
        if isinstance(key, tuple) and len(key) != 2:
            raise DataError(f"An operator is cut by rows and columns, K[rows, columns]; {len(key)} entries came.")
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        square = self.x is self.z and isinstance(rows, slice) and isinstance(columns, slice) and rows == columns
        return KernelOperator(self.kernel, _part(self.x, rows), None if square else _part(self.z, columns),
                              self.progress)

    @property
    def T(self) -> KernelOperator:
        """The transpose."""
        if self.symmetric:
            return self
        return KernelOperator(self.kernel.T, self.z, None if self.x is self.z else self.x, self.progress)

    def diagonal(self) -> Tensor:
        """The entries k(x_i, x_i), with shape (n,), or (n, c).

        Raises:
            DataError: If rows and columns are not the same points.
        """
        self._check_square("a diagonal")
        return self.kernel.diagonal(self.x)

    def dense(self) -> Tensor:
        """The matrix itself, with this operator's shape."""
        return self.kernel(self.x, None if self.x is self.z else self.z)

    # -- of the matrix as a whole ------------------------------------------------------------------------------------

    def trace(self, probes: int | None = None, seed: int = 0) -> Estimate:
        """The trace: the sum of the diagonal; or, with ``probes``, an estimate from so many products.

        Raises:
            DataError: If rows and columns are not the same points.

        Example:
            >>> import torch, kernelscope as ks
            >>> K = ks.KernelOperator(ks.kernels.Tangent(torch.nn.Linear(2, 1)), torch.eye(2))
            >>> K.trace()
            4 (exact)
        """
        self._check_square("a trace")
        if probes is None:
            return Estimate(float(self.diagonal().double().sum()), 0.0, "exact")
        with telling(self.progress):
            return linalg.trace(self._times, self._width, probes, seed)

    def norm(self, kind: str = "frobenius", probes: int | None = None, seed: int = 0) -> Estimate:
        """A norm of the matrix.

        Args:
            kind: ``"frobenius"``, the root of the sum of all squared entries, each of which is computed; or
                ``"spectral"``, the largest singular value, from products.
            probes: From how many products with K and with its transpose the Frobenius norm is estimated; without it
                it is exact.
            seed: Which random numbers the estimate is made from.

        Raises:
            DataError: If there is no such norm.
        """
        if kind not in ("frobenius", "spectral"):
            raise DataError(f'The norm is "frobenius" or "spectral"; {kind!r} came.')
        back = lambda v: self.T._times(v)
        with telling(self.progress):
            if kind == "spectral":
                return linalg.spectral(self._times, None if self.symmetric else back, self._width)
            if probes is not None:
                return linalg.frobenius(self._times, back, self._width, probes, seed)
            total = 0.0
            with counting(len(self.x) * len(self.z), "norm", "entries") as done:
                for rows, columns, block in self.kernel.blocks(self.x, self.z):
                    total += float(block.double().square().sum())
                    done((rows.stop - rows.start) * (columns.stop - columns.start))
        return Estimate(total**0.5, 0.0, "exact")

    def eigenpairs(self, k: int = 6, tolerance: float = 1e-8, seed: int = 0) -> Eigenpairs:
        r"""The k largest eigenvalues and their vectors, with shape :math:`(n, k)`, or :math:`(n, c, k)`, from products.

        Args:
            k: How many.
            tolerance: How small :math:`\|K v - \lambda v\|` has to be, relative to the largest eigenvalue; the
                precision of the kernel sets a limit of its own.
            seed: Where the search starts.

        Raises:
            DataError: If the matrix is not symmetric, or has fewer rows.

        Example:
            >>> import torch, kernelscope as ks
            >>> K = ks.KernelOperator(ks.kernels.Tangent(torch.nn.Linear(2, 1)), torch.eye(2))
            >>> K.eigenpairs(2).values.round(decimals=4).tolist()
            [3.0, 1.0]
        """
        if not self.symmetric:
            raise DataError(
                f"Eigenpairs are those of a symmetric operator; this one, with shape {self.shape}, is not. Make it of "
                "a symmetric kernel and one set of points, KernelOperator(kernel, x), or ask for K.norm('spectral')."
            )
        with telling(self.progress):
            found = linalg.eigenpairs(self._times, self._width, k, tolerance=tolerance, seed=seed)
        shape = self.shape[len(self.shape) // 2:]
        return Eigenpairs(found.values, found.vectors.reshape(*shape, k), found.residuals, found.converged)

    @property
    def _width(self) -> int:
        """The number of columns of the matrix, in which every output is one of its own."""
        return len(self.z) * (self._columns or 1)

    def _times(self, v: Tensor) -> Tensor:
        """Products with columns of shape (m c, b)."""
        return (self @ v.reshape(*self.shape[len(self.shape) // 2:], -1)).flatten(0, -2)

    def _check_square(self, what: str) -> None:
        if self.x is not self.z:
            raise DataError(
                f"Only a square operator has {what}; this one has shape {self.shape}, on two sets of points. "
                "Make it with KernelOperator(kernel, x)."
            )


def _part(points: Points, key: Any) -> Points:
    """Some points: by a slice, by their numbers, or by a truth value for each."""
    numbers = range(*key.indices(len(points))) if isinstance(key, slice) else places_of(key, len(points))
    if not len(numbers):
        raise DataError(f"None of the {len(points)} points is selected, and an operator needs one. Select some.")
    if isinstance(numbers, range) and numbers.step == 1:
        return points_between(points, numbers.start, numbers.stop)
    return points.chosen(numbers)


def places_of(key: Any, count: int) -> Sequence[int]:
    """The places of points that are told by their numbers, or by a truth value for each."""
    try:
        found = torch.as_tensor(list(key) if isinstance(key, range) else key)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Points are selected by a slice, their numbers or truth values; {key!r} came. "
                        "Pass a list of whole numbers.") from error
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
        # An IndexError too, by which a loop over the rows ends.
        raise OutOfRange(f"There are {count} points, so point {bad} does not exist. Count from 0.")
    return [i % count for i in numbers]
