r"""What is kept of the steps, on its way to the store.

Steps gather in a chunk together with the rows, states, buffers and averages at their starts. From time to time a chunk
is handed to the writer, and the next one begins. An interruption may come between any two lines: a step counts once its
optimizer has ended it, and a chunk that was handed over halfway is handed over again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import RecordingError, StoreExists
from ..losses import Loss
from ..network import Parameters
from ..storage import MemoryStore, Store
from ..storage.files import disk_errors, make_folder
from ..storage.manifest import exists
from .averages import Average
from .faults import non_finite
from .keeping import Keep
from .optimizers import Optimizers
from .resuming import take_up
from .rows import Rows
from .run import Run
from .samples import Samples
from .segments import Chunk, encode
from .step import Step
from .subject import Subject
from .writer import Writer

#: About how many bytes a step has beside its tensors.
STEP = 512

#: Steps of a small network are handed over when there are this many.
MOST_STEPS = 4096

#: A run of at most this many bytes is taken into memory when its disk fails.
RESCUE = 2**30


@dataclass(frozen=True)
class Place:
    """Where a run is recorded to, and how often.

    Attributes:
        out: The folder; ``None`` is the memory.
        commit_every: Seconds after which steps are brought there.
        overwrite: Whether a run that is there may be replaced.
        resume: Whether a run that is there is taken up.
        resumable: Whether the caller could have asked for that, and is told so.

    Raises:
        RecordingError: If these do not fit together.
    """

    out: Path | None = None
    commit_every: float = 1.0
    overwrite: bool = False
    resume: bool = False
    resumable: bool = True

    def __post_init__(self) -> None:
        if self.resume and self.out is None:
            raise RecordingError("resume=True takes up a run in a folder, and none is named. Pass out=... as well.")
        if not isinstance(self.commit_every, int | float) or not self.commit_every >= 0:
            raise RecordingError(
                f"commit_every must be a number of seconds from 0 on; {what_came(self.commit_every)} came. With 0 "
                "every step is brought to the disk at once."
            )


def _is_there(out: Path) -> bool:
    # A name that no folder can have is refused as one that cannot be written.
    with disk_errors(out, 0):
        return exists(out)


class Tape:
    """The steps of a recording.

    Args:
        subject: What is recorded.
        samples: The table of samples.
        place: Where the run goes.
        keep: Which rows are stored.
        average: Averaged weights beside the trained ones.
        meta: What the store is to say about the run.
        loss: The loss of a run that is taken up.

    Attributes:
        first: The number of the first step that is recorded here.
        earlier: The run that is taken up, if there is one.
        writer: What brings chunks to the store, once there was one to bring.
    """

    def __init__(self, subject: Subject, samples: Samples, place: Place, keep: Keep, average: Average | None,
                 meta: dict[str, Any], loss: Loss):
        self._subject, self._samples, self._place, self._keep, self._average = subject, samples, place, keep, average
        self._meta = meta
        self._begun = time.perf_counter(), time.process_time()
        self._rows = Rows(subject.size, subject.dtype)
        self._seen_buffers: Parameters = {}
        self._under_way: Step | None = None
        self._unsent: Chunk | None = None
        # About how many bytes wait in the chunk, and how many ids have been written.
        self._filled = self._named = 0
        self._written = time.monotonic()
        # The step at whose start everything was brought to the store last.
        self._kept = -1
        self.writer: Writer | None = None
        self.earlier: Run | None = None
        self._chunk = self._begin(loss)
        self.first = self._chunk.first

    def _begin(self, loss: Loss) -> Chunk:
        """The first chunk, where the recording begins or is taken up."""
        out, subject = self._place.out, self._subject
        # A folder in which no step was committed is as good as none.
        if out is not None and _is_there(out) and Store.open(out, "run").segments:
            if self._place.resume:
                store, run, step = take_up(out, subject.network, loss, self._meta, subject.row, self._samples)
                self._named = self._samples.size
                self.earlier, self.writer = run, Writer(store, self._rows, acknowledged=step)
                return Chunk(first=step, place=run.place)
            if not self._place.overwrite:
                ways = ", pass resume=True to take it up or" if self._place.resumable else ", or pass"
                raise StoreExists(f"{out} already holds a recording. Choose another folder{ways} overwrite=True to "
                                  "replace it; it is intact.")
        if out is not None:
            with disk_errors(out, 0):
                make_folder(out)
        return Chunk(first=0)

    def keep_surroundings(self, buffers: Parameters | None) -> None:
        """Keeps, under the number -1, what holds before the first forward pass: frozen parameters, and the buffers."""
        if self.first == 0:
            self._chunk.states[-1] = {name: t.cpu() for name, t in self._subject.frozen.items()}
            self._keep_buffers(-1, buffers)

    # -- steps -------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The number of the next step."""
        return self._chunk.last

    @property
    def recorded(self) -> bool:
        """Whether there is a step."""
        return self.step > self.first

    @property
    def acknowledged(self) -> int:
        """The number of steps that are safely stored."""
        return 0 if self.writer is None else self.writer.acknowledged

    @property
    def broken_off(self) -> bool:
        """Whether the last step was begun, and its optimizer did not end it."""
        return bool(self._chunk.steps) and self._chunk.steps[-1] is self._under_way

    def forget_what_was_broken_off(self) -> bool:
        """Forgets a step that its optimizer did not end; says whether there was one."""
        broken = self.broken_off
        if broken:
            self._chunk.steps.pop()
        return broken

    def raise_failure(self) -> None:
        """Raises what went wrong in the writer."""
        if self.writer is not None:
            self.writer.raise_failure()

    def keep_samples(self, fresh: list[tuple[Tensor, ...]]) -> None:
        """Keeps samples that were seen for the first time, and their names."""
        self._filled += sum(t.nbytes for part in fresh for t in part)
        self._chunk.samples += fresh
        if not self._samples.fixed:
            self._chunk.ids += self._samples.ids[self._named:]
            self._named = self._samples.size

    def keep_start(self, step: Step, optimizers: Optimizers) -> None:
        """Keeps what holds at the start of a step, after what was before is on its way if it is time."""
        batches = step.batches
        self._filled += STEP + sum(t.nbytes for b in batches for t in (b.random, *(b.drawn or ())) if t is not None)
        self._keep_row(self.step)
        if self._chunk.steps and self._is_due():
            self._flush()
        self._keep_states(step, optimizers)

    def begin(self, step: Step) -> None:
        """Takes a step; whatever interrupts, the chunk holds it or it does not."""
        self._under_way = step
        self._chunk.steps.append(step)

    def end(self) -> None:
        """Takes note that the optimizer has ended its step."""
        self._under_way = None

    # -- what holds at a start ---------------------------------------------------------------------------------------

    def _keep_row(self, k: int, last: bool = False) -> None:
        if self._average is not None:
            self._keep_average(self._average, k)
        self._keep_buffers(k)
        if last or self._keep.stores(k):
            row = self._rows.of(list(self._subject.parameters.values()))
            # A sum is finite if its terms are, unless it overflows; then each is looked at.
            if not math.isfinite(row.sum()) and not bool(torch.isfinite(row).all()):
                raise non_finite(k, "a parameter", "its last step made it so")
            self._chunk.rows[k] = row
            self._filled += row.nbytes

    def _keep_average(self, average: Average, k: int) -> None:
        factor = average.look(k, self._subject.row)
        if factor is not None and self._chunk.steps:
            self._chunk.steps[-1].average = factor
        elif factor is None and average.last is not None:
            self._chunk.averages[k] = average.last

    def _keep_buffers(self, k: int, held: Parameters | None = None) -> None:
        changed = {}
        for name, b in (self._subject.buffers if held is None else held).items():
            if name not in self._seen_buffers or not torch.equal(self._seen_buffers[name], b):
                changed[name] = self._seen_buffers[name] = b.detach().clone()
        if changed:
            self._chunk.buffers[k] = {name: b.cpu() for name, b in changed.items()}
            self._filled += sum(b.nbytes for b in changed.values())

    def _keep_states(self, step: Step, optimizers: Optimizers) -> None:
        anchor = self._keep.replays and self.step % self._keep.every == 0
        if anchor or step.owner == self.step:
            states = self._chunk.states.setdefault(self.step, {})
            for key, value in optimizers.states():
                states[key] = self._rows.copy(value)
                self._filled += states[key].nbytes

    # -- chunks ------------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        # The first step is brought to the disk at once, so that a folder that cannot be written is found at once.
        return (self.writer is None or len(self._chunk.steps) >= MOST_STEPS or self._filled >= self._keep.chunk
                or time.monotonic() - self._written >= self._place.commit_every)

    def _flush(self) -> None:
        """Hands the chunk to the writer, and begins the next one."""
        self._send()
        chunk, k = self._chunk, self.step
        if not chunk.steps:
            return
        writer = self.writer = self.writer or Writer(self._begin_store, self._rows)
        if self._average is not None and self._average.last is not None:
            chunk.averages[k] = self._average.last
        if self._keep.budget is not None and writer.nbytes + chunk.nbytes > self._keep.budget:
            writer.drain()
            self._keep = self._keep.thin(writer.store or MemoryStore("run"), k, chunk)
        self._unsent = chunk
        self._send()
        self._written = time.monotonic()

    def _send(self) -> None:
        # An interruption may come between any two of these lines; then they are gone through again.
        chunk = self._unsent
        if chunk is not None:
            if self._chunk is chunk:
                self._chunk, self._filled = Chunk(first=chunk.last, place=chunk.place + 1), 0
            assert self.writer is not None
            self.writer.put(chunk)
            self._unsent = None

    def _begin_store(self) -> Store | MemoryStore:
        out = self._place.out
        if out is None:
            return MemoryStore("run", self._meta)
        empty = exists(out) and not Store.open(out).segments
        try:
            return Store.create(out, kind="run", meta=self._meta, overwrite=self._place.overwrite or empty)
        except StoreExists:
            # There was none when this recording began.
            raise StoreExists(
                f"Another recording has put its run into {out} since this one began, and a folder holds one run. Give "
                "each recording a folder of its own with out=...; what is there is intact."
            ) from None

    def commit(self) -> None:
        """Brings all steps that have ended to the store, with the parameters that the last one left."""
        if self.broken_off or not self._subject.finite:
            return
        self._keep_row(self.step)
        self._kept = self.step
        self._flush()
        if self.writer is not None:
            self.writer.drain()
            self.writer.raise_failure()

    # -- the end -----------------------------------------------------------------------------------------------------

    def settle(self) -> bool:
        """Forgets a last step without an end that can be kept; says whether the parameters are those of an end."""
        self._send()
        if self.forget_what_was_broken_off():
            return False
        finite = self._subject.finite
        if not finite and self._chunk.steps:
            self._chunk.steps.pop()
        return finite

    def finish(self, ended: bool, complete: bool) -> Store | MemoryStore | None:
        """Brings everything to the store.

        Args:
            ended: Whether the parameters are those after the last step.
            complete: Whether the loop came to its own end.
        """
        if self.recorded:
            # What was brought to the store after this step stays; since then others may have written to the parameters.
            if ended and self._kept != self.step:
                self._keep_row(self.step, last=True)
            self._flush()
        if self.writer is None:
            return None
        self.writer.close()
        store = self.writer.store
        if self.recorded and store is not None:
            store.commit({**self._meta, "complete": complete, "cost": self._cost()})
        return store

    def _cost(self) -> dict[str, float] | None:
        """Seconds since the recording began, with those of the one it takes up; ``None`` where these are not known."""
        earlier = {"seconds": 0.0, "cpu_seconds": 0.0} if self.earlier is None else self.earlier.meta.get("cost")
        now = (time.perf_counter(), time.process_time())
        return earlier and {name: round(earlier[name] + end - begun, 3)
                            for name, begun, end in zip(("seconds", "cpu_seconds"), self._begun, now, strict=True)}

    def rescue(self) -> MemoryStore | None:
        """Where the disk failed, what is on it and what waits, in memory; ``None`` if that is too much."""
        assert self.writer is not None
        stored = self.writer.store or MemoryStore("run", self._meta)
        if stored.nbytes > RESCUE:
            return None
        memory = MemoryStore("run", self._meta)
        for segment in stored.segments:
            memory.append(stored.read(segment), segment.meta)
        for chunk in self.writer.waiting:
            memory.append(encode(chunk), chunk.meta)
        return memory

    def abandon(self) -> None:
        """Ends a recording that did not begin."""
        if self.writer is not None:
            self.writer.close()
            self.writer.release()

    def release(self) -> None:
        """Lets the next writer in."""
        if self.writer is not None:
            self.writer.release()
