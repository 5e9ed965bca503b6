r"""Where the samples of a loop come from, and which of them a forward pass sees.

A loop reads a loader, which is tapped, or it indexes a pair of tensors and says which rows it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import DataError, RecordingError
from .deliveries import Deliveries, len_of
from .loading import Deliver, LoaderTap, as_integers
from .samples import Samples


class Source:
    """The samples of a loop.

    Args:
        data: The loader, or the pair ``(inputs, targets)``.
        split: ``batch -> (inputs, targets)``.
        ids: ``batch -> whole numbers`` for a loader whose samples have no index.

    Attributes:
        samples: The table of samples.
        batches: The number of batches that came.
    """

    def __init__(self, data: Any, split: Callable[[Any], tuple[Any, Any]], ids: Callable[[Any], Any] | None):
        self._tap: LoaderTap | None = None
        self._has_loader = isinstance(data, DataLoader)
        self._said: list[int] | None = None
        self.batches = 0
        if isinstance(data, DataLoader):
            self._tap = LoaderTap(data, self.deliver, ids)
            self.samples = Samples(len(data.dataset) if ids is None else None)  # type: ignore[arg-type]
            self._deliveries = Deliveries(split)
        else:
            inputs, self._targets = _pair(data)
            self.samples = Samples(len(self._targets))
            self._deliveries = Deliveries(lambda pair: pair)
            # A pass that is given a slice of the inputs, or all of them, needs no word about its samples.
            self._deliveries.add(range(len(self._targets)), (inputs, self._targets))

    @property
    def unread(self) -> bool:
        """Whether there is a loader, and it gave no batch."""
        return self._has_loader and self.batches == 0

    def open(self) -> None:
        """Begins to listen to the loader."""
        if self._tap is not None:
            self._tap.open()

    def close(self) -> None:
        """Leaves the loader as it was."""
        # The source and its tap know each other; apart, each is freed as soon as nobody needs it.
        if self._tap is not None:
            self._tap.close()
            self._tap = None
        self._deliveries.forget()

    def relay(self, deliver: Deliver) -> None:
        """Has the loader's batches told to ``deliver`` first."""
        if self._tap is not None:
            self._tap.deliver = deliver

    def deliver(self, batch: Any, ids: list[int]) -> None:
        """Takes note that the loop received a batch of these samples."""
        if self._tap is not None:
            self._tap.order.refuse()
        self.batches += 1
        self._deliveries.add(ids, batch)

    def skip(self) -> None:
        """Takes note that the loop received a batch of samples that are not recorded."""
        self._deliveries.skip()

    @property
    def has_loader(self) -> bool:
        """Whether the samples come from a loader."""
        return self._has_loader

    @property
    def said(self) -> list[int] | None:
        """The ids that the loop said, if it did."""
        return self._said

    def say(self, ids: Any) -> None:
        """Takes a word of the loop about the next pass."""
        self.batches += 1
        self._said = as_integers(ids)

    def next_step(self) -> None:
        """Forgets what was said."""
        self._said = None

    def held(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and targets of rows that lie within a batch that was delivered, or ``None``."""
        return self._deliveries.held(inputs)

    def latest(self) -> tuple[Sequence[int], Tensor] | None:
        """The ids and targets of what was said or delivered last, or ``None``."""
        if self._said is None or self._has_loader:
            return self._deliveries.latest()
        return self._said, self._targets[self.samples.columns(self._said)]

    def find(self, inputs: tuple[Tensor, ...]) -> tuple[Sequence[int], Tensor] | None:
        """The ids and targets of the rows that the network received, or ``None`` if they are unknown."""
        if self._said is None:
            return self._deliveries.find(inputs)
        return self.latest() if len(self._said) == len_of(inputs[0]) else None


def _pair(pair: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    if not isinstance(pair, list | tuple) or len(pair) < 2 or not all(isinstance(t, Tensor) and t.ndim for t in pair):
        raise RecordingError(
            f"The training data must be a DataLoader or a pair (inputs, targets) of tensors; a "
            f"{type(pair).__name__} came. Pass the loader that the loop iterates."
        )
    if len({len(t) for t in pair}) != 1:
        raise DataError(
            f"Inputs and targets must have one row for each sample; they have {[len(t) for t in pair]} rows. "
            "Cut them to the same length."
        )
    return tuple(pair[:-1]), pair[-1].detach().cpu()
