r"""The members of the training set, as the network saw them.

A loop may reshape, scale or convert a batch between the loader and the network. What counts is what reached the
network, so the recorder keeps for each sample id the input that the forward pass received and the target that came
with it. Where the same id is seen twice with different inputs (augmentation), the inputs are kept with the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import DataError

if TYPE_CHECKING:
    from .step import MicroBatch

#: The largest training set: beyond it, shares of all samples fit into no memory either.
MOST = 2**26


class Samples:
    """A table of training samples: inputs and targets by column, filled as they are seen.

    Attributes:
        ids: The id of each column, in order; for a data set, its indices.
        size: The number of samples n.
        inputs: For each input of the network the rows seen so far, in the order in which they were seen.
        targets: Their targets.
    """

    def __init__(self, size: int | None):
        if size is not None and size > MOST:
            raise DataError(
                f"The training set has {size:,} samples, and a run keeps at most {MOST:,} apart. Record with a "
                "torch.utils.data.Subset of them, or pass ids= to name the samples that are drawn."
            )
        self.fixed = size is not None
        self.ids: Sequence[int] = range(size) if size is not None else []
        self.inputs: list[Tensor] = []
        self.targets: Tensor | None = None
        self._count = 0
        # The row of each column in the tables, or -1; it grows, so that a large set costs what was seen of it.
        self._rows = torch.zeros(0, dtype=torch.int32)
        self._columns: dict[int, int] = {}

    @property
    def size(self) -> int:
        """The number of samples n."""
        return len(self.ids)

    @property
    def seen(self) -> Tensor:
        """Which columns hold a sample, with shape :math:`(n,)`."""
        seen = torch.zeros(self.size, dtype=torch.bool)
        seen[:len(self._rows)] = self._rows[:self.size] >= 0
        return seen

    def columns(self, ids: Sequence[int]) -> Tensor:
        """The columns of the samples with these ids; new ids get a column when the set has no fixed size."""
        if self.fixed:
            if len(ids) and (min(ids) < 0 or max(ids) >= self.size):
                raise DataError(
                    f"Sample ids must lie in 0..{self.size - 1}, the {self.size} samples of the recorded data; "
                    f"came {min(ids)}..{max(ids)}. Record with the data set that the loader reads."
                )
            if isinstance(ids, range):
                return torch.arange(ids.start, ids.stop, ids.step)
            return torch.tensor(ids, dtype=torch.int64)
        for i in ids:
            if i not in self._columns:
                self._columns[i] = len(self.ids)
                self.ids.append(i)  # type: ignore[attr-defined]
        return torch.tensor([self._columns[i] for i in ids], dtype=torch.int64)

    def keep(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, bool]:
        """Keeps a batch; says which of its rows were new, and whether the rest agree with what is kept."""
        batch = [*(x.detach().cpu() for x in inputs), targets.detach().cpu()]
        if self.targets is None:
            *self.inputs, self.targets = (b.new_zeros(0, *b.shape[1:]) for b in batch)
        tables = [*self.inputs, self.targets]
        if [(t.shape[1:], t.dtype) for t in tables] != [(b.shape[1:], b.dtype) for b in batch]:
            return torch.zeros(len(columns), dtype=torch.bool), False
        if len(columns) and int(columns.max()) >= len(self._rows):
            self._rows = _grown(self._rows, int(columns.max()) + 1, -1, MOST if not self.fixed else self.size)
        # Whole rows are selected, which is several times faster than indexing.
        rows = self._rows.index_select(0, columns).long()
        new = rows < 0
        if bool(new.any()):
            new, tables = self._add(columns, new, tables, batch)
            rows = self._rows[columns].long()
        # Ids that came twice within this batch must agree as well, so all rows are compared.
        return new, all(_alike(table.index_select(0, rows), b) for table, b in zip(tables, batch, strict=True))

    def _add(self, columns: Tensor, new: Tensor, tables: list[Tensor],
             batch: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Keeps the first row of each new column; says which rows these are."""
        places = new.nonzero().flatten()
        unique, which = torch.unique(columns[places], return_inverse=True)
        first = places.new_full((len(unique),), len(columns)).scatter_reduce_(0, which, places, "amin")
        count, self._count = self._count, self._count + len(unique)
        self._rows[unique] = torch.arange(count, self._count, dtype=torch.int32)
        most = self.size if self.fixed else MOST
        tables = [_grown(table, self._count, 0, most) for table in tables]
        for table, b in zip(tables, batch, strict=True):
            table[count:self._count] = b[first]
        *self.inputs, self.targets = tables
        return torch.zeros_like(new).index_fill_(0, first, True), tables

    def refuse_namesakes(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor) -> None:
        """Refuses a batch in which an id stands for another sample than before.

        A sample may come in changing forms, but not with another target each time, and not twice in one batch.

        Raises:
            DataError: If two samples share an id.
        """
        unique, which, counts = torch.unique(columns, return_inverse=True, return_counts=True)
        if len(unique) < len(columns):
            order = torch.argsort(which, stable=True)
            heads = order[(counts.cumsum(0) - counts)[which]]
            differ = [_rows_differ(t, t[heads]) for t in (*inputs, targets)]
            self._refuse(torch.stack(differ).any(0), columns, "two samples of one batch that are not the same")
        self._refuse(self.others(columns, inputs, targets), columns,
                     "a sample whose input and target are both others than before")

    def others(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Which rows have another input and another target than those kept, with shape :math:`(n_b,)`."""
        if self.targets is None or self.targets.shape[1:] != targets.shape[1:]:
            return torch.zeros(len(columns), dtype=torch.bool)
        rows = self._row(columns)
        # Targets are small, and those of a sample in another form are its own.
        changed = (rows >= 0) & _rows_differ(targets, self.targets[rows.clamp_min(0)])
        return changed & self.changed(columns, inputs, targets)[0] if bool(changed.any()) else changed

    def changed(self, columns: Tensor, inputs: Sequence[Tensor], targets: Tensor,
                beyond: float = 0.0) -> tuple[Tensor, Tensor]:
        """Which rows have another input than the one kept, and which another target, each with shape :math:`(n_b,)`.

        Args:
            columns: The columns of the samples.
            inputs: Their inputs.
            targets: Their targets.
            beyond: The part of an input's largest number by which it may differ.
        """
        tables = [*self.inputs, self.targets] if self.targets is not None else []
        if [t.shape[1:] for t in tables] != [t.shape[1:] for t in (*inputs, targets)]:
            return torch.zeros(len(columns), dtype=torch.bool), torch.zeros(len(columns), dtype=torch.bool)
        rows = self._row(columns)
        *kept, labels = (table[rows.clamp_min(0)] for table in tables)
        differ = [_rows_differ(a, b, beyond) for a, b in zip(inputs, kept, strict=True)]
        return (rows >= 0) & torch.stack(differ).any(0), (rows >= 0) & _rows_differ(targets, labels)

    def _refuse(self, which: Tensor, columns: Tensor, what: str) -> None:
        if bool(which.any()):
            name = self.ids[int(columns[which][0])]
            raise DataError(
                f"The id {name} was given to {what}, so these ids do not tell samples apart, and shares would be "
                "booked on the wrong ones. Let ids=lambda batch: ... give each sample a whole number of its own, such "
                "as its place in the data; give each form of a sample its own id if its target changes with it."
            )

    def take_over(self, other: Samples) -> None:
        """Goes on with the samples of an earlier recording."""
        self.__dict__.update(other.__dict__)

    def batch(self, columns: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and targets of some columns."""
        rows = self._row(columns)
        if self.targets is None or bool((rows < 0).any()):
            raise DataError(
                f"This run does not hold all of the samples {columns.tolist()[:8]}, so a batch of them cannot be read. "
                "Ask for samples that a step drew; run.samples.seen says which."
            )
        return tuple(table.index_select(0, rows) for table in self.inputs), self.targets.index_select(0, rows)

    def read(self, batch: MicroBatch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and targets of a recorded forward pass."""
        return self.batch(batch.columns) if batch.drawn is None else (batch.drawn[:-1], batch.drawn[-1])

    def sample(self, column: int) -> tuple[Any, Tensor] | None:
        """The input (of several, a tuple) and the target of one sample, or ``None`` if training never drew it."""
        row = int(self._row(torch.tensor(column)))
        if self.targets is None or row < 0:
            return None
        inputs = tuple(table[row] for table in self.inputs)
        return (inputs[0] if len(inputs) == 1 else inputs), self.targets[row]

    @property
    def held_targets(self) -> Tensor | None:
        """The targets of the samples that were seen, in the order in which they were."""
        return None if self.targets is None else self.targets[:self._count]

    def in_order(self, held: list[Any]) -> list[Any]:
        """Something for each sample, ``None`` where training never drew it, from that for each that was seen."""
        rows = self._rows[:self.size].tolist()
        return [held[row] if row >= 0 else None for row in rows] + [None] * (self.size - len(rows))

    def _row(self, columns: Tensor) -> Tensor:
        if not len(self._rows):
            return torch.full_like(columns, -1)
        inside = (columns >= 0) & (columns < len(self._rows))
        return torch.where(inside, self._rows[torch.where(inside, columns, 0)].long(), -1)


def _alike(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or not bool(_rows_differ(a, b).any())


def _rows_differ(a: Tensor, b: Tensor, beyond: float = 0.0) -> Tensor:
    # A number that is none, such as a missing target, is the same as another.
    differ = ((a != b) & ~((a != a) & (b != b))).reshape(len(a), -1)
    if beyond and a.is_floating_point() and differ.any():
        a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
        differ &= ~((a - b).abs() <= beyond * b.abs().amax(1, keepdim=True))
    return differ.any(1)


def _grown(table: Tensor, size: int, fill: int, most: int) -> Tensor:
    if size <= len(table):
        return table
    # Capacity doubles, so that a stream of new rows costs one copy per doubling.
    more = max(size, min(2 * len(table), most)) - len(table)
    return torch.cat([table, table.new_full((more, *table.shape[1:]), fill)])


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
        f"{type(batch).__name__}. Pass batch=lambda b: (inputs, targets)."
    )
