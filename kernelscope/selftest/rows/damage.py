"""F5 and F6: stored bytes that are missing or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...errors import StoreError
from ..kept import Kept, files, kinds
from ..row import Done, Lost, Row, Silent, Trial, refused

#: Of cuts and flips, how many fall into each kind of thing; most into those that hold most.
WEIGHTS = {"run": 5, "machine": 3, "result": 3, "tiles": 3, "checkpoint": 2, "layer": 4}


def damaged(read: Callable[[], str], whole: str, path: Path, data: bytes) -> Done | None:
    """Whether it is told that a file holds other ``data``, or has no effect on what is read; the file is put back.

    Raises:
        Silent: If something else is read.
        Lost: If something else is read once the file is put back.
    """
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        found = read()
    except StoreError as error:
        told = refused(error)
    else:
        if found != whole:
            raise Silent(f"something else is read after {path.name} was changed")
        return None
    finally:
        path.write_bytes(before)
    # What was not damaged is still there.
    if read() != whole:
        raise Lost(f"something else is read after {path.name} was restored: the reader changed what is there")
    return told


class _Damage(Row):
    """Every trial changes one file of a sound thing, reads all of it, and puts the file back."""

    def prepare(self, folder: Path) -> None:
        self.places = {kind.name: (kind, folder / kind.name) for kind in kinds()}
        for kind, place in self.places.values():
            kind.make(place)
        self.whole = {name: kind.read(place) for name, (kind, place) in self.places.items()}
        self.held = {name: [(path, path.read_bytes()) for path in files(place) if path.stat().st_size]
                     for name, (_, place) in self.places.items()}
        self.turns = [name for name, weight in WEIGHTS.items() for _ in range(weight)]

    def tried(self, kind: Kept, place: Path, path: Path, data: bytes, folder: Path) -> Done | None:
        return damaged(partial(kind.read, place), self.whole[kind.name], path, data)


class Truncated(_Damage):
    """F5."""

    id, sentence = "F5", "Files are cut off: manifests and headers at every length, bodies anywhere."
    random = 200

    def trials(self) -> Iterator[Trial]:
        for name in ("machine", "layer"):
            kind, place = self.places[name]
            for path, data in self.held[name]:
                header = len(data) if path.suffix == ".json" else 8 + int.from_bytes(data[:8], "little")
                # As many in every process, though a manifest may be some digits longer in one of them.
                count = 600 if path.suffix == ".json" else header // 3
                for part in range(count):
                    yield self._cut(kind, place, path, data, part * header // count)
        for name in ("run", "result", "tiles", "checkpoint"):
            kind, place = self.places[name]
            for path, data in self.held[name]:
                for length in (0, 1, 7, 8, 9, 64, len(data) // 2, len(data) - 1):
                    yield self._cut(kind, place, path, data, length)
        for seed in range(self.random):
            dice = self.dice(seed)
            name = self.turns[seed % len(self.turns)]
            path, data = dice.choice(self.held[name])
            yield self._cut(*self.places[name], path, data, dice.randrange(len(data)))

    def _cut(self, kind: Kept, place: Path, path: Path, data: bytes, length: int) -> Trial:
        return Trial(f"{kind.name}: {path.name} cut to {length} of {len(data)} bytes",
                     partial(self.tried, kind, place, path, data[:length]))


class Flipped(_Damage):
    """F6."""

    id, sentence = "F6", "Bits flip, bytes change places, blocks turn to zeros, in every file that is kept."
    count = 1000

    def trials(self) -> Iterator[Trial]:
        for seed in range(self.count):
            dice = self.dice(seed)
            name = self.turns[seed % len(self.turns)]
            path, whole = dice.choice(self.held[name])
            data, way = bytearray(whole), dice.choice(["bit", "bit", "bit", "bit", "swap", "byte", "zeros", "longer"])
            at = dice.randrange(len(data))
            if way == "bit":
                data[at] ^= 1 << dice.randrange(8)
            elif way == "swap":
                other = next((j for j in range(at + 1, len(data)) if data[j] != data[at]), 0)
                data[at], data[other] = data[other], data[at]
            elif way == "byte":
                data[at] = (data[at] + dice.randrange(1, 256)) % 256
            elif way == "zeros":
                data[at : at + 16] = bytes(len(data[at : at + 16]))
            else:
                data += bytes([dice.randrange(256)])
            yield Trial(f"{name}: {way} at {at} of {path.name}",
                        partial(self.tried, *self.places[name], path, bytes(data)))


ROWS = (Truncated, Flipped)
