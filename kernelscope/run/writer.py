"""Commits chunks behind the training loop's back, in order, and tells how far it got."""

from __future__ import annotations

import threading
from queue import Queue

from ..storage import MemoryStore, Store
from .segments import Chunk, encode


class Writer:
    """One thread that encodes, writes and commits; its failures are raised in the loop's own thread.

    Attributes:
        acknowledged: The number of steps whose both ends are committed.
    """

    def __init__(self, store: Store | MemoryStore, acknowledged: int = 0):
        self.store = store
        self.acknowledged = acknowledged
        self._error: BaseException | None = None
        # Two chunks may wait; a slower disk then slows the loop down instead of filling the memory.
        self._queue: Queue[Chunk | None] = Queue(maxsize=2)
        self._thread = threading.Thread(target=self._work, name="kernelscope-writer", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Hands over a chunk; returns at once unless the disk is behind."""
        self.raise_failure()
        self._queue.put(chunk)

    def drain(self) -> None:
        """Waits until everything handed over is committed."""
        self._queue.join()
        self.raise_failure()

    def close(self) -> None:
        """Commits what is left and ends the thread."""
        self._queue.put(None)
        self._thread.join()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raises what went wrong in the thread, once."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self.store.append(encode(chunk), {"first": chunk.first, "steps": len(chunk.steps)})
                    ends = max([self.acknowledged, *chunk.rows])
                    self.acknowledged = min(ends, chunk.first + len(chunk.steps))
            # Whatever it is must reach the loop's thread, where it is raised with its own type.
            except BaseException as error:  # noqa: BLE001
                self._error = error
            finally:
                self._queue.task_done()
        self._queue.task_done()
