"""Products of the gradients of points with those of others, in blocks that fit into a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..budget import as_words
from ..data.points import Points
from ..errors import OutOfBudget
from ..layers.products import mirror, multiply
from ..layers.tiles import Tile, aligned
from ..network import reduced_products, undisturbed
from .gathering import Gatherer

#: The shares of the memory that kept gradients, products under way and the kernel matrix may fill.
KEPT, WORKSPACE, MATRIX = 0.4, 0.25, 0.6

#: Of a matrix that is handed out in blocks, the share that one of them may fill.
BLOCK = 0.1

#: Parameters by the name of a group; ``None`` stands for all of them.
Groups = Mapping[str, Sequence[str] | None]
EVERYTHING: Groups = {"all": None}


class Gram:
    """Products of gradients, by groups of parameters.

    Args:
        gatherer: Finds the gradients.
        columns: The number of outputs c, where pairs of outputs are kept apart; otherwise ``None``.
        dtype: The precision of the products.
        device: Where they are taken.
        tf32: Whether a GPU may round gradients to TF32.
    """

    def __init__(self, gatherer: Gatherer, columns: int | None, dtype: torch.dtype, device: torch.device,
                 tf32: bool = False):
        self._gatherer, self._columns, self._full = gatherer, columns, columns is not None
        self._dtype, self._device, self._tf32 = dtype, device, tf32 and device.type == "cuda"
        self._memory = gatherer.memory

    def whole(self, points: Points, others: Points, groups: Groups = EVERYTHING) -> dict[str, Tensor]:
        """The kernel matrix of each group; that of points with themselves is computed once for each two of them."""
        n, m, same = len(points), len(others), others is points
        self._check_room(n, m, len(groups))
        out = {group: self._nought(n, m) for group in groups}
        _, each = self._gatherer.measure(points, min(n, m), self._full)
        room = max(self._memory - sum(block.nbytes for block in out.values()), 1)
        if (n if same else n + m) * each <= KEPT * room:
            left = self._tile(points, slice(0, n), min(n, m), room)
            right = left if same else self._tile(others, slice(0, m), min(n, m), room)
            self._multiply(left, right, groups, out, slice(0, n), slice(0, m), room)
        else:
            self._by_panels(points, others, groups, out, room, int(KEPT * room // each))
        for block in out.values() if same else ():
            mirror(block)
        return out

    def blocks(self, points: Points, others: Points) -> Iterator[tuple[slice, slice, Tensor]]:
        """The kernel matrix in blocks, each with its rows and columns; between them the arithmetic is the caller's.

        Of points with themselves a block is computed once, and comes a second time transposed.
        """
        with undisturbed(self._device):
            _, each = self._gatherer.measure(points, min(len(points), len(others)), self._full)
        entry = self._dtype.itemsize * (self._columns or 1) ** 2
        most = max(1, int(KEPT * self._memory // max(2 * each, 1)))
        side = max(1, min(most, int((BLOCK * self._memory / entry) ** 0.5)))
        for i in range(0, len(points), side):
            rows = slice(i, min(i + side, len(points)))
            with undisturbed(self._device):
                left = self._tile(points, rows, side, self._memory)
            for j in range(i if others is points else 0, len(others), side):
                columns = slice(j, min(j + side, len(others)))
                with undisturbed(self._device):
                    same = others is points and columns == rows
                    right = left if same else self._tile(others, columns, side, self._memory)
                    n, m = rows.stop - i, columns.stop - j
                    block = self._nought(n, m)
                    self._multiply(left, right, EVERYTHING, {"all": block}, slice(0, n), slice(0, m), self._memory)
                    if same:
                        mirror(block)
                yield rows, columns, block
                if others is points and not same:
                    yield columns, rows, block.permute(2, 3, 0, 1) if self._full else block.T

    def _by_panels(self, points: Points, others: Points, groups: Groups, out: dict[str, Tensor], room: int,
                   most: int) -> None:
        """Keeps the gradients of as many rows as fit, and lets those of the columns pass by."""
        if most < 2:
            raise OutOfBudget(
                f"The gradients of two points do not fit in memory={as_words(self._memory)}. Raise memory, select "
                "fewer parameters or fewer outputs."
            )
        same = others is points
        panel, strip = max(1, 3 * most // 4), max(1, most // 4)
        for i in range(0, len(points), panel):
            rows = slice(i, min(i + panel, len(points)))
            left = self._tile(points, rows, panel, room)
            if same:
                self._multiply(left, left, groups, out, rows, rows, room)
            for j in range(rows.stop if same else 0, len(others), strip):
                columns = slice(j, min(j + strip, len(others)))
                right = self._tile(others, columns, panel, room)
                self._multiply(left, right, groups, out, rows, columns, room)

    def _multiply(self, left: Tile, right: Tile, groups: Groups, out: dict[str, Tensor], rows: slice, columns: slice,
                  room: int) -> None:
        left, right = aligned(left, right)
        for group, whole in out.items():
            block = whole[rows, :, columns] if self._full else whole[rows, columns]
            names = groups[group]
            pieces = None if names is None else {p for p in (*left.spans, *left.outers) if p.name in names}
            with reduced_products() if self._tf32 else nullcontext():
                multiply(left, right, self._full, int(WORKSPACE * room), block, pieces)

    def _tile(self, points: Points, rows: slice, count: int, room: int) -> Tile:
        return self._gatherer.tile(points, rows.start, rows.stop, count, self._full, room)

    def _nought(self, n: int, m: int) -> Tensor:
        shape = (n, m) if self._columns is None else (n, self._columns, m, self._columns)
        return torch.zeros(shape, dtype=self._dtype, device=self._device)

    def _check_room(self, n: int, m: int, count: int) -> None:
        size = n * m * (self._columns or 1) ** 2 * self._dtype.itemsize * count
        if size > MATRIX * self._memory:
            raise OutOfBudget(
                f"The kernel matrix of {n} by {m} points takes {as_words(size)}, and memory allows "
                f"{as_words(self._memory)} for everything. Multiply without it, by KernelOperator(k, x) @ v, or raise "
                "memory."
            )
