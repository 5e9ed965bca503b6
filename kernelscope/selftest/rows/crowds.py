"""F16: several processes at one folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import StoreBusy, StoreCorrupt, StoreError, UnsafeFile
from ...storage import Store
from ..deeds import OPERATIONS, numbers, short_parts, state, states
from ..kept import _tiles as tiles_at
from ..kept import _tiles_of as tiles_of
from ..row import TYPED, Done, Row, Silent, Trial, refused
from ..traps import Child, forks

READERS = 8


Say = Callable[[str], object]


def read_until(place: Path, end: Path, allowed: Container[str], say: Say) -> None:
    """Reads the whole store again and again until the sign; it must be in a state that is allowed.

    Raises:
        Silent: If it is in another one.
    """
    whole = 0
    while not end.exists():
        reader = Store.open(place)
        try:
            found = state(reader)
        except StoreError as error:
            # A segment that was dropped meanwhile is left for the next commit.
            if isinstance(error, StoreCorrupt | UnsafeFile) or not reader.refresh():
                raise
            continue
        if found not in allowed:
            raise Silent("a reader saw what was never committed")
        whole += 1
    say(f"read {whole}")


def write_at(place: Path, begin: Path, end: Path, say: Say) -> None:
    """Tries to become the writer at the first sign; the one who is stays it until the second."""
    say("ready")
    while not begin.exists():
        pass
    try:
        store: Any = Store.resume(place, "run")
    except StoreBusy as error:
        refused(error)
        say("busy")
        return
    store.append(numbers(0), {"step": 0})
    say("won")
    while not end.exists():
        time.sleep(0.001)
    store.close()


def leave_stale_lock(place: Path) -> None:
    """Leaves the lock of a process that is gone."""
    owner = {"host": os.uname().nodename, "pid": 2**22 + 1, "start": "", "token": ""}
    (place / "writer.lock").write_text(json.dumps(owner))


class Crowds(Row):
    """F16."""

    id, sentence, limit = "F16", "Eight readers beside a writer, and two writers at one folder, over stale locks.", 60.0
    crowds, seconds, pairs = 4, 2.0, 30

    def prepare(self, folder: Path) -> None:
        forks()
        self.states = set(states())
        tiles_at(folder / "tiles").build()
        self.tiles = tiles_of(folder / "tiles")

    def trials(self) -> Iterator[Trial]:
        for _ in range(self.crowds):
            yield Trial(f"{READERS} readers beside a writer", self._crowd)
        for turn in range(self.pairs):
            yield Trial(f"two writers{', over a stale lock' * (turn % 2)}", partial(self._pair, turn % 2 == 1))
        for _ in range(6):
            yield Trial("two workers build the same tiles", self._tiles)

    def _crowd(self, folder: Path) -> Done | None:
        place, end = folder / "store", folder / "end"
        with short_parts(), Store.create(place, "run", {}) as store:
            read = partial(read_until, place, end, self.states)
            children = [Child(folder / f"log-{i}", read) for i in range(READERS)]
            limit = time.monotonic() + self.seconds
            while time.monotonic() < limit:
                for operation in OPERATIONS:
                    operation(store)
                store.truncate(0, {})
            end.touch()
            said = [child.end()[-1].split() for child in children]
        return Done(counts={"reads": sum(int(words[1]) for words in said)})

    def _pair(self, stale: bool, folder: Path) -> Done | None:
        place, begin, end = folder / "store", folder / "begin", folder / "end"
        Store.create(place, "run", {}).close()
        if stale:
            leave_stale_lock(place)
        children = [Child(folder / f"log-{i}", partial(write_at, place, begin, end)) for i in range(2)]
        for child in children:
            child.until("ready")
        begin.touch()
        for child in children:
            child.until(count=2)
        try:
            Store.resume(place, "run")
        except StoreBusy as error:
            refused(error)
        else:
            raise Silent("a third writer was let in beside the one that won")
        finally:
            end.touch()
        words = sorted(child.end()[-1] for child in children)
        if words != ["busy", "won"]:
            raise Silent(f"of two writers, the one was {words[0]} and the other {words[1]}")
        with Store.resume(place, "run") as store:
            if len(store.segments) != 1:
                raise Silent(f"one segment was written, and {len(store.segments)} are there")
        return TYPED

    def _tiles(self, folder: Path) -> Done | None:
        place = folder / "tiles"
        children = [Child(folder / f"log-{i}", lambda say: tiles_at(place).build(progress=False)) for i in range(2)]
        for child in children:
            child.end()
        if tiles_of(place) != self.tiles:
            raise Silent("a matrix that two workers built is not the one that one builds")
        return None


ROWS = (Crowds,)
