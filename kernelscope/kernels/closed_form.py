r"""Kernels that are a formula of two vectors.

Such a kernel is a function of one number for each pair of vectors, a distance, a product or an angle, which one matrix
product gives for many pairs. The matrix is computed in tiles that stay in the cache, in memory that is used again and
again; K @ v multiplies each tile while it is there, and no more is ever kept than a budget allows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..budget import as_bytes
from ..data.points import Points
from ..linalg import times
from ..progress import counting
from .base import Kernel, check_vector
from .distances import Side
from .tiling import LARGE, SQUARE, TILE, Cut, pieces, planned
from .vectors import checked, common, flat, read

#: How many numbers each entry takes while it is differentiated.
TAPE = 16

#: How many rows are mirrored at a time.
MIRRORED = 256


class ClosedForm(Kernel):
    r"""A kernel that is a formula of two vectors; points of any shape are read as vectors.

    It is computed where the points are and in their precision (of two, the finer one; half precision and whole numbers
    are computed in single precision). ``k(x, z)`` of tensors that require a gradient can be differentiated, by the
    points of both sides; where a kernel has a kink, at :math:`x = z`, the derivative is taken as nought.

    Attributes:
        memory: About how many bytes products may use, beside the points, v and the answer.
    """

    #: How many numbers each entry takes while its value is computed.
    _buffers: int = 1

    def __init__(self, memory: int | str = "1GB"):
        self.memory = as_bytes(memory)

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        self._check_ready()
        z = None if z is x else z
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, z, *self._numbers)):
            return self._differentiable(x, z)
        left = self.points(x)
        right = left if z is None else self.points(z)
        found: Tensor | None = None
        for rows, columns, block in self._tiles(left, right):
            if found is None:
                if block.shape[-2:] == (len(left), len(right)):
                    return block
                found = block.new_empty(*block.shape[:-2], len(left), len(right))
            found[..., rows, columns] = block
        assert found is not None
        return found

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        return self._multiplied(x, z, v)

    def blocks(self, x: Any, z: Any = None) -> Iterator[tuple[slice, slice, Tensor]]:
        left = self.points(x)
        for rows, columns, block in self._tiles(left, left if z is None or z is x else self.points(z)):
            yield rows, columns, block.clone()

    def diagonal(self, x: Any) -> Tensor:
        self._check_ready()
        points = self.points(x)
        bands = pieces(0, len(points), self._cut(points, points, SQUARE, self._buffers).band)
        return torch.cat([self._diagonal(flat(read(points, rows))) for rows in bands])

    def gradient(self, x: Any, z: Any, v: Tensor) -> Tensor:
        r"""The gradient of :math:`(K v)_i = \sum_j k(x_i, z_j) v_j` by the point :math:`x_i`.

        Args:
            x: Points, at which the gradient is taken.
            z: Points; without them they are x, and only the first argument of the kernel is differentiated.
            v: The weights, with shape :math:`(m, *)`.

        Returns:
            For v with shape :math:`(m,)` the shape of x; for shape :math:`(m, c)` the shape :math:`(n, c, *)`, in which
            :math:`*` is the shape of a point.

        Raises:
            DataError: If v does not have one entry for each column.

        Example:
            >>> from kernelscope.kernels import Gaussian
            >>> x, centers = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]])
            >>> Gaussian(bandwidth=1.0).gradient(x, centers, torch.tensor([1.0, 0.0]))   # -(x - z) k(x, z)
            tensor([[-0.3679, -0.3679]])
        """
        self._check_ready()
        left = self.points(x)
        right = left if z is None else self.points(z)
        check_vector(self, left, right, v)
        cut = self._cut(left, right, TILE, TAPE)
        v2, center, found = v.reshape(len(v), -1), None, []
        with counting(len(left) * len(right), "gradient", "entries") as done:
            for rows in pieces(0, len(left), cut.rows):
                raw = read(left, rows)
                total: Tensor | None = None
                for columns in pieces(0, len(right), cut.columns):
                    far = read(right, columns)
                    dtype = common(raw, far)
                    near, other = flat(raw).to(dtype), flat(far).to(raw.device, dtype)
                    if center is None:
                        center = self._center(other)
                    slopes = self._slopes(near, other, center, v2[columns].to(near))
                    total = slopes if total is None else total + slopes
                    done(len(near) * len(other))
                assert total is not None
                found.append(total.reshape(len(total), *v.shape[1:], *raw.shape[1:]))
        return torch.cat(found)

    # -- what a formula says -----------------------------------------------------------------------------------------

    @abstractmethod
    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        """Vectors of one side, as their product is taken."""

    @abstractmethod
    def _block(self, rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
        """The kernel of all pairs: in memory that may be written over, or by operations that can be differentiated."""

    @abstractmethod
    def _diagonal(self, vectors: Tensor) -> Tensor:
        """The kernel of each vector with itself."""

    def _center(self, vectors: Tensor) -> Tensor | None:
        """What may be subtracted from all vectors before products are taken."""
        return None

    def _check_ready(self) -> None:
        """Whether the kernel has all its numbers."""

    @property
    def _numbers(self) -> tuple[Any, ...]:
        """The numbers of the kernel, by which it may be differentiated."""
        return ()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _differentiable(self, x: Any, z: Any) -> Tensor:
        """The matrix as a whole, from tensors whose gradients are kept."""
        whole = lambda t: checked(t) if isinstance(t, Tensor) else read(self.points(t), slice(0, len(self.points(t))))
        near = whole(x)
        far = near if z is None else whole(z)
        dtype = common(near, far)
        far = flat(far).to(near.device, dtype)
        near = far if z is None else flat(near).to(dtype)
        center = self._center(far.detach())
        rows, columns = self._side(near, center, True), self._side(far, center, False)
        return self._block(rows, columns, z is None)

    def _slopes(self, near: Tensor, far: Tensor, center: Tensor | None, v: Tensor) -> Tensor:
        """The gradients by the vectors of the rows, with shape (r, c, d), for v with shape (m, c)."""
        with torch.enable_grad():
            near = near.detach().requires_grad_()
            rows, columns = self._side(near, center, True), self._side(far, center, False)
            y = (self._block(rows, columns, False) @ v).sum(0)
            # One output at a time: what all of them keep at once would not fit where one does.
            each = [torch.autograd.grad(output, near, retain_graph=True)[0] for output in y]
        return torch.stack(each, 1)

    def _multiplied(self, x: Any, z: Any, v: Tensor, slope: bool = False) -> Tensor:
        """The product of the matrix, or of its derivative by the bandwidth, with v."""
        left = self.points(x)
        right = left if z is None or z is x else self.points(z)
        check_vector(self, left, right, v)
        v2: Tensor | None = None
        with counting(len(left) * len(right), "K @ v", "entries") as done:
            for rows, columns, block in self._tiles(left, right, slope):
                if v2 is None:
                    v2 = v.reshape(len(v), -1).to(block)
                    total = block.new_zeros(len(left), v2.shape[1])
                # What remembers a tile for its derivative needs one that stays.
                total[rows] += times(block.clone() if v2.requires_grad else block, v2[columns])
                done(block.numel())
        return total.reshape(len(left), *v.shape[1:])

    def _cut(self, left: Points, right: Points, sides: tuple[int, int], buffers: int) -> Cut:
        some = slice(0, 1)
        near = read(left, some)
        dtype = common(near, near if right is left else read(right, some))
        return planned(max(len(left), len(right)), near[0].numel(), dtype.itemsize, buffers, self.memory,
                       sides if near.device.type == "cpu" else LARGE)

    def _tiles(self, left: Points, right: Points, slope: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """The matrix in tiles, each good until the next; of a symmetric one each is computed once."""
        self._check_ready()
        halved = right is left
        cut = self._cut(left, right, SQUARE if halved else TILE, TAPE if slope else self._buffers + 1)
        memory: Tensor | None = None
        center: Tensor | None = None
        for wide in pieces(0, len(right), cut.band):
            far = read(right, wide)
            for high in pieces(0, wide.stop if halved else len(left), cut.band):
                near = far if halved and high == wide else read(left, high)
                dtype = common(near, far)
                far2 = flat(far).to(near.device, dtype)
                with torch.no_grad():
                    if memory is None:
                        memory = far2.new_empty(min(cut.rows, len(left)) * min(cut.columns, len(right)))
                        center = self._center(far2)
                    all_rows = self._side(flat(near).to(dtype), center, True)
                    all_columns = self._side(far2, center, False)
                for rows in pieces(high.start, high.stop, cut.rows):
                    some = all_rows.part(slice(rows.start - high.start, rows.stop - high.start))
                    for columns in pieces(wide.start, wide.stop, cut.columns):
                        if halved and columns.start < rows.start:
                            continue
                        same = halved and rows == columns
                        others = all_columns.part(slice(columns.start - wide.start, columns.stop - wide.start))
                        block = self._tile(some, others, same, memory, slope)
                        yield rows, columns, block
                        if halved and not same:
                            yield columns, rows, block.mT

    def _tile(self, rows: Side, columns: Side, same: bool, memory: Tensor, slope: bool) -> Tensor:
        shape = len(rows.vectors), len(columns.vectors)
        with torch.no_grad():
            out = memory[:shape[0] * shape[1]].view(shape)
            block = (self._slope if slope else self._block)(rows, columns, same, out)
            # A product of a matrix with its transpose may be symmetric only up to rounding.
            return _mirrored(block) if same else block

    def _slope(self, rows: Side, columns: Side, same: bool, out: Tensor) -> Tensor:
        """The derivative by the bandwidth, of a kernel that has one."""
        raise NotImplementedError


def _mirrored(block: Tensor) -> Tensor:
    """A square matrix, whose entries below the diagonal become those above it, in pieces that stay in the cache."""
    for some in pieces(0, block.shape[-1], MIRRORED):
        corner = block[..., some, some]
        corner.copy_(corner.triu() + corner.triu(1).mT)
        block[..., some.stop:, some] = block[..., some, some.stop:].mT
    return block
