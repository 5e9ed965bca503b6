r"""Loaders that ``accelerate`` prepared: which samples the loop receives from them.

Such a loader reads one batch ahead, moves it to the device, and is made anew where a resumed loop skips what it has
seen. So not one loader is listened to but all that read the recorded data set; and ids are paired with what the loop
receives, not with what was read.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RecordingError

if TYPE_CHECKING:
    from .loading import LoaderTap

#: The module in which these loaders are, and the name of their class; it is never imported from here.
HOME, KIND, SENT = "accelerate.data_loader", "DataLoaderShard", "DataLoaderDispatcher"

Finder = Callable[[Any], "LoaderTap | None"]


def is_prepared(loader: Any) -> bool:
    """Whether ``accelerate`` prepared a loader."""
    return any(kind.__module__ == HOME for kind in type(loader).__mro__)


def within(loader: Any) -> Any:
    """The loader of torch that is read."""
    return loader.base_dataloader if is_prepared(loader) else loader


def refuse_spread(loader: Any) -> None:
    """Refuses a loader whose batches are shared out to several processes.

    Raises:
        RecordingError: If it is one.
    """
    if not is_prepared(loader):
        return
    processes = getattr(loader.batch_sampler, "num_processes", 1)
    if processes > 1 or any(kind.__name__ == SENT for kind in type(loader).__mro__):
        if processes == 1:
            raise RecordingError(
                f"This loader is read by one process that sends its batches to the others ({type(loader).__name__}), "
                "and which samples they hold is not told. Train with dispatch_batches=False (in "
                "DataLoaderConfiguration of accelerate, or accelerator_config of a Trainer)."
            )
        raise RecordingError(
            f"This loader shares its batches out to processes ({type(loader).__name__}, {processes} of them), and a "
            "recording sees its own process alone. Record a training that runs in one process; with gradient "
            "accumulation it may use batches of the same size."
        )


class Watch:
    """A watch over all loaders of this kind: each iteration is told to the tap that ``find`` names for the loader.

    Args:
        find: Names the tap for a loader, or none.
        yields: Whether it gives way to any other one, as one that only waits for what may come.
    """

    _open: list[Watch] = []
    _kind: Any = None
    _plain: Any = None

    def __init__(self, find: Finder, yields: bool = False):
        self._find, self._yields = find, yields

    def open(self) -> None:
        """Begins to listen, if there are such loaders; asked again, it does nothing."""
        home = sys.modules.get(HOME)
        if self in Watch._open or home is None:
            return
        if not Watch._open:
            Watch._kind = getattr(home, KIND)
            Watch._plain = Watch._kind.__dict__["__iter__"]
            Watch._kind.__iter__ = _iterate
        Watch._open.append(self)

    def close(self) -> None:
        """Leaves these loaders as they were, once nobody listens."""
        if self in Watch._open:
            Watch._open.remove(self)
            if not Watch._open:
                Watch._kind.__iter__ = Watch._plain

    @classmethod
    def is_taken(cls, loader: Any) -> bool:
        """Whether somebody listens to a loader who does not give way."""
        return any(not watch._yields and watch._find(loader) is not None for watch in cls._open)

    @classmethod
    def tap_of(cls, loader: Any) -> LoaderTap | None:
        """Who listens to a loader; those that give way come last."""
        watches = sorted(cls._open, key=lambda watch: watch._yields)
        return next((tap for watch in watches if (tap := watch._find(loader)) is not None), None)


def _iterate(loader: Any) -> Iterator[Any]:
    tap = Watch.tap_of(loader)
    return Watch._plain(loader) if tap is None else _accompanied(tap, loader, Watch._plain)


def _accompanied(tap: LoaderTap, loader: Any, make: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    from .loading import TappedSampler, as_integers

    inner = make(loader)
    base = within(loader)
    own = base.batch_sampler
    tapped = TappedSampler(own)
    kept = getattr(base, "_iterator", None)
    if kept is not None:
        kept._index_sampler = tapped
    try:
        # The loader is asked for its iterator when the first batch is.
        base.__dict__["batch_sampler"] = tapped
        try:
            with tap.order.watched(base):
                batch = next(inner, _END)
        finally:
            base.__dict__["batch_sampler"] = own
        under_way: deque[Any] = tapped.under_way if tapped.under_way is not None else deque()
        while batch is not _END:
            ids = under_way.popleft() if tap.ids is None else tap.ids(batch)
            tap.deliver(batch, as_integers(ids))
            yield batch
            batch = next(inner, _END)
    finally:
        inner.close()  # type: ignore[attr-defined]


_END = object()
