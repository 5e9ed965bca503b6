r"""Which samples a batch holds: a tap on a data loader.

A loader draws index lists from its batch sampler and delivers batches in the same order, with any number of workers.
The tap keeps the lists while they are under way and pairs each with the batch that comes out. The data set, the
sampler and the random state are read by the loader alone, exactly as without the tap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ..errors import RecordingError

Deliver = Callable[[Any, list[int]], None]


class LoaderTap:
    """Tells ``deliver(batch, ids)`` of each batch as the loop receives it."""

    def __init__(self, loader: DataLoader[Any], deliver: Deliver, ids: Callable[[Any], Any] | None):
        self.loader = loader
        self.deliver = deliver
        self.ids = ids
        self.sampler: _TappedSampler | None = None
        self._kind: type | None = None
        if ids is None:
            _refuse_unnamed(loader)

    def open(self) -> None:
        """Begins to listen."""
        if self.ids is None:
            self.sampler = _TappedSampler(self.loader.batch_sampler)
            # A loader forbids assignment to its sampler after construction; the tap puts it back when it closes.
            self.loader.__dict__["batch_sampler"] = self.sampler
        self._kind = type(self.loader)
        # len, attributes and isinstance stay the loader's; only its iterator is accompanied.
        self.loader.__class__ = type(self._kind.__name__, (self._kind,), {"__iter__": _accompanied(self, self._kind)})

    def close(self) -> None:
        """Leaves the loader as it was."""
        if self._kind is not None:
            self.loader.__class__ = self._kind
            self._kind = None
        if self.sampler is not None:
            self.loader.__dict__["batch_sampler"] = self.sampler.inner
            self.sampler = None


def _accompanied(tap: LoaderTap, kind: type[Any]) -> Callable[[Any], Iterator[Any]]:
    def iterate(loader: Any) -> Iterator[Any]:
        if tap.sampler is not None:
            tap.sampler.under_way = None
        inner = kind.__iter__(loader)
        under_way = None if tap.sampler is None else tap.sampler.under_way
        if tap.sampler is not None and under_way is None:
            raise RecordingError(
                "The loader keeps its workers and was iterated before the recording began, so the order of its "
                "samples cannot be seen. Begin to record before the first epoch, or set persistent_workers=False."
            )
        return _TappedIterator(inner, tap, under_way)

    return iterate


class _TappedSampler:
    """The loader's batch sampler, remembering the index lists that are under way."""

    def __init__(self, inner: Any):
        self.inner = inner
        self.under_way: deque[list[int]] | None = None

    def __iter__(self) -> Iterator[list[int]]:
        under_way: deque[list[int]] = deque()
        self.under_way = under_way
        return self._draw(iter(self.inner), under_way)

    def _draw(self, inner: Iterator[Any], under_way: deque[list[int]]) -> Iterator[Any]:
        for ids in inner:
            under_way.append(list(ids))
            yield ids

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _TappedIterator:
    def __init__(self, inner: Iterator[Any], tap: LoaderTap, under_way: deque[list[int]] | None):
        self._inner = inner
        self._tap_of = tap
        self._under_way = under_way

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._inner)
        if self._under_way is not None:
            ids = self._under_way.popleft()
        else:
            assert self._tap_of.ids is not None
            ids = self._tap_of.ids(batch)
        self._tap_of.deliver(batch, _as_integers(ids))
        return batch

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _as_integers(ids: Any) -> list[int]:
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if not all(isinstance(value, int) for value in values):
        raise RecordingError(
            f"Sample ids must be whole numbers, one for each row of the batch; came {values[:3]!r}. "
            "Let the sampler give indices, or pass ids=lambda batch: ... that returns whole numbers."
        )
    return values


def _refuse_unnamed(loader: DataLoader[Any]) -> None:
    if isinstance(loader.dataset, IterableDataset):
        raise RecordingError(
            "This loader reads an IterableDataset, so its samples have no id by which a share could be booked. "
            "Let the data set yield an id with each sample and pass ids=lambda batch: batch[0] together with "
            "batch=lambda batch: (inputs, targets)."
        )
    if loader.batch_sampler is None:
        raise RecordingError(
            "This loader has batch_size=None, so it has no batch sampler that names the samples. "
            "Give the loader a batch_size, or pass ids=lambda batch: ... to record(...)."
        )
    if not getattr(loader, "in_order", True):
        raise RecordingError(
            "This loader delivers batches out of order (in_order=False), so ids and batches cannot be paired. "
            "Set in_order=True, or pass ids=lambda batch: ... to record(...)."
        )
