"""Memory for rows of parameters and copies of states, used again once they are written.

A fresh row of a million numbers costs twenty times the copy into one that was used before: the system hands out memory
page by page. So the thread that writes gives memory back, and the loop only copies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..network import flatten

#: Tensors below this size, in bytes, are not worth keeping.
SMALL = 2**16


class Rows:
    """A stock of memory.

    Args:
        count: The number of entries of a row.
        dtype: Their type.
    """

    def __init__(self, count: int, dtype: torch.dtype):
        self._count = count
        self._dtype = dtype
        self._free: dict[tuple[int, torch.dtype], deque[Tensor]] = {}

    def of(self, tensors: Sequence[Tensor]) -> Tensor:
        """The entries of the tensors, one after the other, in memory of their own."""
        if any(t.device.type != "cpu" or t.dtype != self._dtype for t in tensors):
            return flatten(tensors, self._dtype).cpu()
        with torch.no_grad():
            return torch.cat([t.detach().reshape(-1) for t in tensors], out=self._take(self._count, self._dtype))

    def copy(self, tensor: Tensor) -> Tensor:
        """The tensor on the CPU, in memory of its own."""
        return self._take(tensor.numel(), tensor.dtype).view(tensor.shape).copy_(tensor.detach())

    def take_back(self, tensors: Iterable[Tensor]) -> None:
        """Takes memory that nobody reads any more."""
        for t in tensors:
            if t.nbytes >= SMALL and t.is_contiguous():
                self._free.setdefault((t.numel(), t.dtype), deque()).append(t.view(-1))

    def _take(self, count: int, dtype: torch.dtype) -> Tensor:
        try:
            return self._free[count, dtype].popleft()
        except LookupError:
            return torch.empty(count, dtype=dtype)
