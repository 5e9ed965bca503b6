r"""Squared distances and angles of many pairs of vectors by one matrix product, and exact where that is not enough.

The matrix product subtracts large numbers where two vectors are close: :math:`|x|^2 + |z|^2 - 2 x \cdot z` is off by a
few units in the last place of :math:`|x|^2 + |z|^2`, and the root of that is large. So vectors are centred first, and
the pairs that are close (or, for angles, nearly parallel) are computed once more from their difference.
"""

from __future__ import annotations

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
    flagged = found.detach().amin(1) < CLOSE * (rows.lengths + columns.lengths.max()).detach()
    some = flagged.nonzero()[:, 0]
    if len(some):
        limit = CLOSE * (rows.lengths[some, None] + columns.lengths).detach()
        i, j = (found.detach()[some] < limit).nonzero(as_tuple=True)
        _mend_distances(found, rows.vectors, columns.vectors, unit, some[i], j)
    return found.fill_diagonal_(0.0) if same else found


def _mend_distances(found: Tensor, x: Tensor, z: Tensor, unit: Any, i: Tensor, j: Tensor) -> None:
    if len(i) > MANY * found.numel():
        found.copy_((by_difference(x, z) / unit).square())
        return
    for some in _parts(len(i), found.numel(), x.shape[1]):
        near, far = i[some], j[some]
        found.index_put_((near, far), ((x[near] - z[far]) / unit).square().sum(1))


def by_difference(x: Tensor, z: Tensor) -> Tensor:
    """Distances without a matrix product."""
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")


def _parts(count: int, entries: int, d: int) -> list[slice]:
    """Pairs, as many at a time as fill no more memory than a tile."""
    step = max(1, entries // (2 * d))
    return [slice(start, start + step) for start in range(0, count, step)]


# -- angles ----------------------------------------------------------------------------------------------------------


def for_angles(vectors: Tensor) -> Side:
    """Vectors brought to length 1, and their lengths; one of length nought is left as it is."""
    lengths = root(vectors.square().sum(1))
    units = vectors / torch.where(lengths > 0, lengths, 1.0)[:, None]
    return Side(units, units, lengths)


def angles(rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
    r"""Angles between vectors in :math:`[0, \pi]`, with shape (r, c)."""
    cosines = product(rows, columns, out)
    if same:
        # Nought is far from both ends, and is overwritten below.
        cosines.fill_diagonal_(0.0)
    values, edge = cosines.detach(), 1 - CLOSE
    some = ((values.amax(1) > edge) | (values.amin(1) < -edge)).nonzero()[:, 0]
    i, j = (values[some].abs() > edge).nonzero(as_tuple=True)
    if len(i) > MANY * cosines.numel():
        chord, rest = (by_difference(rows.vectors, z) for z in (columns.vectors, -columns.vectors))
        found = _angle(chord, rest)
    else:
        cosines.index_put_((some[i], j), cosines.new_zeros(()))
        found = _angle((1 - cosines).sqrt(), (1 + cosines).sqrt())
        for part in _parts(len(i), cosines.numel(), rows.vectors.shape[1]):
            near, far = some[i[part]], j[part]
            x, z = rows.vectors[near], columns.vectors[far]
            found.index_put_((near, far), _angle(root((x - z).square().sum(1)), root((x + z).square().sum(1))))
    if same:
        found.diagonal().copy_(own_angles(rows.lengths))
    return found


def own_angles(lengths: Tensor) -> Tensor:
    """The angle of each vector with itself: nought, but a right one for the vector of length nought, as with others."""
    return torch.where(lengths > 0, 0.0, torch.pi / 2).to(lengths)


def _angle(chord: Tensor, rest: Tensor) -> Tensor:
    r""":math:`2 \arctan(|u - v| / |u + v|)`, which is exact at both ends, as the arc cosine is not."""
    return torch.atan2(chord, rest).mul(2)
