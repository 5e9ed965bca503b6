"""What writes to a disk, so that it can fail anywhere: where it begins, what it does, and what may be found after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

from ..errors import KernelscopeError
from ..machine import checkpoint as checkpoints
from ..run.opening import load
from ..run.recorder import record
from ..run.run import Run
from ..storage import MemoryStore, Store
from ..storage import manifest as manifests
from ..tiles import claims
from .exactness import tools
from .kept import Kept, copied, digest, kinds
from .row import Lost, Silent, refused

Say = Callable[[int], object]


class Deed(ABC):
    """Something that writes. Its moments are numbered: it says each when it was acknowledged, from 1 on."""

    name: str

    def prepare(self, folder: Path) -> None:  # noqa: B027 - some need nothing
        """Makes what all trials share."""

    @abstractmethod
    def start(self, place: Path) -> None:
        """What is there before, at a path inside an empty folder."""

    @abstractmethod
    def act(self, place: Path, say: Say) -> None:
        """Writes."""

    @abstractmethod
    def look(self, place: Path, said: int) -> None:
        """Whether what is there is what may be there after moment ``said``.

        Raises:
            Lost: If something acknowledged is gone.
            Silent: If what is there was never written.
        """


@contextmanager
def short_parts() -> Iterator[None]:
    """Within it the list of segments is sealed after two of them, so that few of them try everything."""
    held, manifests.SEAL = manifests.SEAL, 2
    try:
        yield
    finally:
        manifests.SEAL = held


@contextmanager
def every_pass() -> Iterator[None]:
    """Within it a fit writes after every pass, however short it is, and tiles wait for no worker that is gone."""
    held, checkpoints.SHARE = (checkpoints.SHARE, claims.GRACE), float("inf")
    claims.GRACE = 0.02
    try:
        yield
    finally:
        checkpoints.SHARE, claims.GRACE = held


def numbers(value: int) -> dict[str, torch.Tensor]:
    """The tensors of a segment that can be told from all others."""
    return {"step": torch.full((5,), value), "more": torch.full((3,), value, dtype=torch.float64)}


# Every kind of commit, on lists sealed after two segments: adding, saying, dropping, cutting, sealing anew.
OPERATIONS: list[Callable[[Any], object]] = [
    lambda store: store.append(numbers(0), {"step": 0}),
    lambda store: store.append(numbers(1), {"step": 1}),
    lambda store: store.commit({"phase": 1}),
    lambda store: store.append(numbers(2), {"step": 2}),
    lambda store: store.append(numbers(3), {"step": 3}),
    lambda store: store.append(numbers(4), {"step": 4}),
    lambda store: store.drop([store.segments[1].name]),
    lambda store: store.truncate(3, {"phase": 2}),
    lambda store: store.append(numbers(5), {"step": 5}),
    lambda store: store.truncate(1),
]


def state(store: Any) -> str:
    """All that a store says."""
    return digest([store.meta, [(segment.meta, store.read(segment)) for segment in store.segments]])


def commits() -> Iterator[MemoryStore]:
    """A store in memory before the first operation, and after each."""
    with short_parts():
        store = MemoryStore("run", {})
        yield store
        for operation in OPERATIONS:
            operation(store)
            yield store


def states() -> list[str]:
    """What a store says before the first operation, and after each."""
    return [state(store) for store in commits()]


class Committing(Deed):
    """Every kind of commit of a store."""

    name = "store"

    def prepare(self, folder: Path) -> None:
        self.states = states()

    def start(self, place: Path) -> None:
        Store.create(place, "run", {}).close()

    def act(self, place: Path, say: Say) -> None:
        with short_parts(), Store.resume(place, "run") as store:
            for moment, operation in enumerate(OPERATIONS):
                operation(store)
                say(moment + 1)

    def look(self, place: Path, said: int) -> None:
        one_of(state(Store.open(place)), self.states[said : said + 2], self.states, "a store")
        # The next writer removes what was left, and goes on.
        with short_parts(), Store.resume(place, "run") as store:
            before = state(store)
            store.append(numbers(9), {"step": 9})
            store.truncate(len(store.segments) - 1)
            one_of(state(store), [before], self.states, "a store that is gone on with")
            left = {path.name for path in place.iterdir()} - store._manifest.files - {"writer.lock"}
        if left:
            raise AssertionError(f"{sorted(left)} are left over after the next writer")


class Replacing(Deed):
    """A thing is saved over another one."""

    def __init__(self, kind: Kept) -> None:
        assert kind.again is not None
        self.kind, self.again, self.name = kind, kind.again, f"{kind.name} saved over another"

    def prepare(self, folder: Path) -> None:
        self.first = folder / self.kind.name
        self.kind.make(self.first)
        second = copied(self.first, folder / f"{self.kind.name} again")
        self.again(second)
        self.before, self.after = self.kind.read(self.first), self.kind.read(second)
        if self.before == self.after:
            raise AssertionError("the two cannot be told apart")

    def start(self, place: Path) -> None:
        copied(self.first, place)

    def act(self, place: Path, say: Say) -> None:
        self.again(place)
        say(1)

    def look(self, place: Path, said: int) -> None:
        both = [self.before, self.after]
        try:
            found = self.kind.read(place)
        except KernelscopeError as error:
            # The new manifest may be there, and say that nothing was appended to it yet.
            refused(error)
            raise Lost(f"the old {self.kind.name} is gone, and the new one is not there: {error}") from error
        one_of(found, both[1:] if said else both, both, f"a {self.kind.name}")
        self.again(place)
        one_of(self.kind.read(place), [self.after], both, f"a {self.kind.name} that is saved again")


class Making(Deed):
    """A thing is made where none is; made again after a fault it is whole."""

    def __init__(self, kind: Kept) -> None:
        self.kind, self.name = kind, f"{kind.name} made anew"

    def prepare(self, folder: Path) -> None:
        with every_pass():
            self.kind.make(folder / self.kind.name)
        self.whole = self.kind.read(folder / self.kind.name)

    def start(self, place: Path) -> None:
        pass

    def act(self, place: Path, say: Say) -> None:
        with every_pass():
            self.kind.make(place)
        say(1)

    def look(self, place: Path, said: int) -> None:
        with every_pass():
            if not said:
                self.kind.make(place)
            found = self.kind.read(place)
        one_of(found, [self.whole], [self.whole], f"{self.kind.name} that is gone on with")


class Recording(Deed):
    """A training run is recorded; every step says how many are acknowledged."""

    name, steps = "recording", 5

    def prepare(self, folder: Path) -> None:
        self.act(folder / "recording", lambda moment: None)
        run = load(folder / "recording")
        self.rows = [digest(run.trajectory(k, k)[0]) for k in range(len(run) + 1)]
        self.said = [digest(vars(step)) for step in map(run.step, range(len(run)))]

    def start(self, place: Path) -> None:
        pass

    def act(self, place: Path, say: Say) -> None:
        model, x, y = tools()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with record(model, (x, y), loss=mse_loss, out=place, commit_every=0) as recording:
            for k in range(self.steps):
                one_step(recording, model, optimizer, x, y, k)
                say(recording.acknowledged)
        say(self.steps)

    def look(self, place: Path, said: int) -> None:
        try:
            run = load(place)
        except KernelscopeError as error:
            refused(error)
            if said:
                raise Lost(f"{said} acknowledged steps are gone: {error}", said) from error
            return
        self.compare(run, said)

    def compare(self, run: Run, said: int) -> None:
        """A run with the first steps of the whole one, and at least ``said`` of them."""
        if len(run) < said:
            raise Lost(f"{said} steps were acknowledged, and {len(run)} are there", said - len(run))
        for k in range(len(run) + 1):
            row = run.row(k)
            if row is None and k == len(run):
                continue  # what came after the last step is written with the end of the run
            if digest(run.trajectory(k, k)[0]) != self.rows[k]:
                raise Silent(f"the parameters at step {k} are not those of the unfaulted run")


def one_step(recording: Any, model: Any, optimizer: Any, x: torch.Tensor, y: torch.Tensor, k: int) -> None:
    """Step k of a training loop whose batches follow from k."""
    ids = torch.arange(k, k + 5) % len(x)
    recording.batch(ids)
    optimizer.zero_grad()
    mse_loss(model(x[ids]), y[ids]).backward()
    optimizer.step()


def one_of(found: str, allowed: list[str], known: list[str], what: str) -> None:
    """Whether what was found is allowed.

    Raises:
        Lost: If it is an older or newer state than it may be.
        Silent: If it never was.
    """
    if found in allowed:
        return
    if found in known:
        raise Lost(f"{what} is as at moment {known.index(found)}, and that is not the one before or after the fault")
    raise Silent(f"{what} holds what was never written")


def deeds() -> list[Deed]:
    """Everything that writes."""
    kept = kinds()
    return [Committing(), *(Replacing(kind) for kind in kept if kind.again), Recording(),
            *(Making(kind) for kind in kept if kind.name in ("tiles", "checkpoint"))]
