r"""Products with the roots W of a Gauss-Newton matrix :math:`W^T W / n`, of many directions at once.

A product with :math:`W = S^T J` pushes directions forward through the network, and one with :math:`W^T` pulls numbers
back, so that no gradient of a single sample is formed. Where ``torch.func`` cannot transform the network, the rows of W
are formed, some samples at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from ...errors import ModelError
from ...network import MISFITS, Parameters, apart
from ...sizes import largest_of
from ..training_side import AGREEMENT
from .curved import Curved

#: The share of the memory that the directions of one pass, and that the activations of its samples, may fill.
SHARE = 8


class CurvedProducts(Protocol):
    """Products with W and with its transpose."""

    def out(self, v: Tensor) -> Tensor:
        """W v, with shape (n r, k), for v with shape (P, k)."""

    def back(self, u: Tensor) -> Tensor:
        r""":math:`W^T u`, with shape (P, k), for u with shape (n r, k)."""

    def square(self, v: Tensor) -> Tensor:
        r""":math:`W^T W v`, with shape (P, k)."""


def products_of(curved: Curved) -> CurvedProducts:
    """The products by passes, where they are those by rows on two samples, and forward and back agree on all."""
    by_passes = ByPasses(curved)
    some = curved.part(slice(0, 2))
    v = torch.randn(curved.size, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = v.to(curved.roots)
    try:
        found = ByPasses(some).out(v), ByPasses(some).square(v)
    except (ModelError, *MISFITS):
        return ByRows(curved)
    true = ByRows(some).out(v), ByRows(some).square(v)
    limit = AGREEMENT[v.dtype]
    alike = all(largest_of(a - b) <= limit * largest_of(b) for a, b in zip(found, true, strict=True))
    return by_passes if alike and _meet(by_passes, v[:, :1], limit) else ByRows(curved)


def _meet(products: CurvedProducts, v: Tensor, limit: float) -> bool:
    """Whether what is pushed forward is the transpose of what is pulled back, of any sample.

    They part where an operation has one derivative forward and another one back: an embedding of padding, or what is
    computed within ``torch.no_grad``.
    """
    there = products.out(v)
    u = torch.randn(there.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(there)
    pushed, pulled = (u * there).double(), (products.back(u) * v).double()
    return abs(float(pushed.sum() - pulled.sum())) <= limit * max(float(pushed.norm()), float(pulled.norm()))


class ByRows:
    """Products by the rows of W, which are formed for each.

    Args:
        curved: The matrix.
    """

    def __init__(self, curved: Curved):
        self._curved = curved

    def out(self, v: Tensor) -> Tensor:
        """W v."""
        return torch.cat([rows @ v for _, rows in self._curved.rows()])

    def back(self, u: Tensor) -> Tensor:
        """The transpose."""
        return sum((rows.T @ u[part] for part, rows in self._curved.rows()), u.new_zeros(self._curved.size, u.shape[1]))

    def square(self, v: Tensor) -> Tensor:
        """Both, of each block while it is there."""
        return sum((rows.T @ (rows @ v) for _, rows in self._curved.rows()), torch.zeros_like(v))


class ByPasses:
    """Products by forward and backward passes.

    Args:
        curved: The matrix.
    """

    def __init__(self, curved: Curved):
        self._curved = curved
        self._own = apart(curved.parameters, curved.names)
        size = curved.size * curved.roots.element_size()
        self._together = max(1, curved.memory // (SHARE * max(size, 1)))

    def out(self, v: Tensor) -> Tensor:
        """W v."""
        return torch.cat([self._pushed(part, v) for part in self._parts(v.shape[1])])

    def back(self, u: Tensor) -> Tensor:
        """The transpose."""
        width = self._curved.width
        found = u.new_zeros(self._curved.size, u.shape[1])
        for part in self._parts(u.shape[1]):
            self._pull(part, u[part.start * width:part.stop * width], found)
        return found

    def square(self, v: Tensor) -> Tensor:
        """Both, of each block."""
        found = torch.zeros_like(v)
        for part in self._parts(v.shape[1]):
            self._pull(part, self._pushed(part, v), found)
        return found

    def _parts(self, columns: int) -> Iterator[slice]:
        """Some samples at a time, as many as there is room for."""
        each = max(self._curved.saved, 1) * min(columns, self._together)
        step = max(1, self._curved.memory // (SHARE * each))
        for start in range(0, self._curved.count, step):
            yield slice(start, min(start + step, self._curved.count))

    def _rooted(self, part: slice, parameters: Parameters) -> Tensor:
        """The outputs of some samples through the roots of their curvature, with shape (b, r)."""
        curved = self._curved
        outputs = curved.run.network({**curved.parameters, **parameters}, curved.buffers,
                                     tuple(x[part] for x in curved.members.inputs))
        return torch.einsum("nc,ncr->nr", outputs.flatten(1), curved.roots[part])

    def _pushed(self, part: slice, v: Tensor) -> Tensor:
        def push(direction: Parameters) -> Tensor:
            return jvp(lambda p: self._rooted(part, p), (self._own,), (direction,))[1]

        found = [vmap(push)(self._named(columns)) for columns in v.split(self._together, 1)]
        return torch.cat(found).flatten(1).T

    def _pull(self, part: slice, u: Tensor, onto: Tensor) -> None:
        pull = vjp(lambda p: self._rooted(part, p), self._own)[1]
        rows = u.T.reshape(u.shape[1], part.stop - part.start, -1)
        for start in range(0, len(rows), self._together):
            some = slice(start, min(start + self._together, len(rows)))
            found = vmap(pull)(rows[some])[0]
            onto[:, some] += torch.cat([found[name].flatten(1) for name in self._curved.names], 1).T

    def _named(self, v: Tensor) -> Parameters:
        """Columns as directions by name, each with shape (k, *)."""
        sizes = [self._own[name].numel() for name in self._curved.names]
        return {name: part.T.reshape(-1, *self._own[name].shape)
                for name, part in zip(self._curved.names, v.split(sizes), strict=True)}
