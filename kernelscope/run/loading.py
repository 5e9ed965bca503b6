r"""Which samples a batch holds: a tap on a data loader.

A loader draws index lists from its batch sampler and delivers batches in the same order, with any number of workers.
The tap keeps the lists while they are under way and pairs each with the batch that comes out. The data set, the
sampler and the random state are read by the loader alone, exactly as without the tap.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ..arguments import what_came
from ..errors import RecordingError
from .order import Order
from .prepared import Watch, is_prepared, refuse_spread, within

Deliver = Callable[[Any, list[int]], None]


class LoaderTap:
    """Tells ``deliver(batch, ids)`` of each batch as the loop receives it.

    Attributes:
        order: What was seen of the order of samples, where ids come from the sampler.
    """

    def __init__(self, loader: DataLoader[Any], deliver: Deliver, ids: Callable[[Any], Any] | None):
        self.loader = loader
        self.deliver = deliver
        self.ids = ids
        self.order = Order()
        self._kind: type | None = None
        self._watch: Watch | None = None
        refuse_spread(loader)
        if ids is None:
            _refuse_unnamed(loader)

    def open(self) -> None:
        """Begins to listen."""
        kind = type(self.loader)
        if hasattr(kind, "_tapped"):
            raise RecordingError(
                "Another recording listens to this loader already. Leave its `with` block first, or give each "
                "recording a loader of its own."
            )
        if is_prepared(self.loader):
            if Watch.is_taken(self.loader):
                raise RecordingError(
                    "Another recording listens to the loaders of this data set already. Leave its `with` block first."
                )
            # A loop that is taken up skips batches by another loader of the same data set.
            self._watch = Watch(lambda loader: self if loader.dataset is self.loader.dataset else None)
            self._watch.open()
            return
        self._kind = kind
        # len, attributes and isinstance stay the loader's; only its iterator is accompanied.
        self.loader.__class__ = type(kind.__name__, (kind,), {
            "__iter__": accompanied(self, kind), "_tapped": True, "__reduce_ex__": _untapped(kind)})

    def close(self) -> None:
        """Leaves the loader as it was."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._kind is not None:
            # A class is freed late, by the garbage collector; what it refers to (workers!) must not wait for that.
            del type(self.loader).__iter__
            self.loader.__class__ = self._kind
            self._kind = None
        # Workers that persist go on with the same iterator.
        kept = getattr(within(self.loader), "_iterator", None)
        sampler = getattr(kept, "_index_sampler", None)
        if isinstance(sampler, TappedSampler):
            kept._index_sampler = sampler.inner  # type: ignore[union-attr]


def _untapped(kind: type[Any]) -> Callable[[Any, Any], Any]:
    """The ``__reduce_ex__`` of a tapped loader: copied or pickled it is of its own kind, and nobody listens to it."""

    def reduce(loader: Any, protocol: Any) -> Any:
        tapped, loader.__class__ = loader.__class__, kind
        try:
            # In later protocols a pickler compares the class with that of the loader, which is tapped by then.
            return loader.__reduce_ex__(1)
        finally:
            loader.__class__ = tapped

    return reduce


def accompanied(tap: LoaderTap, kind: type[Any],
                make: Callable[[Any], Iterator[Any]] | None = None) -> Callable[[Any], Iterator[Any]]:
    """The ``__iter__`` of a kind of loader, or another one that makes its iterators, with the tap beside it."""
    make = make or kind.__iter__

    def iterate(loader: Any) -> Iterator[Any]:
        if tap.ids is not None:
            return _TappedIterator(make(loader), tap, None)
        own = loader.batch_sampler
        tapped = TappedSampler(own)
        kept = getattr(loader, "_iterator", None)
        if kept is not None:
            kept._index_sampler = tapped
        # The iterator takes its sampler from the loader when it is made; a loader forbids the plain assignment.
        loader.__dict__["batch_sampler"] = tapped
        try:
            with tap.order.watched(loader):
                inner = make(loader)
        finally:
            loader.__dict__["batch_sampler"] = own
        if tapped.under_way is None:
            raise RecordingError(
                f"A {kind.__name__} does not read its batch sampler when it is iterated, so the order of its samples "
                "cannot be seen. Record with a torch DataLoader, or pass ids=lambda batch: ... to record(...)."
            )
        return _TappedIterator(inner, tap, tapped.under_way)

    return iterate


class TappedSampler:
    """The loader's batch sampler, remembering the index lists that are under way."""

    def __init__(self, inner: Any):
        self.inner = inner
        self.under_way: deque[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        under_way: deque[Any] = deque()
        self.under_way = under_way
        return self._draw(iter(self.inner), under_way)

    def _draw(self, inner: Iterator[Any], under_way: deque[Any]) -> Iterator[Any]:
        for ids in inner:
            under_way.append(_listed(ids))
            yield ids

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _TappedIterator:
    def __init__(self, inner: Iterator[Any], tap: LoaderTap, under_way: deque[Any] | None):
        self._inner = inner
        self._tap_of = tap
        self._under_way = under_way
        self._at_once = tap.loader.num_workers == 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._under_way is None:
            batch = next(self._inner)
            assert self._tap_of.ids is not None
            ids = self._tap_of.ids(batch)
        else:
            if self._at_once:
                # Without workers a batch is drawn when it is asked for; one that failed leaves its ids behind.
                self._under_way.clear()
            try:
                batch = next(self._inner)
            except StopIteration:
                raise
            except Exception:
                # With workers the error takes the turn of its batch.
                if self._under_way and not self._at_once:
                    self._under_way.popleft()
                raise
            ids = self._under_way.popleft()
        self._tap_of.deliver(batch, as_integers(ids))
        return batch

    def __len__(self) -> int:
        return len(self._inner)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _listed(ids: Any) -> Any:
    # A sampler may go on to use the list it gave.
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)


def as_integers(ids: Any) -> list[int]:
    """Sample ids as a list of whole numbers."""
    try:
        return [operator.index(value) for value in _listed(ids)]
    except TypeError:
        came = repr(list(ids)[:3]) if isinstance(ids, list | tuple) else what_came(ids)
        raise RecordingError(
            f"Sample ids must be whole numbers, one for each row of the batch; {came} came. "
            "Let the sampler give indices, or pass ids=lambda batch: ... that returns whole numbers."
        ) from None


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
