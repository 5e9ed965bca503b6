r"""Products of the gradients of many samples.

How two samples are multiplied (by ``pairs`` of factors or by ``rows``) is decided piece by piece, by counted
multiplications. Samples with themselves are multiplied once for each two of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .factors import Outer, pairs_block, rows_block, side_by_side
from .tiles import Tile, by_pairs
from .watching import Piece

#: Below this many samples a symmetric block is computed as a whole.
LEAF = 96

#: About how many bytes of gradients a processor forms at a time. More would leave its cache before it is multiplied.
CACHED = 2**24


def multiply(x: Tile, z: Tile, full: bool, workspace: int, out: Tensor, pieces: set[Piece] | None = None) -> None:
    """Adds to ``out`` the products of the samples of x with those of z; once each where they are the same tile.

    Where x is z, only what stands on and above the diagonal is right afterwards.
    """
    same, count = x is z, min(len(x), len(z))
    if pieces is None:
        spans = [slice(0, x.rows.shape[2])]
        outers = together(x.outers, z.outers)
    else:
        spans = [span for piece, span in x.spans.items() if piece in pieces]
        outers = [(outer, z.outers[piece]) for piece, outer in x.outers.items() if piece in pieces]
    for span in spans:
        if span.stop > span.start:
            _from_rows(x.rows[:, :, span], z.rows[:, :, span], full, out, same)
    for outer, other in outers:
        if by_pairs(outer, count, full):
            for rows, columns in _blocks(len(x), len(z), same):
                _add(out, rows, columns, pairs_block(outer[rows], other[columns], full, workspace))
        else:
            _by_forming(outer, other, full, workspace, out)


def together(x: dict[Piece, Outer], z: dict[Piece, Outer]) -> list[tuple[Outer, Outer]]:
    """What is to be multiplied; pieces with the same gradients at the output, as weight and bias, in one product."""
    groups: dict[tuple[int, int], list[Piece]] = {}
    for number, (piece, outer) in enumerate(x.items()):
        other = z[piece]
        alone = not (outer.single and other.single)
        groups.setdefault((-1, number) if alone else (id(outer.b), id(other.b)), []).append(piece)
    found = []
    for group in groups.values():
        left = side_by_side([x[piece] for piece in group])
        found.append((left, left if x is z else side_by_side([z[piece] for piece in group])))
    return found


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
    room = min(workspace, CACHED) if x.b.device.type == "cpu" else workspace
    columns = c if full else max(1, min(c, room // max(many, 1)))
    if many * columns <= workspace or max(len(x.b), len(z.b)) == 1:
        rooms = [side.b.new_empty(len(side.b) * columns * x.length) for side in ((x,) if same else (x, z))]
        for j in range(0, c, columns):
            part = slice(j, j + columns)
            formed = Outer(x.a, x.b[:, part], x.first, x.size).rows(rooms[0])
            other = formed if same else Outer(z.a, z.b[:, part], z.first, z.size).rows(rooms[1])
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
