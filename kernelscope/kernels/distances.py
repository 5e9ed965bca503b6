r"""Squared distances and angles of many pairs of vectors by one matrix product, and exact where that is not enough.

The matrix product subtracts large numbers where two vectors are close: :math:`|x|^2 + |z|^2 - 2 x \cdot z` is off by a
few units in the last place of :math:`|x|^2 + |z|^2`, and the root of that is large. So vectors are centred first, and
the pairs that are close (or, for angles, nearly parallel) are computed once more from their difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: How many units in the last place an entry may be off before it is computed from a difference.
TOLERATED = 32

#: Beyond which share of |x|^2 + |z|^2 a squared distance is exact enough for a kernel of any bandwidth.
CLOSE = 1e-2

#: The most |x|^2 + |z|^2 can be, in |x|^2, where the squared distance is below CLOSE of it: |x| and |z| differ by no
#: more than the distance.
LENGTHS = 2.4

#: From which share of close pairs on all pairs are computed from differences.
MANY = 1 / 4


class Side(NamedTuple):
    """The vectors of rows or of columns, what is multiplied for their entries, its squares, and their own lengths."""

    vectors: Tensor
    operand: Tensor
    squares: Tensor
    lengths: Tensor

    def part(self, some: slice | Tensor) -> Side:
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
    return Side(vectors, torch.cat(columns, 1), squares, squares)


class Steepness(NamedTuple):
    r"""How fast a function of the squared distance s falls: by at most :math:`a s^{q - 1}`, for q up to 1."""

    a: float
    q: float = 1.0

    def limit(self, sizes: Tensor) -> Tensor:
        """The squared distances below which a product is not exact enough, for these :math:`|x|^2 + |z|^2`."""
        off = self.a / TOLERATED * sizes
        if self.q < 1:
            return torch.minimum(off ** (1 / (1 - self.q)), CLOSE * sizes)
        return torch.where(off > 1, CLOSE * sizes, 0.0)


def squared_distances(rows: Side, columns: Side, unit: Any, steepness: Steepness, same: bool,
                      out: Tensor | None = None) -> Tensor:
    """Squared distances in a unit, with shape (r, c), at least nought; ``same`` says that rows are columns."""
    found = product(rows, columns, out)
    if same:
        # One vector is no close pair with itself.
        found.fill_diagonal_(torch.inf)
    x, z, values = rows.vectors, columns.vectors, found.detach()
    near, far = rows.squares.detach(), columns.squares.detach()
    limits = steepness.limit(torch.minimum(near + far.max(), LENGTHS * near))
    some = (values.amin(1) < limits).nonzero()[:, 0] if bool(limits.any()) else limits.new_empty(0, dtype=torch.long)
    for part in some.split(_rows(values)):
        a, b = (values[part] < limits[part, None]).nonzero(as_tuple=True)
        if len(a) > MANY * len(part) * len(z):
            found[part] = (by_difference(x[part], z) / unit).square()
            continue
        for i, j in _parts(part[a], b, x.shape[1], values):
            found.index_put_((i, j), _squares(x, i, z, j) / unit**2)
    found.clamp_(min=0)
    return found.fill_diagonal_(0.0) if same else found


def _rows(values: Tensor) -> int:
    """How many rows are looked at a time, so that they take little memory beside the tile."""
    return max(1, len(values) // 2)


def _parts(i: Tensor, j: Tensor, d: int, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs, as many at a time as take little memory beside the tile."""
    step = max(1, values.numel() // (4 * d))
    return zip(i.split(step), j.split(step), strict=True)


def _squares(x: Tensor, i: Tensor, z: Tensor, j: Tensor, sign: int = 1) -> Tensor:
    """The squared lengths of x - z, or of x + z, for some pairs."""
    gaps = x.index_select(0, i).sub_(z.index_select(0, j), alpha=sign)
    return torch.linalg.vecdot(gaps, gaps)


def by_difference(x: Tensor, z: Tensor) -> Tensor:
    """Distances without a matrix product."""
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")


# -- angles ----------------------------------------------------------------------------------------------------------


def units(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors brought to length 1, and their lengths; one of length nought is left as it is."""
    lengths = root(vectors.square().sum(1))
    return vectors / torch.where(lengths > 0, lengths, 1.0)[:, None], lengths


class Lacks(NamedTuple):
    r"""What cosines lack to 1, and what they exceed -1 by: :math:`|u - v|^2 / 2` and :math:`|u + v|^2 / 2`."""

    lack: Tensor
    excess: Tensor


def lacks(rows: Side, columns: Side, steepness: Steepness, same: bool, out: Tensor | None = None) -> Lacks:
    """Those of all pairs of unit vectors, prepared for distances, for a function that is so steep at either end."""
    lack = squared_distances(rows, columns, 1.0, steepness, same, out).div_(2)
    nought = rows.lengths == 0, columns.lengths == 0
    if bool(nought[0].any()) or bool(nought[1].any()):
        lack = torch.where(nought[0][:, None] | nought[1], 1.0, lack)
    excess = 2 - lack
    # At the other end nothing is gained by a center.
    edge = float(steepness.limit(rows.squares.new_tensor(2.0)))
    values = excess.detach()
    some = (values.amin(1) < edge).nonzero()[:, 0]
    for part in some.split(_rows(values)):
        a, b = (values[part] < edge).nonzero(as_tuple=True)
        for i, j in _parts(part[a], b, rows.vectors.shape[1], values):
            excess.index_put_((i, j), _squares(rows.vectors, i, columns.vectors, j, -1) / 2)
    return Lacks(lack, excess)


def own_lacks(lengths: Tensor) -> Lacks:
    """Those of each vector with itself: a right angle for the vector of length nought, as it has with all others."""
    lack = (lengths == 0).to(lengths)
    return Lacks(lack, 2 - lack)
