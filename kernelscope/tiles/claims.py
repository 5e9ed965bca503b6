"""Who computes which tile.

A worker that takes a tile makes a file beside its name, which only one can make, with its host, process number and
start time; it touches the file every few seconds, and removes it when the tile is there. A claim is void when its
process of this host is gone, or has another start time; of another host, when a worker has watched it for two minutes
and nobody touched it. No clocks of two machines are compared.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import StoreError
from ..storage.files import BINARY, NO_FOLLOW, PART, disk_errors, inside, read_file
from ..storage.lock import alone, started

#: How often a claim is touched, and after how many seconds without that it is void, on another host; and how soon one
#: that does not say whose it is, because its worker was killed while writing it.
BEAT, EXPIRY, GRACE = 10.0, 120.0, 5.0

#: How a claim's name ends, and how large it is at most.
ENDING, LIMIT = ".claim", 4096

#: The workers of this very process: a claim of any other that it left behind, as after Ctrl-C, is void.
_workers: set[str] = set()


class Claims:
    """The claims of one worker in a folder; within ``with`` they are touched.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.token = secrets.token_hex(8)
        self._content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": started(os.getpid()),
                                    "token": self.token}, sort_keys=True).encode()
        self._watched: dict[str, tuple[tuple[bytes, int], float]] = {}
        self._held: Path | None = None
        self._end = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        _workers.add(self.token)
        self._beating.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        _workers.discard(self.token)
        self._end.set()
        self._beating.join()

    def part(self, name: str) -> Path:
        """Where this worker writes a file before it has its name."""
        return self.folder / f"{name}.{self.token}{PART}"

    @contextmanager
    def taking(self, name: str) -> Iterator[bool]:
        """Whether this worker has the right to make a file; it holds it within."""
        path = inside(self.folder, name + ENDING)
        with disk_errors(path, len(self._content)):
            mine = self._made(path) or self._took_over(name, path)
        if mine:
            self._held = path
        try:
            yield mine
        finally:
            if mine:
                self._held = None
                self._release(path)

    def _made(self, path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, self._content)
        finally:
            os.close(descriptor)
        return True

    def _took_over(self, name: str, path: Path) -> bool:
        """Takes a void claim; of several workers that find it, one."""
        content = self._void(name)
        if content is None:
            return False
        with alone(self.folder):
            if self._read(name) != content:
                return False
            with suppress(OSError):
                os.unlink(self.folder / f"{name}.{_owner(content).get('token')}{PART}")
            os.unlink(path)
            return self._made(path)

    def _void(self, name: str) -> bytes | None:
        """What a claim says that does not hold any more."""
        content = self._read(name)
        if content is None:
            return None
        owner = _owner(content)
        if owner.get("host") == socket.gethostname():
            if owner["pid"] == os.getpid() and owner["token"] not in _workers:
                return content
            now = started(int(owner["pid"]))
            # Where the system does not say when a process started, its number is all there is.
            return content if now is None or (now and owner["start"] and now != owner["start"]) else None
        try:
            touched = os.lstat(self.folder / (name + ENDING)).st_mtime_ns
        except FileNotFoundError:
            return None
        seen, since = self._watched.get(name, ((b"", 0), 0.0))
        if seen != (content, touched):
            self._watched[name] = (content, touched), time.monotonic()
            return None
        return content if time.monotonic() - since > (EXPIRY if owner else GRACE) else None

    def _read(self, name: str) -> bytes | None:
        try:
            return read_file(self.folder, name + ENDING, LIMIT)
        except FileNotFoundError:
            return None

    def _release(self, path: Path) -> None:
        # Another worker may have taken it over from one that was asleep.
        with suppress(OSError, StoreError):
            if self._read(path.name.removesuffix(ENDING)) == self._content:
                os.unlink(path)

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            if self._held is not None:
                with suppress(OSError):
                    os.utime(self._held)


def _owner(content: bytes) -> dict[str, str | int]:
    """Who a claim says it is of; nothing where that cannot be."""
    try:
        owner = json.loads(content)
        host, pid, start, token = owner["host"], owner["pid"], owner["start"], owner["token"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    sound = type(pid) is int and 0 < pid < 2**31 and isinstance(host, str) and isinstance(token, str)
    return owner if sound and token.isalnum() and isinstance(start, str | None) else {}
