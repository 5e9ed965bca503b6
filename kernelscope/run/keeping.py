"""How much of a run is stored: every row of parameters, every k-th, or as many as fit into a size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

from ..arguments import as_whole, what_came
from ..errors import RecordingError
from ..storage import MemoryStore, Segment, Store
from .segments import Chunk, decode, encode

#: Steps are handed to the writer when they fill this many bytes, or after ``commit_every`` seconds.
CHUNK = 32 * 2**20

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def bytes_in(size: str) -> int | None:
    """The bytes in a size such as ``"200MB"`` or ``"1.5 GiB"``, or ``None`` if it is none.

    Example:
        >>> bytes_in("1.5 GiB"), bytes_in("much")
        (1610612736, None)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", size.upper())
    return int(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else None


@dataclass(frozen=True)
class Keep:
    """Every which row is stored, and the size above which they are thinned out.

    Example:
        >>> Keep.parse("200MB").budget
        200000000
        >>> Keep.parse(10).every
        10
    """

    every: int
    budget: int | None
    word: str | int

    @classmethod
    def parse(cls, keep: int | str) -> Self:
        """Reads ``"all"``, a number of steps, or a size with its unit."""
        if isinstance(keep, str) and keep == "all":
            return cls(1, None, keep)
        every = as_whole(keep)
        if every is not None and every >= 1:
            return cls(every, None, every)
        budget = bytes_in(keep) if isinstance(keep, str) else None
        if budget is not None:
            return cls(1, budget, keep)
        raise RecordingError(
            f'keep must be "all", a number of steps from 1 on, or a size such as "200MB"; {what_came(keep)} came. '
            'keep="all" stores the parameters at every step.'
        )

    @property
    def replays(self) -> bool:
        """Whether rows may be missing, so that optimizer states are stored with those that are kept."""
        return self.every > 1 or self.budget is not None

    @property
    def chunk(self) -> int:
        """The size in bytes at which a chunk is handed to the writer."""
        return CHUNK if self.budget is None else min(CHUNK, self.budget // 8)

    def thin(self, store: Store | MemoryStore, steps: int, waiting: Chunk) -> Keep:
        """Doubles the stride until what is stored and what waits fill at most half the budget.

        The first row and the first of each optimizer always stay.
        """
        assert self.budget is not None
        keep = self
        while store.nbytes + waiting.nbytes > self.budget // 2 and keep.every < max(steps, 1):
            keep = replace(keep, every=2 * keep.every)
            gone: list[Segment] = []
            for segment in store.segments:
                chunk = keep.thinned(decode(store.read(segment), segment.name))
                # The new copy is committed before the old one goes, so that no moment lacks a step.
                store.append(encode(chunk), segment.meta)
                gone.append(segment)
                if sum(old.size for old in gone) >= self.chunk:
                    store.drop([old.name for old in gone])
                    gone.clear()
            store.drop([old.name for old in gone])
            keep.thinned(waiting)
        return keep

    def stores(self, k: int) -> bool:
        """Whether this stride stores row k."""
        return k % self.every == 0

    def thinned(self, chunk: Chunk) -> Chunk:
        """The chunk with only those rows and states that this stride stores."""
        chunk.rows = {k: row for k, row in chunk.rows.items() if self.stores(k)}
        # Nothing before the first step of an optimizer tells its states.
        chunk.states = {k: v for k, v in chunk.states.items() if k < 0 or self.stores(k) or k in chunk.starts}
        return chunk
