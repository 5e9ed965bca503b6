r"""Squared distances and angles of many pairs of vectors by one matrix product, and exact where that is not enough.

The matrix product subtracts large numbers where two vectors are close: :math:`|x|^2 + |z|^2 - 2 x \cdot z` is off by a
few units in the last place of :math:`|x|^2 + |z|^2`, and the root of that is large. So vectors are centred first, and
the pairs that are close (or, for angles, nearly parallel) are computed once more from their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: A pair is computed from its difference where its squared distance is less than this share of |x|^2 + |z|^2.
CLOSE = 1e-2

#: From which share of close pairs on all pairs are computed from differences.
MANY = 1 / 8


class Side(NamedTuple):
    """The vectors of rows or of columns, what is multiplied for their entries, and their (squared) lengths."""

    vectors: Tensor
    operand: Tensor
    lengths: Tensor

    def part(self, some: slice) -> Side:
        """Some of the vectors."""
        return Side(*(values[some] for values in self))


def root(t: Tensor) -> Tensor:
    """The square root, whose derivative at nought is taken as nought, so that no gradient becomes NaN."""
    if not (torch.is_grad_enabled() and t.requires_grad):
        return t.clamp(min=0).sqrt()
    positive = t > 0
    return torch.where(positive, torch.where(positive, t, 1.0).sqrt(), 0.0)


def product(rows: Side, columns: Side, out: Tensor | None) -> Tensor:
    """The products of all pairs, into memory that is there already if it is given."""
    if out is None:
        return rows.operand @ columns.operand.T
    return torch.mm(rows.operand, columns.operand.T, out=out)


# -- squared distances -----------------------------------------------------------------------------------------------


def for_distances(vectors: Tensor, center: Tensor, unit: Any, left: bool) -> Side:
    """Vectors whose squared distances in a unit are one product: (-2 x, |x|^2, 1) with (z, 1, |z|^2)."""
    # Differences are taken of the vectors as they came: to shift and to scale them rounds.
    moved = (vectors - center) / unit
    squares = moved.square().sum(1)
    ones = torch.ones_like(squares)
    columns = (-2 * moved, squares[:, None], ones[:, None]) if left else (moved, ones[:, None], squares[:, None])
    return Side(vectors, torch.cat(columns, 1), squares)


def squared_distances(rows: Side, columns: Side, unit: Any, same: bool, out: Tensor | None = None) -> Tensor:
    """Squared distances in a unit, with shape (r, c), at least nought; ``same`` says that rows are columns."""
    found = product(rows, columns, out)
    if same:
        # One vector is no close pair with itself.
        found.fill_diagonal_(torch.inf)
    x, z, values = rows.vectors, columns.vectors, found.detach()
    sizes = rows.lengths.detach(), columns.lengths.detach()
    some = (values.amin(1) < CLOSE * (sizes[0] + sizes[1].max())).nonzero()[:, 0]
    pairs = _where(lambda i: values[i] < CLOSE * (sizes[0][i, None] + sizes[1]), some, values)
    if pairs is None:
        for part in torch.arange(len(x), device=x.device).split(_rows(values)):
            found[part] = (by_difference(x[part], z) / unit).square()
    else:
        for i, j in _parts(*pairs, x.shape[1], values):
            found.index_put_((i, j), ((x[i] - z[j]) / unit).square().sum(1))
    return found.fill_diagonal_(0.0) if same else found


def _where(close: Callable[[Tensor], Tensor], some: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
    """The pairs, of some rows, that are close; ``None`` for so many that all are better computed from differences."""
    rows, columns, count = [some[:0]], [some[:0]], 0
    for part in some.split(_rows(values)):
        i, j = close(part).nonzero(as_tuple=True)
        count += len(i)
        if count > MANY * values.numel():
            return None
        rows.append(part[i])
        columns.append(j)
    return torch.cat(rows), torch.cat(columns)


def _rows(values: Tensor) -> int:
    """How many rows are looked at a time, so that they take little memory beside the tile."""
    return max(1, len(values) // 8)


def _parts(i: Tensor, j: Tensor, d: int, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs, as many at a time as take little memory beside the tile."""
    step = max(1, values.numel() // (8 * d))
    return zip(i.split(step), j.split(step), strict=True)


def by_difference(x: Tensor, z: Tensor) -> Tensor:
    """Distances without a matrix product."""
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")


# -- angles ----------------------------------------------------------------------------------------------------------


def for_angles(vectors: Tensor) -> Side:
    """Vectors brought to length 1, and their lengths; one of length nought is left as it is."""
    lengths = root(vectors.square().sum(1))
    units = vectors / torch.where(lengths > 0, lengths, 1.0)[:, None]
    return Side(units, units, lengths)


class Lacks(NamedTuple):
    r"""What cosines lack to 1, and what they exceed -1 by: :math:`|u - v|^2 / 2` and :math:`|u + v|^2 / 2`."""

    lack: Tensor
    excess: Tensor


def lacks(rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> tuple[Lacks, Tensor, Tensor, Lacks]:
    """Those of all pairs, the rows and columns of the pairs that are nearly parallel, and those of these once more."""
    cosines = product(rows, columns, out)
    x, z = rows.vectors, columns.vectors
    if same:
        # Nought is far from both ends; what a vector has with itself, the kernel knows.
        cosines.fill_diagonal_(0.0)
    values, edge = cosines.detach(), 1 - CLOSE
    some = ((values.amax(1) > edge) | (values.amin(1) < -edge)).nonzero()[:, 0]
    pairs = _where(lambda i: values[i].abs() > edge, some, values)
    if pairs is None:
        nought = (rows.lengths == 0)[:, None] | (columns.lengths == 0)
        every = (torch.where(nought, 1.0, by_difference(x, w).square() / 2) for w in (z, -z))
        return Lacks(*every), some[:0], some[:0], _lacks(x[:0], z[:0])
    i, j = pairs
    cosines.index_put_((i, j), cosines.new_zeros(()))
    parts = [_lacks(x[a], z[b]) for a, b in _parts(i, j, x.shape[1], values)]
    return Lacks(1 - cosines, 1 + cosines), i, j, Lacks(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _lacks(x: Tensor, z: Tensor) -> Lacks:
    return Lacks((x - z).square().sum(1) / 2, (x + z).square().sum(1) / 2)


def own_lacks(lengths: Tensor) -> Lacks:
    """Those of each vector with itself: a right angle for the vector of length nought, as it has with all others."""
    lack = (lengths == 0).to(lengths)
    return Lacks(lack, 2 - lack)
