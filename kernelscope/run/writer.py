"""Commits chunks behind the training loop's back, in order, and tells how far it got."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from ..errors import RecordingError
from ..storage import MemoryStore, Store
from .rows import Rows
from .segments import Chunk, encode

#: Chunks that may wait; a slower disk then slows the loop down instead of filling the memory.
MOST_WAITING = 2


class Writer:
    """One thread that begins a store, encodes, writes and commits; its failures are raised in the loop's own thread.

    Whatever interrupts the loop (Ctrl-C comes to the main thread) meets no half-made store.

    Args:
        begin: The store, or what makes it when there is something to write.
        rows: Takes the rows of chunks that are written.
        acknowledged: The number of steps that are committed already.

    Attributes:
        store: The store, once it was begun.
        acknowledged: The number of steps that are committed with both ends.
        waiting: Chunks that could not be written yet; each new one brings another try, in order.
    """

    def __init__(self, begin: Store | MemoryStore | Callable[[], Store | MemoryStore], rows: Rows,
                 acknowledged: int = 0):
        self._begin: Callable[[], Store | MemoryStore] | None = begin if callable(begin) else None
        self.store: Store | MemoryStore | None = None if callable(begin) else begin
        self.acknowledged = acknowledged
        self._rows = rows
        self.waiting: list[Chunk] = []
        self._error: BaseException | None = None
        self._process = os.getpid()
        # Its operations are whole even where Ctrl-C meets them, unlike those of other queues and of conditions.
        self._inbox: SimpleQueue[Chunk | None] = SimpleQueue()
        self._sent = self._handled = -1
        self._thread = threading.Thread(target=self._work, name="kernelscope-writer", daemon=True)
        try:
            self._thread.start()
        except BaseException as error:
            # It may run already, and nobody would ever hand it anything.
            self._inbox.put(None)
            # Ctrl-C within a condition of Python's leaves a lock that cannot be released twice, which is told instead.
            if isinstance(error, RuntimeError) and isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise

    @property
    def nbytes(self) -> int:
        """The bytes that are stored."""
        return 0 if self.store is None else self.store.nbytes

    def put(self, chunk: Chunk) -> None:
        """Hands over a chunk; returns at once unless the disk is behind."""
        self._refuse_a_fork()
        if self._sent < 0:
            self._handled = chunk.place - 1
        self._sent = chunk.place
        self._inbox.put(chunk)
        self._wait(MOST_WAITING)

    def drain(self) -> None:
        """Waits until everything handed over is committed."""
        self._wait(0)
        self.raise_failure()

    def _wait(self, most: int) -> None:
        while self._sent - self._handled > most:
            time.sleep(0.0002)

    def close(self) -> None:
        """Ends the thread, and tries once more to commit what is left."""
        self._refuse_a_fork()
        self._inbox.put(None)
        self._thread.join()
        self._error = None
        self._write()

    def release(self) -> None:
        """Lets the next writer in."""
        self._begin = None
        if self.store is not None:
            self.store.close()

    def raise_failure(self) -> None:
        """Raises what went wrong in the thread, once."""
        self._refuse_a_fork()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        newest = None
        while (chunk := self._inbox.get()) is not None:
            try:
                # A loop that was interrupted while it handed a chunk over hands it over again.
                if chunk is not newest:
                    newest = chunk
                    self.waiting.append(chunk)
                self._write()
            # Whatever it is must reach the loop's thread, where it is raised with its own type.
            except BaseException as error:  # noqa: BLE001
                self._error = error
            finally:
                self._handled = chunk.place

    def _write(self) -> None:
        while self.waiting:
            chunk = self.waiting[0]
            if self.store is None:
                assert self._begin is not None
                self.store, self._begin = self._begin(), None
            self.store.append(encode(chunk), chunk.meta)
            self.waiting.pop(0)
            self.acknowledged = chunk.last
            # The chunk is on its way out; should the loop still know it, it knows it as written.
            # What stands under the number -1 came from elsewhere, and others read it still.
            states = [t for k in chunk.states if k >= 0 for t in chunk.states[k].values()]
            self._rows.take_back([*chunk.rows.values(), *states])
            chunk.rows, chunk.states = {}, {}

    def _refuse_a_fork(self) -> None:
        if os.getpid() != self._process:
            raise RecordingError(
                f"The recording belongs to process {self._process}, and this is its fork {os.getpid()}, which has no "
                "thread that writes. Train in the process that entered `with ks.record(...)`, or enter it after the "
                "fork; what was recorded before is intact."
            )
