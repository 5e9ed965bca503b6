r"""Random matrices by counter: every entry is a function of the seed, its row and its column.

Nothing is drawn and nothing kept, so any block of the matrix can be made again, on any device, bit for bit. The numbers
come from an integer hash in 32 bits, computed in int64 without overflow, because what overflow does is up to a device.

References:
    | Hash function prospector: the two-round hash of 32 bits with the least bias (Wellons, 2018)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 2**32 - 1

#: How many entries of the matrix are held at a time.
ENTRIES = 2**21


def mix(h: Tensor) -> Tensor:
    """A bijection of the integers below 2^32 in which every bit of the input moves every bit of the output."""
    h = _times(h ^ (h >> 16), 0x21F0AAAD)
    h = _times(h ^ (h >> 15), 0xD35A2D97)
    return h ^ (h >> 15)


def _times(h: Tensor, factor: int) -> Tensor:
    """A product in 32 bits, from two that stay below 2^48."""
    return (h * (factor & 0xFFFF) + ((h * (factor >> 16) & 0xFFFF) << 16)) & WORD


def words(seed: int, rows: Tensor, columns: Tensor) -> Tensor:
    """A word of 32 random bits for each row and column, with shape (q, w).

    Example:
        >>> words(0, torch.tensor([5, 6]), torch.tensor([0, 1]))[1, 1] == words(0, torch.tensor([6]), torch.tensor([1]))
        tensor([[True]])
    """
    # Two keys for each column, so that no column is another one with its rows in another order.
    low, high = (torch.tensor((seed >> shift) & WORD, device=rows.device) for shift in (0, 32))
    first = mix(mix(mix(low + 1 & WORD) ^ high) ^ columns)
    second = mix(first + 0x9E3779B9 & WORD)
    # What is beyond 32 bits of a row goes in before the last round: added after it, rows would differ by a constant.
    return mix((mix((rows & WORD)[:, None] ^ first) + second & WORD) ^ mix(rows >> 32)[:, None])


@dataclass(frozen=True)
class Rademacher:
    r"""A matrix of entries :math:`\pm 1/\sqrt k`, with k columns and any number of rows."""

    seed: int
    columns: int

    def block(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows, with shape (q, k)."""
        columns = torch.arange(-(-self.columns // 32), device=rows.device)
        octets = torch.arange(0, 32, 8, device=rows.device)
        signs = _signs_of_octets(dtype, rows.device) / self.columns**0.5
        found = words(self.seed, rows, columns)
        return signs[found[..., None] >> octets & 255].flatten(1)[:, :self.columns]

    def gather(self, rows: Tensor, u: Tensor) -> Tensor:
        """Some rows times u: from shape (k, *) to (q, *)."""
        return torch.cat([torch.tensordot(self.block(some, u.dtype), u, 1) for some in self._some(rows)])

    def spread(self, rows: Tensor, values: Tensor) -> Tensor:
        """Values times some rows: from shape (*, q) to (*, k)."""
        total = values.new_zeros(*values.shape[:-1], self.columns)
        for some, part in zip(self._some(rows), values.split(self._step, -1), strict=True):
            total += part @ self.block(some, values.dtype)
        return total

    @property
    def _step(self) -> int:
        return max(1, ENTRIES // self.columns)

    def _some(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self._step)


#: Into how many columns of a sparse matrix each row goes. The mean error does not depend on it, rare large ones do.
NONZEROS = 4


@dataclass(frozen=True)
class Sparse:
    r"""A matrix with s entries :math:`\pm 1/\sqrt s` in each row, one in each of s ranges of the k columns.

    References:
        | Sparser Johnson-Lindenstrauss Transforms (Kane and Nelson, 2014)
    """

    seed: int
    columns: int

    @property
    def nonzeros(self) -> int:
        """The number s of entries in each row."""
        return min(NONZEROS, self.columns)

    def entries(self, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The columns and the values of the entries of some rows, each with shape (q, s)."""
        s = self.nonzeros
        ranges = torch.arange(s, device=rows.device)
        starts, stops = ranges * self.columns // s, (ranges + 1) * self.columns // s
        found = words(self.seed, rows, ranges)
        signs = ((found & 1) * 2 - 1).to(dtype) / s**0.5
        return starts + ((found >> 1) * (stops - starts) >> 31), signs

    def block(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows, with shape (q, k)."""
        columns, signs = self.entries(rows, dtype)
        return signs.new_zeros(len(rows), self.columns).scatter_(1, columns, signs)

    def gather(self, rows: Tensor, u: Tensor) -> Tensor:
        """Some rows times u: from shape (k, *) to (q, *)."""
        flat = u.reshape(len(u), -1)
        total = torch.zeros(len(rows), flat.shape[1], dtype=u.dtype, device=u.device)
        for some, part in zip(self._some(rows), self._some(total), strict=True):
            columns, signs = self.entries(some, u.dtype)
            for t in range(self.nonzeros):
                part += signs[:, t, None] * flat[columns[:, t]]
        return total.view(len(rows), *u.shape[1:])

    def spread(self, rows: Tensor, values: Tensor) -> Tensor:
        """Values times some rows: from shape (*, q) to (*, k)."""
        flat = values.reshape(-1, len(rows))
        total = flat.new_zeros(self.columns, flat.shape[0])
        for some, part in zip(self._some(rows), self._some(flat.T), strict=True):
            columns, signs = self.entries(some, values.dtype)
            # Rows of memory are added to each other faster than columns.
            part = part.contiguous()
            for t in range(self.nonzeros):
                total.index_add_(0, columns[:, t], part * signs[:, t, None])
        return total.T.reshape(*values.shape[:-1], self.columns)

    def _some(self, t: Tensor) -> tuple[Tensor, ...]:
        return t.split(max(1, ENTRIES // self.nonzeros))


def _signs_of_octets(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The eight signs that each number below 256 stands for."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return (2 * bits - 1).to(dtype)
