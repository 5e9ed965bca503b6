r"""Per-sample gradients of one parameter, kept as the factors they are made of.

A layer that is linear in its parameter W has, for sample i and output c, the gradient

.. math:: G_{ic} = \sum_t b_{ict}\, a_{it}^T

with its input a and the gradient b at its output, over positions t (pixels, tokens). Two gradients have the product

.. math:: \langle G_{ic}, G_{jc'}\rangle = \sum_{tt'} (a_{it}\cdot a_{jt'})\,(b_{ict}\cdot b_{jc't'}),

which can be had without G (``pairs``; for one position, a product of two small kernel matrices), or from G (``rows``).
Both are exact; which one is cheaper is a count of multiplications.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: How many multiplications of a matrix product the passage of one number through memory is worth.
PASSAGE = 16


@dataclass(frozen=True, eq=False)
class Rows:
    r"""Gradients as they are, with shape :math:`(n, c, p)`."""

    values: Tensor

    def rows(self) -> Tensor:
        """The gradients with shape :math:`(n, c, p)`."""
        return self.values

    def meet(self, directions: Tensor) -> Tensor:
        """The products with directions of shape (q, p): shape (n, c, q)."""
        return self.values @ directions.T

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self.values[part])

    def to(self, dtype: torch.dtype) -> Rows:
        return Rows(self.values.to(dtype))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)


@dataclass(frozen=True, eq=False)
class Outer:
    r"""Gradients :math:`\sum_t b_{ct} a_t^T` by their factors.

    Attributes:
        a: The layer's input, with shape :math:`(n, g, T, d_a)` for g groups; or, for a table of ``size`` rows, the
            places that were looked up, with shape :math:`(n, T)`.
        b: The gradients at the layer's output, with shape :math:`(n, c, g, T, d_b)`.
        first: Whether a runs along the first axis of the parameter, and b along the others.
        size: The number of rows of a table.
    """

    a: Tensor
    b: Tensor
    first: bool = False
    size: int | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.a, self.b

    @property
    def positions(self) -> int:
        """The number of positions T."""
        return self.b.shape[3]

    @property
    def width(self) -> int:
        """The width of a's side of the parameter."""
        return self.a.shape[-1] if self.size is None else self.size

    @property
    def length(self) -> int:
        """The number of the parameter's entries p."""
        return self.b.shape[2] * self.b.shape[4] * self.width

    def __getitem__(self, part: slice) -> Outer:
        return Outer(self.a[part], self.b[part], self.first, self.size)

    @property
    def single(self) -> bool:
        """Whether there is one position, and one group."""
        return self.size is None and self.b.shape[2] == self.b.shape[3] == 1

    def to(self, dtype: torch.dtype, known: dict[int, Tensor] | None = None) -> Outer:
        """The factors in another precision; ``known`` holds those of b by the identity of what they were made from."""
        known = {} if known is None else known
        if id(self.b) not in known:
            known[id(self.b)] = self.b.to(dtype)
        return Outer(self.a.to(dtype) if self.size is None else self.a, known[id(self.b)], self.first, self.size)

    def padded(self, count: int) -> Outer:
        """The same gradients with ``count`` more positions, at which there is nothing."""
        a = F.pad(self.a, (0, count) if self.size is not None else (0, 0, 0, count))
        return Outer(a, F.pad(self.b, (0, 0, 0, count)), self.first, self.size)

    def meet(self, directions: Tensor) -> Tensor:
        r"""The products with directions of shape (q, p): shape (n, c, q); no gradient is formed.

        .. math:: \langle D_q, G_{ic}\rangle = \sum_t b_{ict} \cdot D_q\, a_{it}
        """
        n, c, g, t, d = self.b.shape
        found = []
        for direction in directions:
            if self.size is not None:
                found.append((direction.view(self.size, d)[self.a].unsqueeze(1) * self.b[:, :, 0]).sum((2, 3)))
                continue
            blocks = direction.view(g, -1, d) if self.first else direction.view(g, d, -1).transpose(1, 2)
            parts = [(self.a[:, j].reshape(n * t, -1) @ block).view(n, 1, t, d) for j, block in enumerate(blocks)]
            found.append(sum((part * self.b[:, :, j]).sum((2, 3)) for j, part in enumerate(parts)))
        return torch.stack(found, 2)

    def rows(self, room: Tensor | None = None) -> Tensor:
        """The gradients with shape :math:`(n, c, p)`, in the order of the parameter's entries.

        Args:
            room: Numbers that may be written over; new memory costs as much as a product.
        """
        n, c, g, _, d = self.b.shape
        if self.size is not None:
            table = self.b.new_zeros(n, c, self.size, d)
            index = self.a.view(n, 1, -1, 1).expand(n, c, -1, d)
            return table.scatter_add_(2, index, self.b[:, :, 0]).flatten(2)
        if self.single:
            # Of one position the sum has one term, which is several times slower as a matrix product.
            a, b = self.a[:, :, 0], self.b[:, :, 0, 0]
            left, right = (a.unsqueeze(3), b.unsqueeze(2)) if self.first else (b.unsqueeze(3), a.unsqueeze(2))
            if room is None:
                return (left * right).flatten(2)
            return torch.mul(left, right, out=room[:n * c * self.length].view(n, c, left.shape[2], -1)).flatten(2)
        if g == 1:
            # All outputs in one product for each sample: (c d_b, T) by (T, d_a); b as it lies in memory, if it can be.
            b, a = self.b[:, :, 0], self.a[:, 0]
            if b.stride(1) < b.stride(2):
                b = b.transpose(1, 2).reshape(n, -1, c * d).transpose(1, 2)
            else:
                b = b.transpose(2, 3).reshape(n, c * d, -1)
            out = None if room is None else room[:n * c * self.length].view(n, c * d, -1)
            formed = torch.bmm(b, a) if out is None else torch.bmm(b, a, out=out)
            if self.first:
                return formed.view(n, c, d, -1).transpose(2, 3).reshape(n, c, -1)
            return formed.view(n, c, -1)
        a = self.a.unsqueeze(1)
        return (a.transpose(3, 4) @ self.b if self.first else self.b.transpose(3, 4) @ a).reshape(n, c, -1)


