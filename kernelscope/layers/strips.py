r"""Gradients of some samples by a few entries of a parameter at a time, formed from their factors.

What takes gradients as they are (a projection, a scale for each entry) never needs all of them at once. A factor is cut
along the side of its output gradients, and where even one column has no room, along its samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .factors import Factor, Outer, Rows


def strips(factor: Factor, room: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    r"""Samples, the numbers of q entries, and their gradients with shape :math:`(r, c, q)`, of ``room`` bytes each.

    Entries that no sample of a table has looked up are left out: their gradients are nought.

    Example:
        >>> factor = Outer(torch.ones(1, 1, 1, 2), torch.tensor([[[[[3.0, 4.0]]]]]))     # 3 and 4 by two inputs
        >>> for samples, numbers, values in strips(factor, room=8):
        ...     print(numbers.tolist(), values.flatten().tolist())
        [0, 1] [3.0, 3.0]
        [2, 3] [4.0, 4.0]
    """
    yield from _of_rows(factor, room) if isinstance(factor, Rows) else _of_outer(factor, room)


def _of_rows(factor: Rows, room: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    n, c, p = factor.values.shape
    step = _most(room, n * c * factor.values.dtype.itemsize, p)
    for i in range(0, p, step):
        values = factor.values[:, :, i:i + step]
        yield slice(0, n), torch.arange(i, i + values.shape[2], device=values.device), values


def _of_outer(factor: Outer, room: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    n, c, g, _, d = factor.b.shape
    a, width, numbers = factor.a, factor.width, _numbers(factor)
    if factor.size is not None:
        seen, a = factor.a.unique(return_inverse=True)
        width, numbers = len(seen), numbers[:, seen]
    column = c * g * width * factor.b.dtype.itemsize
    samples = _most(room, column, n)
    step = _most(room, samples * column, d)
    for i in range(0, n, samples):
        rows = slice(i, min(i + samples, n))
        for j in range(0, d, step):
            part = slice(j, min(j + step, d))
            some = Outer(a[rows], factor.b[rows, ..., part], factor.first, None if factor.size is None else width)
            yield rows, (numbers[:, :, part] if factor.first else numbers[:, part]).flatten(), some.rows()


def _numbers(factor: Outer) -> Tensor:
    """The numbers of the entries with shape (g, d_a, d_b), or (g, d_b, d_a)."""
    g, d = factor.b.shape[2], factor.b.shape[4]
    sides = (factor.width, d) if factor.first else (d, factor.width)
    return torch.arange(factor.length, device=factor.b.device).view(g, *sides)


def _most(room: int, each: int, count: int) -> int:
    return max(1, min(count, room // max(each, 1)))
