"""F2, F3 and F4: system calls that end the process or fail, a power cut, a full disk."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import KernelscopeError, StoreError, StoreFull
from ..deeds import Deed, Replacing, deeds
from ..disk import Disk
from ..row import TYPED, Done, NotTried, Row, Trial, refused
from ..traps import CALLS, Child, die, fails, forks, limits, trapped

NEVER = 10**9
#: What the disk says, and the error that has to come of it.
ERRORS: dict[str, type[StoreError]] = {"ENOSPC": StoreFull, "EDQUOT": StoreFull, "EIO": StoreError, "EROFS": StoreError}


class _OfDeeds(Row):
    def prepare(self, folder: Path) -> None:
        self.deeds, self.counts = deeds(), dict[str, int]()
        for place, deed in enumerate(self.deeds):
            ground = folder / f"ground-{place}"
            ground.mkdir()
            deed.prepare(ground)
            inner = folder / f"count-{place}"
            inner.mkdir()
            deed.start(inner / "it")
            with trapped(NEVER, lambda name, arguments: None) as trap:
                deed.act(inner / "it", lambda moment: None)
            self.counts[deed.name] = NEVER - trap.left


class EveryCall(_OfDeeds):
    """F2."""

    id, sentence = "F2", "Each system call of each writer in turn ends the process, or fails."

    def trials(self) -> Iterator[Trial]:
        for deed in self.deeds:
            for count in range(1, self.counts[deed.name] + 1):
                yield Trial(f"{deed.name}: killed before call {count}", partial(self._killed, deed, count))
                yield Trial(f"{deed.name}: call {count} fails", partial(self._failing, deed, count))

    def _killed(self, deed: Deed, count: int, folder: Path) -> Done | None:
        forks()
        place = folder / "it"
        deed.start(place)

        def act(say: Any) -> None:
            with trapped(count, die):
                deed.act(place, lambda moment: say(str(moment)))

        said = Child(folder / "log", act).end()
        deed.look(place, int(said[-1]) if said else 0)
        return None

    def _failing(self, deed: Deed, count: int, folder: Path) -> Done | None:
        return failing(deed, folder, count, errno.EIO, StoreError)


def failing(deed: Deed, folder: Path, count: int, number: int, kind: type[StoreError],
            names: tuple[str, ...] = CALLS) -> Done | None:
    """A deed of which one call fails: it ends in a typed error, or well, and leaves no stump."""
    place, said = folder / "it", [0]
    deed.start(place)
    typed = False
    with trapped(count, fails(number), names) as trap:
        try:
            deed.act(place, lambda moment: said.append(moment))
        except KernelscopeError as error:
            refused(error)
            typed = True
            if not isinstance(error, kind):
                raise AssertionError(f"{errno.errorcode[number]} came as a {type(error).__name__}: {error}") from error
    stumps = [path.name for path in folder.rglob("*.part")]
    if stumps and trap.name != "unlink":
        raise AssertionError(f"{stumps} are left over after {errno.errorcode[number]} in {trap.name}")
    deed.look(place, said[-1])
    return TYPED if typed else None


class FullDisk(_OfDeeds):
    """F4."""

    id, sentence = "F4", "The disk is full, broken, read-only or over a quota, at any write."

    def trials(self) -> Iterator[Trial]:
        for deed in self.deeds:
            for place, name in enumerate(ERRORS):
                # Every other write, so that each is met by two errors.
                for count in range(1 + place % 2, self.counts[deed.name] // 4 + 2, 2):
                    yield Trial(f"{deed.name}: {name} at write {count}", partial(self._at, deed, name, count))
            yield Trial(f"{deed.name}: a limit on the size of files", partial(self._limited, deed))

    def _at(self, deed: Deed, name: str, count: int, folder: Path) -> Done | None:
        return failing(deed, folder, count, getattr(errno, name), ERRORS[name], ("write", "fsync"))

    def _limited(self, deed: Deed, folder: Path) -> Done | None:
        forks()
        resource = limits()
        place = folder / "it"
        deed.start(place)

        def act(say: Any) -> None:
            said = [0]
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
            try:
                deed.act(place, lambda moment: said.append(moment))
            except StoreFull as error:
                refused(error)
                stumps = [path.name for path in folder.rglob("*.part")]
                if stumps:
                    raise AssertionError(f"{stumps} are left over") from error
                say(f"full {said[-1]}")

        told = Child(folder / "log", act).end()
        if told:
            deed.look(place, int(told[0].split()[1]))
        else:
            raise NotTried("nothing was larger than 600 bytes")
        return TYPED


class PowerCut(Row):
    """F3."""

    id, sentence = "F3", "The power fails: anything not yet brought to the disk may be gone, torn, or zeros."
    cuts = 80

    def prepare(self, folder: Path) -> None:
        self.deeds = [deed for deed in deeds() if not (isinstance(deed, Replacing) and deed.kind.name == "layer")]
        self.disks = []
        for place, deed in enumerate(self.deeds):
            ground, inner = folder / f"ground-{place}", folder / f"seen-{place}"
            ground.mkdir()
            deed.prepare(ground)
            inner.mkdir()
            deed.start(inner / "it")
            (inner / "it").mkdir(exist_ok=True)
            disk = Disk(inner / "it")
            with disk.watching():
                deed.act(inner / "it", disk.acknowledged)
            self.disks.append(disk)

    def trials(self) -> Iterator[Trial]:
        for deed, disk in zip(self.deeds, self.disks, strict=True):
            for seed in range(self.cuts):
                yield Trial(f"{deed.name}: power cut {seed}", partial(self._cut, deed, disk, seed))

    def _cut(self, deed: Deed, disk: Disk, seed: int, folder: Path) -> Done | None:
        dice, place = self.dice(seed), folder / "it"
        left, said = disk.after_a_cut(dice.randint(0, len(disk.events)), dice)
        place.mkdir()
        for name, data in left.items():
            (place / name).write_bytes(data)
        deed.look(place, said)
        return None


ROWS = (EveryCall, PowerCut, FullDisk)
