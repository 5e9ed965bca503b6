r"""The gradients of many samples, kept for products with the gradients of others.

What is kept of a piece of the parameters is the smaller of two: its factors, or the gradients themselves. Which way
their products are cheaper, is a count of multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ModelError
from .capture import Gradients
from .factors import Factor, Outer, Rows, distinct, pairs_cost, rows_cost
from .watching import Piece


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
        """The rows and the factors, each tensor once."""
        yield self.rows
        yield from distinct(self.outers.values())

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
    kept: set[int] = set()
    for factor in found.factors.values():
        if isinstance(factor, Outer) and (by_pairs(factor, count, full)
                                          or c * factor.length > sum(t[0].numel() for t in factor.tensors)):
            kept |= {id(factor), id(factor.b)} if factor.single else {id(factor)}
    rows: dict[Piece, Tensor] = {}
    outers: dict[Piece, Outer] = {}
    rounded: dict[int, Tensor] = {}
    for piece, factor in found.factors.items():
        # Where output gradients are kept for a weight, its bias comes with them.
        if isinstance(factor, Outer) and (id(factor) in kept or factor.single and id(factor.b) in kept):
            outers[piece] = factor if dtype is None else factor.to(dtype, rounded)
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


def _room(t: Tensor, count: int) -> Tensor:
    """Room for ``count`` samples, laid out as these are."""
    strides = t.stride()
    order = sorted(range(1, t.ndim), key=lambda axis: -strides[axis])
    empty = t.new_empty(count, *(t.shape[axis] for axis in order))
    return empty.permute(0, *(order.index(axis) + 1 for axis in range(1, t.ndim)))


def _shared(tile: Tile) -> list[int]:
    """For each factor the first that holds the same tensor."""
    held = [id(t) for outer in tile.outers.values() for t in outer.tensors]
    return [held.index(number) for number in held]


def _unshared(tile: Tile) -> Tile:
    return Tile(tile.spans, tile.rows, {piece: Outer(o.a.clone(), o.b.clone(), o.first, o.size)
                                        for piece, o in tile.outers.items()})


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
            room = {id(t): _room(t, self.count) for t in tile.tensors()}
            self._tile = Tile(tile.spans, room[id(tile.rows)], {
                piece: Outer(room[id(o.a)], room[id(o.b)], o.first, o.size) for piece, o in tile.outers.items()})
        self._tile, tile = aligned(self._tile, tile)
        self._tile, tile = _as_long_as(self._tile, tile), _as_long_as(tile, self._tile)
        part = slice(self.filled, self.filled + len(tile))
        if _shared(self._tile) != _shared(tile):
            self._tile, tile = _unshared(self._tile), _unshared(tile)
        for whole, some in zip(self._tile.tensors(), tile.tensors(), strict=True):
            whole[part] = some
        self.filled += len(tile)

    @property
    def tile(self) -> Tile:
        """All samples."""
        assert self._tile is not None
        return self._tile


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
