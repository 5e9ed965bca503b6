"""Memory for rows of parameters, used again once they are written.

A fresh row of a million numbers costs twenty times the copy into one that was used before: the system hands out memory
page by page. So the thread that writes gives rows back, and the loop only copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..network import flatten


class Rows:
    """A stock of rows.

    Args:
        count: The number of entries of a row.
        dtype: Their type.
    """

    def __init__(self, count: int, dtype: torch.dtype):
        self._count = count
        self._dtype = dtype
        self._free: deque[Tensor] = deque()

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The entries of the tensors, one after the other, in memory of their own."""
        if any(t.device.type != "cpu" or t.dtype != self._dtype for t in tensors):
            return flatten(tensors, self._dtype).cpu()
        try:
            row = self._free.popleft()
        except IndexError:
            row = torch.empty(self._count, dtype=self._dtype)
        with torch.no_grad():
            return torch.cat([t.detach().reshape(-1) for t in tensors], out=row)

    def take_back(self, rows: dict[int, Tensor]) -> None:
        """Takes rows that nobody reads any more."""
        self._free.extend(row for row in rows.values() if row.numel() == self._count and row.dtype == self._dtype)
        rows.clear()
