r"""Kernels: functions of two points, and what can be made of them.

A kernel k gives for points x and z the matrix :math:`k(x_i, z_j)`. Sums, products and multiples of kernels are kernels.
One method is enough to write a kernel; ``matmul`` is where one that can multiply without its matrix says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..data.points import Points, as_points
from ..errors import DataError, NonFiniteError
from ..features.base import BLOCK, check_factor, points_between
from ..progress import counting


class Kernel(ABC):
    r"""A function of two points.

    Attributes:
        symmetric: Whether :math:`k(x, z) = k(z, x)`.
        targets: Whether points come with their targets.
    """

    symmetric: bool = True
    targets: bool = False

    @abstractmethod
    def __call__(self, x: Any, z: Any = None) -> Tensor:
        r"""The matrix :math:`k(x_i, z_j)`, with shape :math:`(n, m)`, or :math:`(n, c, m, c)` for c outputs.

        Args:
            x: Points.
            z: Points; without it they are x.
        """

    def points(self, x: Any) -> Points:
        """What was handed in, as points."""
        return as_points(x, self.targets)

    def columns_of(self, x: Any) -> int | None:
        """The number of outputs c of a kernel that keeps them apart, else ``None``."""
        return None

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        r""":math:`k(x, z) v` for v with shape :math:`(m, *)`, or :math:`(m, c, *)`; the matrix is never kept whole.

        Raises:
            DataError: If v does not have one entry for each column.
        """
        left = self.points(x)
        right = left if z is None else self.points(z)
        check_vector(self, left, right, v)
        return multiply_by_blocks(self.blocks(left, right), len(left), len(right), v)

    def blocks(self, x: Any, z: Any = None) -> Iterator[tuple[slice, slice, Tensor]]:
        """The matrix in blocks, each with its rows and columns; those of a symmetric one are computed once."""
        left = self.points(x)
        right = left if z is None else self.points(z)
        halved = self.symmetric and right is left
        for i in range(0, len(left), BLOCK):
            rows = slice(i, min(i + BLOCK, len(left)))
            near = points_between(left, rows.start, rows.stop)
            for j in range(i if halved else 0, len(right), BLOCK):
                columns = slice(j, min(j + BLOCK, len(right)))
                same = halved and j == i
                block = self(near, None if same else points_between(right, j, columns.stop))
                yield rows, columns, block
                if halved and not same:
                    yield columns, rows, turned(block)

    def diagonal(self, x: Any) -> Tensor:
        r""":math:`k(x_i, x_i)`, with shape :math:`(n,)`, or :math:`(n, c)`."""
        points = self.points(x)
        found = []
        for i in range(len(points)):
            one = points_between(points, i, i + 1)
            block = self(one, one)
            found.append(block[0, :, 0].diagonal() if block.ndim == 4 else block[0, 0])
        return torch.stack(found)

    def fitted(self, x: Any) -> Kernel:
        """The kernel with what it leaves to points taken from x, as a bandwidth; itself where it leaves nothing."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def T(self) -> Kernel:
        r"""The kernel with its arguments exchanged, :math:`k^T(x, z) = k(z, x)`."""
        return self if self.symmetric else Transposed(self)

    def __add__(self, other: Kernel) -> Kernel:
        return Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: Kernel | Real | float) -> Kernel:
        if isinstance(other, Kernel):
            return Product(self, other)
        return Scaled(self, float(other)) if isinstance(other, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: Real | float) -> Kernel:
        if isinstance(other, Real) and not other:
            raise DataError("A kernel is divided by a number other than nought; 0 came. Multiply it by 0 instead, or "
                            "look at where the number comes from.")
        return Scaled(self, 1 / float(other)) if isinstance(other, Real) else NotImplemented

    def __neg__(self) -> Kernel:
        return Scaled(self, -1.0)

    def __sub__(self, other: Kernel) -> Kernel:
        return Sum(self, -other) if isinstance(other, Kernel) else NotImplemented


class _Composed(Kernel):
    """A kernel made of others, which read the points."""

    parts: tuple[Kernel, ...]

    @property
    def targets(self) -> bool:  # type: ignore[override]
        return any(part.targets for part in self.parts)

    def points(self, x: Any) -> Points:
        # What reads targets reads inputs too.
        return next((part for part in self.parts if part.targets), self.parts[0]).points(x)

    def columns_of(self, x: Any) -> int | None:
        return next((c for part in self.parts if (c := part.columns_of(x)) is not None), None)

    def fitted(self, x: Any) -> Kernel:
        other = object.__new__(type(self))
        points = self.points(x)
        other.__dict__.update(self.__dict__, parts=tuple(part.fitted(points) for part in self.parts))
        return other

    def _both(self, x: Any, z: Any) -> tuple[Points, Points | None]:
        return self.points(x), None if z is None else self.points(z)

    def _blocks(self, x: Any, z: Any) -> list[Tensor]:
        x, z = self._both(x, z)
        blocks = [part(x, z) for part in self.parts]
        if len({block.shape for block in blocks}) > 1:
            raise DataError(
                "Kernels are taken together entry by entry; they gave shapes "
                f"{[tuple(block.shape) for block in blocks]}. Let all keep pairs of outputs, or all sum over them, "
                "and explain as many outputs."
            )
        return blocks


