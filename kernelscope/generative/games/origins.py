r"""Which points a critic was shown: real ones, and which, or generated ones.

Told by memory where that is possible: a detached output of the generator, a cut one or a reshaped one lies where the
output lies, and so do the points of a delivered batch. Points that were copied on the way are told by their numbers,
among all batches that the loop may still hold. What is neither may be real points that were scaled or augmented, or
generated ones; which real points they would be is told by the batch that they are a linear function of, or by there
being one batch only that was delivered and not used. Where that does not tell, it is said.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...run.deliveries import place_of, rows_within
from ...run.source import Source

__all__ = ["Origin", "Origins", "Part"]

#: Outputs of the generator, and delivered batches, that are remembered.
REMEMBERED = 32

#: Bytes of delivered batches that are remembered beside the last one.
BYTES = 2**26

#: A linear function of one batch that leaves less than this part of what it leaves of any other is one of that batch.
CLEAR = 0.1

#: Numbers that are needed for that, as two are always met.
ENOUGH = 8

#: Twins of a row that are looked at.
TWINS = 8


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one origin.

    Attributes:
        rows: Which rows.
        ids: The places of real points in the data set; ``None`` of others.
        known: Whether it is known that they are those, or generated ones.
    """

    rows: slice
    ids: Sequence[int] | None
    known: bool = True


@dataclass(frozen=True)
class Origin:
    """What is known of the rows of a pass.

    Attributes:
        parts: The rows by origin.
        may_be: The places of the real points that those may be whose origin is not known.
        certain: Whether they are these if they are real.
        fetched: How many batches of as many points the loop had received and not used.
    """

    parts: list[Part]
    may_be: Sequence[int] | None = None
    certain: bool = True
    fetched: int = 0


class _Batch:
    """A delivered batch; its points are kept by an alias as long as they are remembered."""

    def __init__(self, ids: Sequence[int], points: Tensor):
        self.ids, self.used = ids, False
        self.count = len(ids)
        self._points: Tensor | None = points.detach()
        self._loops = weakref.ref(points)

    @property
    def points(self) -> Tensor | None:
        """The points, if they are remembered or the loop holds them."""
        return self._points if self._points is not None else self._loops()

    @property
    def size(self) -> int:
        """The bytes that are kept."""
        return 0 if self._points is None else self._points.numel() * self._points.element_size()

    def let_go(self) -> None:
        """Keeps the points no longer than the loop does."""
        self._points = None


