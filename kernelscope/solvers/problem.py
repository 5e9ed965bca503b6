r"""What a kernel machine is fitted to.

Among the functions :math:`f = \sum_j \alpha_j\, k(\cdot, z_j)` of p centers the one is sought that minimises

.. math:: \frac1n \sum_i w_i\, |f(x_i) - y_i|^2 + \lambda\, \|f\|_H^2, \qquad \|f\|_H^2 = \alpha^T K_{zz}\, \alpha.

Its coefficients solve :math:`(K_{zx} W K_{xz} + n\lambda K_{zz})\,\alpha = K_{zx} W y`. The matrix :math:`K_{xz}` is
read in blocks of rows and never kept; one reading of all rows is a *pass*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..data.points import Points
from ..features.base import points_between
from ..kernels.base import Kernel
from ..tiles.triangle import LANES, Triangle

#: The share of the memory that a block of rows may fill, and how many bytes it fills on a processor: as many as the
#: memory of the last block can be taken for again. A block has some rows in any case.
SHARE, BLOCK, ROWS = 0.25, 3 * 2**23, 256


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel, points with targets, centers, and how smooth the machine shall be.

    Attributes:
        kernel: The kernel.
        x: The points.
        y: Their targets, with shape (n, c).
        z: The centers; the same object as ``x`` where every point is a center.
        ridge: The ridge, one or several from the same passes.
        weights: The weights of the points, with shape (n,) and mean 1; ``None`` where all are 1.
        intercept: Whether a constant is added that costs nothing.
        memory: About how many bytes may be used.
        tiles: The kernel matrix of all points, where it is kept; only where every point is a center.
    """

    kernel: Kernel
    x: Points
    y: Tensor
    z: Points
    ridge: tuple[float, ...] = (0.0,)
    weights: Tensor | None = None
    intercept: bool = False
    memory: int = 10**9
    tiles: Triangle | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The number of points n and of centers p."""
        return len(self.x), len(self.z)

    @property
    def square(self) -> bool:
        """Whether every point is a center."""
        return self.x is self.z

    @property
    def outputs(self) -> int:
        """The number of outputs c."""
        return self.y.shape[1]

    def gram(self) -> Tensor:
        """The kernel matrix of the centers, with shape (p, p), in the precision of the targets."""
        return self.kernel(self.z).to(self.y.dtype)

    def rows(self, each: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows of :math:`K_{xz}`, with shape (b, p); ``each`` bytes more are needed for a row."""
        yield from self._blocks(self.x, each)

    def some_rows(self, numbers: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the rows of some points; the slices count among the numbers."""
        yield from self._blocks(self.x.chosen(numbers.tolist()), 0)

    def _blocks(self, points: Points, each: int) -> Iterator[tuple[slice, Tensor]]:
        n, step = len(points), self.stride(len(self.z), each)
        for i in range(0, n, step):
            part = slice(i, min(i + step, n))
            yield part, self.block(points_between(points, part.start, part.stop))

    def height(self) -> int:
        """How many rows a block may have."""
        return self._room(len(self.z) * self.y.dtype.itemsize)

    def stride(self, columns: int, each: int = 0) -> int:
        """How many rows of so many columns are read at a time; ``each`` bytes more are needed for a row."""
        row = columns * self.y.dtype.itemsize
        most = self._room(row + each)
        return most if self.y.device.type != "cpu" else min(most, max(ROWS, BLOCK // row))

    def _room(self, row: int) -> int:
        """For how many rows of so many bytes a block has room."""
        return max(1, int(SHARE * self.memory // row))

    def center_parts(self) -> Iterator[Points]:
        """The centers, as many at once as rows."""
        yield from (points_between(self.z, i, i + self.height()) for i in range(0, len(self.z), self.height()))

    def block(self, points: Points) -> Tensor:
        """The kernel of some points with the centers, with shape (b, p)."""
        return self.kernel(points, self.z).to(self.y.dtype)

    def gram_times(self, v: Tensor) -> Tensor:
        r""":math:`K_{zz} v`, in the precision of the targets; the matrix is never kept."""
        return self.kernel.matmul(self.z, None, v.to(self.y)).to(self.y.dtype)

    # -- what processes that share the centers do each for its own (``Shared``); one process alone has all of them ---

    @property
    def processes(self) -> int:
        """How many there are."""
        return 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks for all."""
        return True

    def agree(self, number: float, what: str) -> None:
        """Makes sure that a number is the same in all processes.

        Raises:
            DataError: If it is not.
        """
        del number, what

    def own_rows(self, each: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows, like ``rows``, of the columns that this process has."""
        yield from self.rows(each)

    def own_block(self, points: Points) -> Tensor:
        """The kernel of some points with the centers that this process has."""
        return self.block(points)

    def own(self, columns: Tensor) -> Tensor:
        """Of coefficients with shape (p, m), those of the centers that this process has."""
        return columns

    def summed(self, values: Tensor) -> Tensor:
        """The sum of what the processes found, in all of them."""
        return values

    def gathered(self, own: Tensor) -> Tensor:
        """What each process found for its own centers, one after the other: (p, m) again, in all of them."""
        return own

    def laned(self, lane: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """The sum of what lanes give, taken in their order; each lane is computed by one process.

        Args:
            lane: Gives what a lane does.
            like: Has the shape and the precision of that.
        """
        total = lane(0)
        for number in range(1, LANES):
            total += lane(number)
        return total.to(like)

    # -- targets -----------------------------------------------------------------------------------------------------

    def weighed(self, values: Tensor, part: slice | Tensor = slice(None)) -> Tensor:
        """Rows of values times the weights of their points."""
        return values if self.weights is None else values * self.weights[part, None]

    def mean(self) -> Tensor:
        """The weighted mean of the targets, with shape (c,)."""
        return self.weighed(self.y).mean(0)
