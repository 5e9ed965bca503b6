"""System calls that fail, or end the process, when they are made for the n-th time; and processes to be ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from .row import NotTried

CALLS = ("open", "write", "fsync", "replace", "unlink")


class Trap:
    """What happens before the n-th call: ``left`` is how many calls are to come before it."""

    def __init__(self, count: int, act: Callable[[str, tuple[Any, ...]], Any]) -> None:
        self.left, self.act, self.name = count, act, ""

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.left -= 1
        if self.left == 0:
            self.name = name
            self.act(name, arguments)


@contextmanager
def trapped(count: int, act: Callable[[str, tuple[Any, ...]], Any], names: tuple[str, ...] = CALLS) -> Iterator[Trap]:
    """Within it ``act(name, arguments)`` comes before the ``count``-th of the calls of the modules that use ``os``."""
    trap, real = Trap(count, act), {name: getattr(os, name) for name in names}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            trap(name, arguments)
            return real[name](*arguments, **named)

        return call

    try:
        for name in names:
            setattr(os, name, wrapped(name))
        yield trap
    finally:
        for name in names:
            setattr(os, name, real[name])


def die(*_: object) -> None:
    """Ends this process with no chance to say or to tidy anything."""
    os.kill(os.getpid(), signal.SIGKILL)


def fails(number: int) -> Callable[..., NoReturn]:
    """What a call does that the system answers with an error."""

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def forks() -> None:
    """Nothing, where a process can be forked.

    Raises:
        NotTried: Where it cannot.
    """
    if not hasattr(os, "fork"):
        raise NotTried("this system cannot fork a process")


def limits() -> Any:
    """The module of the limits and the measures of a process.

    Raises:
        NotTried: Where there is none.
    """
    try:
        import resource
    except ImportError as error:
        raise NotTried("this system does not limit or measure what a process takes") from error
    return resource


#: Where Linux keeps how much memory this process had at most, and where it is told to begin anew.
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Lets :func:`peak` begin anew with what the process holds now, where the system can; else it goes on."""
    with suppress(OSError):
        FORGET.write_text("5")


def peak() -> int:
    """The most memory that this process had since its peak was forgotten, in bytes.

    Raises:
        NotTried: Where the system does not tell.
    """
    with suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    resource = limits()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Child:
    """A process that was forked to do something, and says lines of text about it."""

    def __init__(self, log: Path, act: Callable[[Callable[[str], object]], object]) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid:
            return
        # The traps of the act must not catch what is said.
        write, leave = os.write, os._exit
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        status = 1
        try:
            act(lambda line: write(descriptor, f"{line}\n".encode()))
            status = 0
        except BaseException as error:  # noqa: BLE001 - the parent raises it again
            write(descriptor, f"failed {type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
        finally:
            leave(status)

    def said(self) -> list[str]:
        """The lines that it has finished."""
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []

    def until(self, word: str = "", count: int = 1, seconds: float = 20.0) -> None:
        """Waits until it has said ``count`` lines that begin so, or has ended."""
        limit = time.monotonic() + seconds
        while sum(line.startswith(word) for line in self.said()) < count and self.lives():
            if time.monotonic() > limit:
                raise TimeoutError(f"the process did not say {word!r} {count} times within {seconds:g} s")
            time.sleep(0.0005)

    def lives(self) -> bool:
        """Whether it has not ended."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
        return bool(self.pid)

    def kill(self) -> list[str]:
        """Ends it with no chance to say or to tidy anything, and gives its lines."""
        if self.lives():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        return self._honest()

    def end(self) -> list[str]:
        """Waits for its end, and gives its lines."""
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0
        return self._honest()

    def _honest(self) -> list[str]:
        said = self.said()
        wrong = [line for line in said if line.startswith("failed")]
        if wrong:
            raise RuntimeError(f"the process {wrong[0]}")
        return said