class Origins:
    """Tells the origin of points.

    Args:
        source: Where real points come from.
    """

    def __init__(self, source: Source):
        self._source = source
        # Aliases that keep the memory: what is freed may be given to another tensor.
        self._made: deque[Tensor] = deque(maxlen=REMEMBERED)
        self._batches: list[_Batch] = []

    def add(self, made: Tensor) -> None:
        """Remembers an output of the generator."""
        self._made.append(made.detach())

    def deliver(self, ids: Sequence[int], points: Tensor) -> None:
        """Remembers a batch of real points."""
        self._batches.append(_Batch(ids, points))
        kept = 0
        for place, batch in enumerate(reversed(self._batches)):
            kept += batch.size
            if place and (kept > BYTES or place >= REMEMBERED):
                batch.let_go()
        # Of a used batch that is gone nothing can be said any more.
        self._batches = [batch for batch in self._batches if batch.points is not None or not batch.used]

    def forget(self) -> None:
        """Lets go of all of them."""
        self._made.clear()
        self._batches.clear()

    def use(self, ids: Sequence[int]) -> None:
        """Takes note that these real points were booked."""
        for batch in self._batches:
            if batch.ids is ids or not batch.used and batch.count == len(ids) and list(batch.ids) == list(ids):
                batch.used = True

    @property
    def widths(self) -> set[int]:
        """How many numbers generated points have."""
        return {made[0].numel() for made in self._made if len(made)}

    def of(self, x: Tensor) -> Origin:
        """The origin of the points ``x`` with shape (n, *)."""
        x = x.detach()
        place, whole = place_of(x), slice(0, len(x))
        if place and any(place_of(made) == place and rows_within(x, made) is not None for made in self._made):
            return Origin([Part(whole, None)])
        held = self._source.held((x,))
        if held is not None:
            for batch in self._batches:
                points = batch.points
                batch.used = batch.used or points is not None and rows_within(x, points) is not None
            return Origin([Part(whole, held[0])])
        parts = self._by_value(x)
        unknown = [part.rows for part in parts if not part.known]
        if not unknown:
            return Origin(parts)
        return self._maybe(x, unknown[0], parts)

    def _known(self) -> list[tuple[Tensor, Sequence[int] | None]]:
        latest = self._source.latest()
        known: list[tuple[Tensor, Sequence[int] | None]] = [] if latest is None else [(latest[1], latest[0])]
        known += [(made, None) for made in reversed(self._made)]
        batches = sorted(reversed(self._batches), key=lambda batch: batch.used)
        return known + [(points, batch.ids) for batch in batches if (points := batch.points) is not None]

    def _by_value(self, x: Tensor) -> list[Part]:
        known = self._known()
        lengths = sorted({len(points) for points, _ in known})
        parts: list[Part] = []
        at = 0
        while at < len(x):
            part = self._next(x, at, known)
            if part is None:
                # Points of several origins meet where one of them may end.
                ends = [at + n for n in lengths if at + n < len(x) and self._next(x, at + n, known) is not None]
                part = Part(slice(at, ends[0] if ends else len(x)), None, known=False)
            parts.append(part)
            at = part.rows.stop
        return parts

    @staticmethod
    def _next(x: Tensor, at: int, known: Sequence[tuple[Tensor, Sequence[int] | None]]) -> Part | None:
        # Of twins those are meant that go on as the points do.
        best: Part | None = None
        for points, ids in known:
            start, length = _stretch(x[at:], points)
            if length > (0 if best is None else best.rows.stop - at):
                best = Part(slice(at, at + length), None if ids is None else ids[start:start + length])
            if best is not None and best.rows.stop == len(x):
                break
        return best

    def _maybe(self, x: Tensor, rows: slice, parts: list[Part]) -> Origin:
        """Which real points the rows of unknown origin may be."""
        said = self._source.said
        if said is not None:
            return Origin(parts, said)
        count = rows.stop - rows.start
        among = [batch for batch in self._batches if batch.count == count]
        if not among:
            # Real and generated points in one pass, neither as they were.
            ids = self._batches[-1].ids if self._batches and self._batches[-1].count < count else None
            waiting = [batch for batch in self._batches if not batch.used and ids is not None
                       and batch.count == len(ids)]
            return Origin(parts, ids, len(waiting) <= 1, len(waiting))
        told = _linear(x[rows], among)
        if told is not None:
            return Origin(parts, told.ids)
        waiting = [batch for batch in among if not batch.used]
        latest = among[-1]
        return Origin(parts, latest.ids, not waiting or waiting == [latest], len(waiting))


def _stretch(x: Tensor, points: Tensor) -> tuple[int, int]:
    """Where in some points the most of the first rows of ``x`` are, one after the other, and how many these are."""
    if not len(points) or x[0].numel() != points[0].numel():
        return 0, 0
    rows, held = x.flatten(1), points.detach().to(x).flatten(1)
    found = (held == rows[0]).all(1).nonzero().flatten().tolist()
    best = 0, 0
    for start in found[:TWINS]:
        most = min(len(rows), len(held) - start)
        same = (rows[:most] == held[start:start + most]).all(1)
        length = most if bool(same.all()) else int(same.int().argmin())
        best = max(best, (start, length), key=lambda pair: pair[1])
    return best


def _linear(x: Tensor, batches: Sequence[_Batch]) -> _Batch | None:
    """The batch whose multiple, with a constant, the points are; ``None`` if no one stands out."""
    if x.numel() < ENOUGH:
        return None
    left = []
    for batch in batches:
        points = batch.points
        if points is None or points.numel() != x.numel():
            # It may be this one, and there is no way to tell.
            if not batch.used:
                return None
            continue
        a, b = (t.detach().to("cpu", torch.float64).flatten() for t in (points, x))
        a, b = a - a.mean(), b - b.mean()
        across, size = float(a @ b), float(a @ a) * float(b @ b)
        left.append((1 - across**2 / size if size > 0 else 1.0, batch))
    left.sort(key=lambda pair: pair[0])
    if not left or left[0][0] > (CLEAR * left[1][0] if len(left) > 1 else CLEAR):
        return None
    return left[0][1]
