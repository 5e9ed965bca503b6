r"""The gradients of many samples, kept for products with the gradients of others.

What is kept of a piece of the parameters is the smaller of two: its factors, or the gradients themselves. How two
samples are multiplied (by ``pairs`` of factors or by ``rows``) is decided piece by piece, by counted multiplications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ModelError
from .factors import Factor, Outer, Rows, pairs_block, pairs_cost, rows_block, rows_cost
from .gradients import Gradients
from .watching import Piece

#: Below this many samples a symmetric block is computed as a whole.
LEAF = 96


@dataclass(frozen=True, eq=False)
class Tile:
    """The gradients of n samples: small ones side by side as rows, the others by their factors.

    Attributes:
        spans: Where each piece stands within the rows.
        rows: The gradients of these pieces, with shape (n, c, p).
        outers: The factors of the other pieces.
    """

    spans: dict[Piece, slice]
    rows: Tensor
    outers: dict[Piece, Outer]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> int:
        """The number of outputs c."""
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """The bytes that the gradients take."""
        return sum(t.nbytes for t in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """The rows and the factors."""
        yield self.rows
        for outer in self.outers.values():
            yield from outer.tensors

    def __getitem__(self, part: slice) -> Tile:
        return Tile(self.spans, self.rows[part], {piece: outer[part] for piece, outer in self.outers.items()})

    def piece(self, piece: Piece) -> Factor:
        """The gradients by one piece."""
        return Rows(self.rows[:, :, self.spans[piece]]) if piece in self.spans else self.outers[piece]


def by_pairs(outer: Outer, count: int, full: bool) -> bool:
    """Whether products of ``count`` by ``count`` samples are cheaper from factors than from gradients."""
    c, g, t, d = outer.b.shape[1:]
    width = outer.width
    formed = 2 * c * g * t * d * (width if outer.size is None else 1) / max(count, 1)
    return pairs_cost(outer, full) <= rows_cost(outer.length, c, full) + formed


def pack(found: Gradients, count: int, full: bool, dtype: torch.dtype | None = None) -> Tile:
    """Keeps gradients for products of ``count`` by ``count`` samples, in the smaller form of each piece."""
    c = found.values.shape[1]
    rows: dict[Piece, Tensor] = {}
    outers: dict[Piece, Outer] = {}
    for piece, factor in found.factors.items():
        if isinstance(factor, Outer) and (by_pairs(factor, count, full)
                                          or c * factor.length > sum(t[0].numel() for t in factor.tensors)):
            outers[piece] = factor if dtype is None else factor.to(dtype)
        else:
            rows[piece] = factor.rows() if dtype is None else factor.rows().to(dtype)
    kind = found.values.dtype if dtype is None else dtype
    return _side_by_side(rows, outers, found.values.to(kind))


def aligned(x: Tile, z: Tile) -> tuple[Tile, Tile]:
    """The same gradients, with every piece kept in the same form in both.

    Inputs of another length may call for another form, or let a parameter be used in other pieces; the gradients by
    such a parameter are then formed.

    Raises:
        ModelError: If the gradients are of different numbers of outputs.
    """
    if _forms(x) == _forms(z) and list(x.spans.items()) == list(z.spans.items()):
        return x, z
    if x.columns != z.columns:
        raise ModelError(
            f"The network gives {x.columns} outputs for some of the points and {z.columns} for others, so they cannot "
            "be multiplied output by output. Pass inputs of one length, or output=, a function that takes as many from "
            "each."
        )
    forms = _forms(x), _forms(z)
    ends: dict[str, int] = {}
    for name in sorted({name for form in forms for name in form if forms[0].get(name) != forms[1].get(name)}):
        ends[name] = max(stop for form in forms for _, stop, *_ in form.get(name, ()))
    return _formed(x, ends), _formed(z, ends)


def _forms(tile: Tile) -> dict[str, set[tuple[int, ...]]]:
    """For each parameter its pieces, and what must be alike in two of their factors."""
    forms: dict[str, set[tuple[int, ...]]] = {}
    for piece in tile.spans:
        forms.setdefault(piece.name, set()).add((piece.start, piece.stop))
    for piece, o in tile.outers.items():
        forms.setdefault(piece.name, set()).add((piece.start, piece.stop, int(o.first), o.size or 0, o.b.shape[2]))
    return forms


def _formed(tile: Tile, ends: dict[str, int]) -> Tile:
    """The tile with the gradients by some parameters, of so many entries, as rows; the pieces in order."""
    n, c = tile.rows.shape[:2]
    rows = {piece: tile.rows[:, :, span] for piece, span in tile.spans.items() if piece.name not in ends}
    for name, end in ends.items():
        whole = tile.rows.new_zeros(n, c, end)
        for piece in (p for p in (*tile.spans, *tile.outers) if p.name == name):
            whole[:, :, piece.start:piece.stop] = tile.piece(piece).rows()
        rows[Piece(name, 0, end)] = whole
    outers = {piece: outer for piece, outer in tile.outers.items() if piece.name not in ends}
    place = lambda item: (item[0].name, item[0].start)
    return _side_by_side(dict(sorted(rows.items(), key=place)), dict(sorted(outers.items(), key=place)), tile.rows)


def _side_by_side(rows: dict[Piece, Tensor], outers: dict[Piece, Outer], like: Tensor) -> Tile:
    spans, end = {}, 0
    for piece, values in rows.items():
        spans[piece] = slice(end, end + values.shape[2])
        end += values.shape[2]
    joined = torch.cat(list(rows.values()), 2) if rows else like.new_zeros(*like.shape[:2], 0)
    return Tile(spans, joined, outers)


def _as_long_as(tile: Tile, other: Tile) -> Tile:
    """The tile with as many positions as the other has, if it has fewer; the gradients at the new ones are nought."""
    more = {piece: other.outers[piece].positions - outer.positions for piece, outer in tile.outers.items()}
    if all(count <= 0 for count in more.values()):
        return tile
    return Tile(tile.spans, tile.rows, {piece: outer.padded(max(more[piece], 0))
                                        for piece, outer in tile.outers.items()})


class Joined:
    """A tile that is filled batch by batch, each tensor laid out once."""

    def __init__(self, count: int):
        self.count, self.filled = count, 0
        self._tile: Tile | None = None

    def add(self, tile: Tile) -> None:
        """Puts the samples of a tile after those that are there."""
        if len(tile) == self.count:
            self._tile = tile
            return
        if self._tile is None:
            room = lambda t: t.new_empty(self.count, *t.shape[1:])
            self._tile = Tile(tile.spans, room(tile.rows), {
                piece: Outer(room(o.a), room(o.b), o.first, o.size) for piece, o in tile.outers.items()})
        self._tile, tile = aligned(self._tile, tile)
        self._tile, tile = _as_long_as(self._tile, tile), _as_long_as(tile, self._tile)
        part = slice(self.filled, self.filled + len(tile))
        for whole, some in zip(self._tile.tensors(), tile.tensors(), strict=True):
            whole[part] = some
        self.filled += len(tile)

    @property
    def tile(self) -> Tile:
        """All samples."""
        assert self._tile is not None
        return self._tile


#: Adds to the block of some rows and columns.
Add = Callable[[slice, slice, Tensor], None]


def multiply(x: Tile, z: Tile, full: bool, workspace: int, out: Tensor, pieces: set[Piece] | None = None) -> None:
    """Adds to ``out`` the products of the samples of x with those of z; once each where they are the same tile.

    Where x is z, only what stands on and above the diagonal is right afterwards.
    """
    wanted = lambda piece: pieces is None or piece in pieces
    count = min(len(x), len(z))
    if pieces is None:
        if x.rows.shape[2]:
            _from_rows(x.rows, z.rows, full, out, x is z)
    else:
        for piece in (p for p in x.spans if p in pieces):
            span = x.spans[piece]
            _from_rows(x.rows[:, :, span], z.rows[:, :, span], full, out, x is z)
    for piece, outer in x.outers.items():
        if not wanted(piece):
            continue
        other = z.outers[piece]
        if by_pairs(outer, count, full):
            for rows, columns in _blocks(len(x), len(z), x is z):
                _add(out, rows, columns, pairs_block(outer[rows], other[columns], full, workspace))
        else:
            _by_forming(outer, other, full, workspace, out)


def _from_rows(x: Tensor, z: Tensor, full: bool, out: Tensor, same: bool) -> None:
    for rows, columns in _blocks(len(x), len(z), same):
        if full or out.dtype != x.dtype or not out.is_contiguous():
            _add(out, rows, columns, rows_block(x[rows], z[columns], full))
        else:
            out[rows, columns].addmm_(x[rows].flatten(1), z[columns].flatten(1).T)


def _by_forming(x: Outer, z: Outer, full: bool, workspace: int, out: Tensor) -> None:
    """Forms the gradients of a few outputs, or of a few samples, at a time."""
    same, c = x is z, x.b.shape[1]
    each = x.length * x.b.dtype.itemsize * 2
    many = (len(x.b) + (0 if same else len(z.b))) * each
    columns = c if full else max(1, min(c, workspace // max(many, 1)))
    if many * columns <= workspace or max(len(x.b), len(z.b)) == 1:
        for j in range(0, c, columns):
            part = slice(j, j + columns)
            formed = Outer(x.a, x.b[:, part], x.first, x.size).rows()
            other = formed if same else Outer(z.a, z.b[:, part], z.first, z.size).rows()
            _from_rows(formed, other, full, out, same)
        return
    # Not even one output of all samples has room: half of the samples at a time.
    n, m = len(x.b) // 2, len(z.b) // 2
    if same:
        low, high = x[:n], x[n:]
        _by_forming(low, low, full, workspace, out[:n, ..., :n] if not full else out[:n, :, :n])
        _by_forming(low, high, full, workspace, out[:n, n:] if not full else out[:n, :, n:])
        _by_forming(high, high, full, workspace, out[n:, n:] if not full else out[n:, :, n:])
    elif n >= m:
        _by_forming(x[:n], z, full, workspace, out[:n])
        _by_forming(x[n:], z, full, workspace, out[n:])
    else:
        _by_forming(x, z[:m], full, workspace, out[:, :m] if not full else out[:, :, :m])
        _by_forming(x, z[m:], full, workspace, out[:, m:] if not full else out[:, :, m:])


def _add(out: Tensor, rows: slice, columns: slice, block: Tensor) -> None:
    if block.ndim == 4:
        out[rows, :, columns] += block
    else:
        out[rows, columns] += block


def _blocks(n: int, m: int, same: bool) -> Iterator[tuple[slice, slice]]:
    """The whole block; or the blocks on and above the diagonal, large ones first."""
    if not same:
        yield slice(0, n), slice(0, m)
        return
    pending = [(0, n)]
    while pending:
        low, high = pending.pop()
        if high - low <= LEAF:
            yield slice(low, high), slice(low, high)
            continue
        middle = (low + high) // 2
        yield slice(low, middle), slice(middle, high)
        pending += [(low, middle), (middle, high)]


def mirror(out: Tensor) -> None:
    """Copies what stands above the diagonal to below it, in place, for shape (n, n) or (n, c, n, c)."""
    if out.ndim == 4:
        n, c = out.shape[:2]
        out = out.view(n * c, n * c)
    for low in range(0, len(out), 1024):
        rows = slice(low, low + 1024)
        square = out[rows, rows]
        square.copy_(square.triu() + square.triu(1).T)
        out[rows.stop:, rows] = out[rows, rows.stop:].T


def tile_cost(tile: Tile, count: int) -> float:
    """About how many multiplications a product of two samples takes."""
    cost = float(rows_cost(tile.rows.shape[2], tile.columns, False))
    for outer in tile.outers.values():
        cost += min(pairs_cost(outer, False), rows_cost(outer.length, tile.columns, False))
    return cost


def squared_norms(factor: Factor, full: bool) -> Tensor:
    """The squared norms of gradients: (n,) summed over outputs, or (n, c)."""
    if isinstance(factor, Outer) and factor.positions == factor.b.shape[2] == 1 and factor.size is None:
        found = factor.a.flatten(1).square().sum(1, keepdim=True) * factor.b.flatten(2).square().sum(2)
    else:
        found = factor.rows().square().sum(2)
    return found if full else found.sum(1)
