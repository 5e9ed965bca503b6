r"""Which delivered batch a forward pass sees.

A loop is free to fetch ahead, to nest two iterations, to keep batches in a list or to cut one into pieces. So the batch
behind an input is told by memory first: an input that lies within a delivered tensor is that tensor's rows. Only for an
input that was computed on the way (scaled, cast, moved to a device) it is the batch that was delivered last.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError, RecordingError
from ..nested import leaves

Split = Callable[[Any], tuple[Any, Any]]

#: Computed inputs with two equal axes that are compared with what was delivered.
LOOKS = 4


class Delivery:
    """A batch, the ids of its rows, and its targets once they were asked for."""

    def __init__(self, ids: Sequence[int], batch: Any, split: Split):
        self.ids = ids
        self._batch = batch
        self._split = split
        self._targets: Any = None

    def targets(self, rows: slice) -> Tensor:
        """The targets of some rows."""
        if self._targets is None:
            parts = self._split(self._batch)
            if not isinstance(parts, list | tuple) or len(parts) < 2:
                raise DataError(
                    f"batch= must give (inputs, targets) for each batch, and it gave {what_came(parts)}. Pass "
                    "batch=lambda b: (inputs, targets), or leave it out where the targets come last in a batch."
                )
            self._targets = parts[1]
        count = len(self.ids)
        if not isinstance(self._targets, Tensor) or self._targets.ndim == 0 or len(self._targets) != count:
            came = f"of shape {tuple(self._targets.shape)}" if isinstance(self._targets, Tensor) else (
                type(self._targets).__name__)
            raise DataError(
                f"The targets of a batch must be a tensor with one row for each of its {count} samples; came "
                f"{came}. Pass batch=lambda b: (inputs, targets) to record(...)."
            )
        return self._targets[rows]

    def outlive(self) -> bool:
        """Lets go of the batch, now that a newer one came; says whether its targets are known."""
        try:
            # An alias: a tensor of the loop's own that is held here would never be let go.
            self._targets = self.targets(slice(None)).detach()
        # A batch that was never trained on may have any form.
        except (DataError, LookupError, TypeError, ValueError, AttributeError):
            return False
        self._batch = None
        return True


class Deliveries:
    """The batches that the loop may still hold.

    Args:
        split: ``batch -> (inputs, targets)``.
    """

    def __init__(self, split: Split):
        self._split = split
        self._latest: tuple[Delivery, list[Tensor]] | None = None
        self._older: dict[int, list[tuple[weakref.ref[Tensor], Delivery]]] = {}
        self._looks = LOOKS

    def add(self, ids: Sequence[int], batch: Any) -> None:
        """Takes a batch as the loop receives it."""
        if self._latest is not None:
            self._age(*self._latest)
        self._latest = Delivery(ids, batch, self._split), [t for t in leaves(batch) if len_of(t) == len(ids)]

    def skip(self) -> None:
        """Takes note that the loop received something else."""
        if self._latest is not None:
            self._age(*self._latest)
        self._latest = None

    def forget(self) -> None:
        """Lets go of all batches."""
        self._latest = None
        self._older.clear()

    def latest(self) -> tuple[Sequence[int], Tensor] | None:
        """The ids and targets of the batch that was delivered last, or ``None``."""
        return None if self._latest is None else (self._latest[0].ids, self._latest[0].targets(slice(None)))

    def find(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and the targets behind the inputs of a forward pass, or ``None``.

        Raises:
            RecordingError: If the rows of an input are seen to be no samples.
        """
        if self._latest is not None and any(t is inputs[0] for t in self._latest[1]):
            # The plain loop, which is not to wait.
            return self._latest[0].ids, self._latest[0].targets(slice(None))
        held = self.held(inputs)
        if held is not None:
            return held
        self._refuse_exchanged_axes(inputs[0])
        if self._latest is None or len(self._latest[0].ids) != len_of(inputs[0]):
            return None
        return self._latest[0].ids, self._latest[0].targets(slice(None))

    def held(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and the targets of rows that lie within a delivered batch, or ``None``."""
        for x in inputs:
            for tensor, delivery in self._at(place_of(x)):
                rows = rows_within(x, tensor)
                if rows is not None:
                    return delivery.ids[rows], delivery.targets(rows)
        return None

    def _refuse_exchanged_axes(self, x: Tensor) -> None:
        """Refuses a batch whose second axis are the samples, where the first one is as long and looks like them."""
        if not self._looks or x.ndim < 2 or x.shape[0] != x.shape[1]:
            return
        self._looks -= 1
        delivered = [t for t, _ in self._at(place_of(x))] + (self._latest[1] if self._latest is not None else [])
        for t in delivered:
            given = x.detach().to(t)
            if given.shape == t.shape and torch.equal(given, t.transpose(0, 1)) and not torch.equal(given, t):
                raise RecordingError(
                    f"The network is called on a batch whose first two axes were exchanged, {tuple(x.shape)}, so its "
                    f"{len(x)} rows are no samples although there are as many, and shares would be booked on the wrong "
                    "ones. Samples must stand along the first axis of inputs and outputs: wrap the network in a module "
                    "whose forward exchanges the axes, call that one and record it."
                )

    def _at(self, place: int) -> list[tuple[Tensor, Delivery]]:
        latest = [] if self._latest is None else [(t, self._latest[0]) for t in self._latest[1] if place_of(t) == place]
        older = [(reference(), delivery) for reference, delivery in reversed(self._older.get(place, []))]
        return latest + [(t, delivery) for t, delivery in older if t is not None]

    def _age(self, delivery: Delivery, tensors: list[Tensor]) -> None:
        for t in tensors if delivery.outlive() else ():
            place = place_of(t)
            # A batch that is made once and delivered again and again is known by its last delivery.
            entries = [entry for entry in self._older.get(place, []) if entry[0]() is not t]
            self._older[place] = entries

            def gone(reference: weakref.ref[Tensor], place: int = place) -> None:
                left = [entry for entry in self._older.get(place, []) if entry[0] is not reference]
                if left:
                    self._older[place] = left
                else:
                    self._older.pop(place, None)

            entries.append((weakref.ref(t, gone), delivery))


def len_of(x: Tensor) -> int:
    """The number of rows; 0 for a number."""
    return len(x) if x.ndim else 0


def place_of(x: Tensor) -> int:
    """Where the memory of a tensor begins; 0 for one that has no plain memory."""
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else 0


def rows_within(x: Tensor, whole: Tensor) -> slice | None:
    """Which rows of ``whole`` the tensor x is a view of, whatever the shape of a row; ``None`` if it is not."""
    count, total = len_of(x), len_of(whole)
    if not count or not total or x.dtype != whole.dtype or x.numel() * total != whole.numel() * count:
        return None
    width = whole.stride(0)
    if width == 0 or whole.numel() == 0:
        return None
    start, rest = divmod(int(x.storage_offset() - whole.storage_offset()), width)
    step, between = divmod(int(x.stride(0)), width) if count > 1 else (1, 0)
    if rest or between or step < 1 or start < 0 or start + step * (count - 1) >= total:
        return None
    return slice(start, start + step * (count - 1) + 1, step)