class Sum(_Composed):
    r""":math:`k(x, z) + l(x, z)`.

    Example:
        >>> from kernelscope.kernels import FeatureKernel
        >>> from kernelscope.features import FeatureMap
        >>> class Identity(FeatureMap):
        ...     size = 2
        ...     def phi(self, x):
        ...         return self.points(x).part(0, len(self.points(x))).args[0]
        >>> k = FeatureKernel(Identity())
        >>> (k + 2 * k)(torch.eye(2))
        tensor([[3., 0.],
                [0., 3.]])
    """

    def __init__(self, left: Kernel, right: Kernel):
        self.parts = left, right
        self.symmetric = left.symmetric and right.symmetric

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        return torch.add(*self._blocks(x, z))

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        x, z = self._both(x, z)
        return self.parts[0].matmul(x, z, v) + self.parts[1].matmul(x, z, v)

    def diagonal(self, x: Any) -> Tensor:
        x = self.points(x)
        return self.parts[0].diagonal(x) + self.parts[1].diagonal(x)

    @property
    def T(self) -> Kernel:
        return self if self.symmetric else Sum(self.parts[0].T, self.parts[1].T)

    def __repr__(self) -> str:
        return f"{self.parts[0]!r} + {self.parts[1]!r}"


class Product(_Composed):
    r""":math:`k(x, z)\, l(x, z)`, entry by entry."""

    def __init__(self, left: Kernel, right: Kernel):
        self.parts = left, right
        self.symmetric = left.symmetric and right.symmetric

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        return torch.mul(*self._blocks(x, z))

    def diagonal(self, x: Any) -> Tensor:
        x = self.points(x)
        return self.parts[0].diagonal(x) * self.parts[1].diagonal(x)

    @property
    def T(self) -> Kernel:
        return self if self.symmetric else Product(self.parts[0].T, self.parts[1].T)

    def __repr__(self) -> str:
        return f"{_bracketed(self.parts[0])} * {_bracketed(self.parts[1])}"


class Scaled(_Composed):
    r""":math:`a\, k(x, z)`.

    Raises:
        NonFiniteError: If the factor is NaN or infinite.
    """

    def __init__(self, kernel: Kernel, factor: float):
        if not isfinite(factor):
            raise NonFiniteError(f"A kernel is multiplied by a finite number; {factor} came, and every entry would be "
                                 "NaN or infinite. Look at where the number comes from.")
        self.parts, self.factor = (kernel,), factor
        self.symmetric = kernel.symmetric

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        return self.factor * self.parts[0](x, z)

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        return self.factor * self.parts[0].matmul(x, z, v)

    def diagonal(self, x: Any) -> Tensor:
        return self.factor * self.parts[0].diagonal(x)

    @property
    def T(self) -> Kernel:
        return self if self.symmetric else Scaled(self.parts[0].T, self.factor)

    def __repr__(self) -> str:
        return f"{self.factor:g} * {_bracketed(self.parts[0])}"


class Transposed(_Composed):
    r""":math:`k(z, x)`."""

    def __init__(self, kernel: Kernel):
        self.parts = (kernel,)
        self.symmetric = kernel.symmetric

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        return turned(self.parts[0](x if z is None else z, x))

    def diagonal(self, x: Any) -> Tensor:
        return self.parts[0].diagonal(x)

    @property
    def T(self) -> Kernel:
        return self.parts[0]

    def __repr__(self) -> str:
        return f"{_bracketed(self.parts[0])}.T"


def _bracketed(kernel: Kernel) -> str:
    """A kernel in words, as a factor."""
    return f"({kernel!r})" if isinstance(kernel, Sum) else repr(kernel)


def check_vector(kernel: Kernel, x: Points, z: Points, v: Tensor) -> int:
    """The number of axes that a product runs over; raises if v does not have them."""
    check_factor(v, "K @ v", "v")
    c = kernel.columns_of(z)
    wanted = (len(z),) if c is None else (len(z), c)
    if tuple(v.shape[:len(wanted)]) != wanted:
        other = " To multiply on the other side, use K.T @ v." if len(v) == len(x) and len(x) != len(z) else ""
        raise DataError(
            f"K @ v needs one entry of v per column of K: K has shape "
            f"{(len(x), len(z)) if c is None else (len(x), c, len(z), c)}, v has shape {tuple(v.shape)}.{other}"
        )
    return len(wanted)


def turned(block: Tensor) -> Tensor:
    """The transpose of a kernel matrix, with or without pairs of outputs."""
    return block.permute(2, 3, 0, 1) if block.ndim == 4 else block.T


def multiply_by_blocks(blocks: Iterable[tuple[slice, slice, Tensor]], n: int, m: int, v: Tensor) -> Tensor:
    """The product of a matrix of n by m points, which comes block by block, with v."""
    total: Tensor | None = None
    with counting(n * m, "K @ v", "entries") as done:
        for rows, columns, block in blocks:
            axes = block.ndim // 2
            if total is None:
                total = block.new_zeros(n, *block.shape[1:axes], *v.shape[axes:])
            total[rows] += torch.tensordot(block, v[columns].to(block), axes)
            done(block.shape[0] * block.shape[axes])
    assert total is not None
    return total
