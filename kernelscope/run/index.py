"""Where in a store the parts of a run are, and the parts themselves, read when they are asked for."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from typing import Any

from torch import Tensor

from ..errors import DataError, ModelError, StoreCorrupt
from ..network import Parameters
from ..storage import MemoryStore, Store
from .samples import Samples
from .segments import Chunk, decode
from .step import Step
from .validating import Validator

#: Rows of parameters kept in memory while a run on disk is read, in bytes.
CACHE = 256 * 2**20


class RunIndex:
    """Where in a store the parts of a run are; shared by all its slices.

    Chunks follow each other by their place. One that begins before the last ended takes up the recording at an earlier
    step: what was there from this step on is no longer part of the run.
    """

    def __init__(self, store: Store | MemoryStore):
        self.store = store
        self.meta = store.meta
        self._where = store.path or "this recording"
        self._check = Validator(self.meta, self._where)
        self.samples = Samples(self._check.samples)
        self.steps: list[Step] = []
        self._homes: dict[str, dict[int, str]] = {"rows": {}, "states": {}, "averages": {}}
        self._buffers: dict[str, dict[int, str]] = {}
        self._kinds: dict[str, set[str]] = {}
        self._cache: OrderedDict[str, tuple[Chunk, int]] = OrderedDict()
        #: The most that is kept in memory at present, in bytes.
        self.room = CACHE
        chunks = self._in_order()
        self.place = max(chunks, default=-1) + 1
        self.shadowed = {segment.name for segment in store.segments} - set(chunks.values())
        for place in sorted(chunks):
            self._add(chunks[place])
        self._changes = {name: sorted(homes) for name, homes in self._buffers.items()}
        # A step is written once it has ended, and a replay tells where; without replays its end must be stored.
        ended = len(self.steps) in self._homes["rows"] or self.meta.get("keep", "all") != "all"
        self.length = len(self.steps) if ended else max(len(self.steps) - 1, 0)
        self.starts = sorted({step.owner for step in self.steps})
        self.stored = sorted(k for k in self._homes["rows"] if k <= self.length)
        if 0 not in self._homes["rows"]:
            raise DataError(
                f"{self._where} holds no parameters, so no step was committed before it ended. "
                "Record again; with commit_every=0 every step is committed at once."
            )

    def _in_order(self) -> dict[int, str]:
        """The names of the segments by their place; of two copies of a chunk the later one counts."""
        chunks: dict[int, str] = {}
        for segment in self.store.segments:
            place = segment.meta.get("place")
            if type(place) is not int or not 0 <= place < 2**53:
                raise StoreCorrupt(
                    f"{self._where}/{segment.name} does not say which part of the run it is. It was written by another "
                    "program; nothing of it was used. Record again, or restore the folder from a copy."
                )
            chunks[place] = segment.name
        return chunks

    def _add(self, name: str) -> None:
        chunk = self._read(name)
        if chunk.first > len(self.steps):
            raise StoreCorrupt(
                f"The steps {len(self.steps)} to {chunk.first - 1} of {self._where} are missing, so its later steps "
                "cannot be reached. The recording was changed by another program; record again."
            )
        if chunk.first < len(self.steps):
            del self.steps[chunk.first:]
            for homes in (*self._homes.values(), *self._buffers.values()):
                for k in [k for k in homes if k > chunk.first]:
                    del homes[k]
        if chunk.ids:
            self.samples.columns(chunk.ids)
        self._check.chunk(chunk, self.samples.size)
        self.steps += chunk.steps
        for part, homes in self._homes.items():
            homes.update(dict.fromkeys(getattr(chunk, part), name))
        for k, buffers in chunk.buffers.items():
            for buffer, value in buffers.items():
                self._buffers.setdefault(buffer, {})[k] = name
                self._kinds.setdefault(buffer, set()).add(_kind(value))
        for columns, *tables in chunk.samples:
            if not self.samples.keep(columns, tables[:-1], tables[-1])[1]:
                raise StoreCorrupt(
                    f"{self._where}/{name} holds samples that differ from those before it. It was written by another "
                    "program; nothing of it was used. Record again, or restore the folder from a copy."
                )

    @property
    def parameter_count(self) -> int:
        """The number of recorded parameters P."""
        return sum(math.prod(entry["shape"]) for entry in self.meta["parameters"])

    def info(self, start: int, stop: int) -> dict[str, Any]:
        """The steps ``start`` to ``stop - 1`` in plain data: steps, rules, samples, sizes, provenance."""
        steps = self.steps[start:stop]
        rates = [group["lr"] for step in steps for group in step.groups if "lr" in group]
        return {
            "path": None if self.store.path is None else str(self.store.path),
            "steps": len(steps),
            "rules": sorted({step.optimizer for step in steps}),
            "learning_rate": [min(rates), max(rates)] if rates else None,
            "samples": self.samples.size,
            "samples_drawn": int(self.samples.seen.sum()),
            "parameters": self.parameter_count,
            "dtype": self.meta["dtype"],
            "loss": self.meta.get("loss"),
            "keep": self.meta.get("keep"),
            "rows": len(self.stored),
            "bytes": self.store.nbytes,
            "complete": self.meta.get("complete", False),
            "averaged_weights": self.average(0) is not None,
            **{key: self.meta.get(key) for key in ("environment", "fingerprint", "notes", "cost")},
        }

    def check_buffers(self, known: Parameters) -> None:
        """Compares the stored buffers with those of the model; raises if they are not the same."""
        for name in sorted({*known, *self._kinds}):
            mine, stored = _kind(known.get(name)), self._kinds.get(name, {_kind(None)})
            if stored != {mine}:
                raise ModelError(
                    f"The model has other buffers than the run in {self._where}: the buffer {name!r} is {mine} in the "
                    f"model and {', '.join(sorted(stored))} in the run. Build the model with the arguments it was "
                    "trained with."
                )

    def _read(self, name: str) -> Chunk:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name][0]
        chunk = decode(self.store.read(name), f"{self._where}/{name}")
        self._cache[name] = (chunk, chunk.nbytes)
        # A store in memory is its own cache.
        while len(self._cache) > 1 and (self.store.path is None or self._cached > min(CACHE, self.room)):
            self._cache.popitem(last=False)
        return chunk

    @property
    def _cached(self) -> int:
        return sum(size for _, size in self._cache.values())

    def _find(self, part: str, k: int) -> Any:
        name = self._homes[part].get(k)
        return None if name is None else getattr(self._read(name), part)[k]

    @property
    def anchors(self) -> list[int]:
        """The steps of which parameters and optimizer states are stored."""
        return [k for k in self.stored if k in self._homes["states"]]

    def anchor(self, k: int) -> int:
        """The last step up to k from which steps can be computed again."""
        known = [j for j in self.anchors if j <= k]
        if not known:
            raise StoreCorrupt(
                f"{self._where} holds no optimizer states from which step {k} could be computed again. It was changed "
                "by another program; record again, or restore the folder from a copy."
            )
        return known[-1]

    def row(self, k: int) -> Tensor | None:
        """The stored row k."""
        return self._find("rows", k)

    def states(self, k: int) -> dict[str, Tensor] | None:
        """The stored optimizer states at k."""
        return self._find("states", k)

    def average(self, k: int) -> Tensor | None:
        """The stored averaged weights at k."""
        return self._find("averages", k)

    def buffers(self, k: int) -> Parameters:
        """The buffers that had changed by step k, each as last stored."""
        known: Parameters = {}
        for name, homes in self._buffers.items():
            before = bisect_right(self._changes[name], k)
            if before:
                last = self._changes[name][before - 1]
                known[name] = self._read(homes[last]).buffers[last][name]
        return known


def _kind(t: Tensor | None) -> str:
    return "missing" if t is None else f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}"