Factor = Rows | Outer


def merge(uses: list[Factor]) -> Factor:
    """The gradients of a parameter that is used more than once: their sum, before any product is taken."""
    if len(uses) == 1:
        return uses[0]
    outers = [use for use in uses if isinstance(use, Outer)]
    alike = len(outers) == len(uses) and len({(o.first, o.size, o.b.shape[2]) for o in outers}) == 1
    if alike:
        # Another use is as good as more positions.
        axis = 2 if outers[0].size is None else 1
        return Outer(torch.cat([o.a for o in outers], axis), torch.cat([o.b for o in outers], 3),
                     outers[0].first, outers[0].size)
    return Rows(torch.stack([use.rows() for use in uses]).sum(0))


def side_by_side(outers: list[Outer]) -> Outer:
    """The gradients of several parameters at the same outputs, at one position, as those of one parameter."""
    return outers[0] if len(outers) == 1 else Outer(torch.cat([outer.a for outer in outers], -1), outers[0].b)


def distinct(factors: Iterable[Factor]) -> Iterator[Tensor]:
    """The tensors of some factors, each once."""
    seen: set[int] = set()
    for t in (t for factor in factors for t in factor.tensors):
        if id(t) not in seen:
            seen.add(id(t))
            yield t


def pairs_cost(x: Outer, full: bool) -> int:
    """Multiplications for one pair of samples, without forming gradients."""
    c, g, t, d = x.b.shape[1:]
    each = c * c if full else 1
    looked_up = PASSAGE if x.size is not None else x.a.shape[-1]
    passages = 0 if t == 1 else PASSAGE * each
    return t * t * g * (looked_up + (c * c if full else c) * d + passages)


def rows_cost(length: int, columns: int, full: bool) -> int:
    """Multiplications for one pair of samples, from formed gradients."""
    return length * (columns * columns if full else columns)


def rows_block(x: Tensor, z: Tensor, full: bool) -> Tensor:
    """Products of formed gradients with shapes (n, c, p) and (m, c, p): (n, m), or (n, c, m, c)."""
    if full:
        n, c, p = x.shape
        return (x.reshape(-1, p) @ z.reshape(-1, p).T).view(n, c, len(z), c)
    return x.flatten(1) @ z.flatten(1).T


def pairs_block(x: Outer, z: Outer, full: bool, workspace: int) -> Tensor:
    """Products of gradients that are never formed: (n, m), or (n, c, m, c)."""
    n, c, g, t, d = x.b.shape
    m, s = len(z.b), z.positions
    if x.single and z.single:
        near = x.a.view(n, -1) @ z.a.view(m, -1).T
        if full:
            return near.view(n, 1, m, 1) * (x.b.reshape(n * c, d) @ z.b.reshape(m * c, d).T).view(n, c, m, c)
        return near.mul_(x.b.reshape(n, -1) @ z.b.reshape(m, -1).T)
    # One block holds both products for all positions of its samples.
    each = 2 * s * m * t * (c * c if full else 1) * x.b.dtype.itemsize
    step = max(1, min(n, workspace // max(each, 1)))
    return torch.cat([_pairs(x[i:i + step], z, full) for i in range(0, n, step)])


def _pairs(x: Outer, z: Outer, full: bool) -> Tensor:
    n, c, g, t, d = x.b.shape
    m, s = len(z.b), z.positions
    shape = (n, c, m, c) if full else (n, m)
    total = x.b.new_zeros(shape)
    for j in range(g):
        if x.size is None:
            near = x.a[:, j].reshape(n * t, -1) @ z.a[:, j].reshape(m * s, -1).T
        else:
            near = (x.a.reshape(-1, 1) == z.a.reshape(1, -1)).to(x.b.dtype)
        if full:
            b, e = x.b[:, :, j].reshape(n * c * t, d), z.b[:, :, j].reshape(m * c * s, d)
            product = (b @ e.T).view(n, c, t, m, c, s).mul_(near.view(n, 1, t, m, 1, s))
            total += product.sum((2, 5))
        else:
            # The outputs are summed within the product: (n T, c d_b) by (c d_b, m T').
            b = x.b[:, :, j].transpose(1, 2).reshape(n * t, c * d)
            e = z.b[:, :, j].transpose(1, 2).reshape(m * s, c * d)
            total += (b @ e.T).mul_(near).view(n, t, m, s).sum((1, 3))
    return total
