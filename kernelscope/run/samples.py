r"""The members of the training set, as the network saw them.

A loop may reshape, scale or convert a batch between the loader and the network. What counts is what reached the
network, so the recorder keeps for each sample id the input that the forward pass received and the target that came
with it. Where the same id is seen twice with different inputs (augmentation), the inputs are kept with the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError


class Samples:
    """A table of training samples: inputs and targets by column, filled as they are seen.

    Attributes:
        ids: The id of each column, in order; for a data set, its indices.
        size: The number of samples n.
        seen: Which columns hold a sample.
    """

    def __init__(self, size: int | None):
        self.fixed = size is not None
        self.ids: list[int] = list(range(size or 0))
        self.seen = torch.zeros(size or 0, dtype=torch.bool)
        self.inputs: list[Tensor] = []
        self.targets: Tensor | None = None
        self._columns: dict[int, int] = {}

    @property
    def size(self) -> int:
        """The number of samples n."""
        return len(self.ids)

    def columns(self, ids: Sequence[int]) -> Tensor:
        """The columns of the samples with these ids; new ids get a column when the set has no fixed size."""
        if self.fixed:
            columns = torch.as_tensor(ids, dtype=torch.int64)
            if columns.numel() and (int(columns.min()) < 0 or int(columns.max()) >= self.size):
                raise DataError(
                    f"Sample ids must lie in 0..{self.size - 1}, the {self.size} samples of the recorded data; "
                    f"came {int(columns.min())}..{int(columns.max())}. Record with the data set that the loader reads."
                )
            return columns
        for i in ids:
            if i not in self._columns:
                self._columns[i] = len(self.ids)
                self.ids.append(i)
        if self.size > len(self.seen):
            # Capacity doubles, so that a stream of new ids costs one copy per doubling; the tail stays unseen.
            self.seen = _grown(self.seen, self.size)
            self.inputs = [_grown(table, self.size) for table in self.inputs]
            self.targets = None if self.targets is None else _grown(self.targets, self.size)
        return torch.tensor([self._columns[i] for i in ids], dtype=torch.int64)

    def keep(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, bool]:
        """Keeps a batch; says which of its rows were new, and whether the rest agree with what is kept."""
        inputs, targets = [x.detach().cpu() for x in inputs], targets.detach().cpu()
        if self.targets is None:
            self.inputs = [torch.zeros(len(self.seen), *x.shape[1:], dtype=x.dtype) for x in inputs]
            self.targets = torch.zeros(len(self.seen), *targets.shape[1:], dtype=targets.dtype)
        tables = [*self.inputs, self.targets]
        batch = [*inputs, targets]
        if [(t.shape[1:], t.dtype) for t in tables] != [(b.shape[1:], b.dtype) for b in batch]:
            return torch.zeros(len(columns), dtype=torch.bool), False
        known = self.seen[columns]
        if known.all():
            return ~known, all(torch.equal(table[columns], b) for table, b in zip(tables, batch, strict=True))
        new = ~known
        for table, b in zip(tables, batch, strict=True):
            table[columns[new]] = b[new]
        self.seen[columns] = True
        # Ids that came twice within this batch must agree as well, so all rows are compared.
        return new, all(torch.equal(table[columns], b) for table, b in zip(tables, batch, strict=True))

    def batch(self, columns: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and targets of some columns."""
        if self.targets is None:
            raise DataError("This run holds no samples, so its batches cannot be read. Record at least one step.")
        return tuple(table[columns] for table in self.inputs), self.targets[columns]

    def sample(self, column: int) -> tuple[Tensor, Tensor] | None:
        """The input and the target of one sample, or ``None`` if training never drew it."""
        if self.targets is None or not bool(self.seen[column]):
            return None
        return self.inputs[0][column], self.targets[column]


def _grown(table: Tensor, size: int) -> Tensor:
    capacity = max(size, 2 * len(table))
    return torch.cat([table, table.new_zeros(capacity - len(table), *table.shape[1:])])


def split_batch(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """What a loader's batch holds: the network's inputs, and the targets that come last.

    Example:
        >>> split_batch([torch.zeros(2, 3), torch.tensor([0, 1])])[1]
        tensor([0, 1])
    """
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return tuple(batch[:-1]), batch[-1]
    raise DataError(
        f"A batch must be a pair (inputs, targets) to find its targets, and this loader gives a "
        f"{type(batch).__name__}. Pass batch=lambda b: (inputs, targets) to record(...)."
    )
