"""One writer at a time.

The writer of a folder leaves ``writer.lock`` in it with its host, process number and start time. A lock is stale when
that process is gone, or when its number now belongs to a process that started at another time; a stale lock is taken
over. Readers neither take nor look at it.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import StoreBusy, StoreError
from .files import BINARY, NO_FOLLOW, disk_errors, read_file

NAME = "writer.lock"
LIMIT = 4096
# What the locks of this process say. One in a file that is not among them was let go, and the disk kept the file.
_held: set[bytes] = set()


class WriterLock:
    """The right to write in one folder, held by one process.

    Raises:
        StoreBusy: Another writer holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.pid = os.getpid()
        owner = {
            "host": socket.gethostname(),
            "pid": self.pid,
            "start": started(self.pid),
            "token": secrets.token_hex(8),
        }
        self.content = json.dumps(owner, sort_keys=True).encode()
        _held.add(self.content)
        # A writer that is forgotten, or ends without closing, lets go as well.
        self._letting_go = weakref.finalize(self, _remove, self.path, self.pid, self.content)
        try:
            self._take(folder)
        except BaseException:
            _held.discard(self.content)
            raise

    def _take(self, folder: Path) -> None:
        with disk_errors(self.path, len(self.content)), alone(folder):
            found = _read(folder)
            if found is not None:
                _refuse_unless_stale(self.path, found)
                os.unlink(self.path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY
            try:
                descriptor = os.open(self.path, flags, 0o666)
            except FileExistsError:
                raise _busy(self.path, {}) from None
            try:
                os.write(descriptor, self.content)
            except BaseException:
                os.unlink(self.path)
                raise
            finally:
                os.close(descriptor)

    @property
    def released(self) -> bool:
        """Whether the lock was given back."""
        return not self._letting_go.alive

    def held(self) -> bool:
        """Whether this process is the one that took the lock, and nobody took it over since."""
        return os.getpid() == self.pid and _read(self.path.parent) == self.content

    def release(self) -> None:
        """Let the next writer in; a forked child, or a writer that lost the lock, changes nothing."""
        self._letting_go()


def started(pid: int) -> str | None:
    """When process ``pid`` of this machine started, "" if the system does not say, None if there is no such process.

    Example:
        >>> started(os.getpid()) == started(os.getpid())
        True
    """
    if os.name == "nt":
        return ""  # os.kill would end the process instead of asking for it.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # Somebody else's, and alive.
    if not sys.platform.startswith("linux"):
        asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return asked.stdout.strip()
    try:
        # The process's name, in brackets, may itself hold spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{int(fields[19])}"
    except (OSError, IndexError, ValueError):
        return ""


def _remove(path: Path, pid: int, content: bytes) -> None:
    _held.discard(content)
    with suppress(OSError, StoreError):
        if os.getpid() == pid and _read(path.parent) == content:
            os.unlink(path)


def _read(folder: Path) -> bytes | None:
    try:
        return read_file(folder, NAME, LIMIT)
    except FileNotFoundError:
        return None


def _refuse_unless_stale(path: Path, content: bytes) -> None:
    try:
        owner: dict[str, Any] = json.loads(content)
        host, pid, start = owner["host"], owner["pid"], owner["start"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return  # Its writer died between making the file and writing it.
    if type(pid) is not int or not 0 < pid < 2**31:
        return
    if host == socket.gethostname():
        now = started(pid)
        if now is None or (now and start and now != start):
            return
        if pid == os.getpid() and start == now and content not in _held:
            return  # A writer of this process has let go, and its file could not be removed.
    raise _busy(path, owner)


def _busy(path: Path, owner: dict[str, Any]) -> StoreBusy:
    pid, host = owner.get("pid", "unknown"), str(owner.get("host", "unknown"))[:100]
    who = (
        "this very process" if pid == os.getpid() and host == socket.gethostname() else f"process {pid} on host {host}"
    )
    return StoreBusy(
        f"{path.parent} is being written by {who}, and a folder has one writer at a time. Choose another folder, or "
        f"let that writer finish; if it is certainly gone, delete {path.name}. Reading works meanwhile."
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let only one process at a time look for a stale lock: two would otherwise both find it and both replace it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network disks know no such lock; O_EXCL alone then decides, except between two takeovers at once.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
