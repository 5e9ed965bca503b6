r"""Which points a critic was shown: real ones, and which, or generated ones.

Told by memory where that is possible: a detached output of the generator, a cut one or a reshaped one lies where the
output lies, and so do the points of a delivered batch. Points that were copied on the way are told by their numbers.
What is neither may be real points that were scaled or augmented, or generated ones: the first such pass of a step in
which no real points were found is taken for the batch that was delivered last, and all others are taken for generated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...run.deliveries import place_of, rows_within
from ...run.source import Source

__all__ = ["Origin", "Origins", "Part"]

#: Outputs of the generator that are remembered.
REMEMBERED = 32


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one origin.

    Attributes:
        rows: Which rows.
        ids: The places of real points in the data set; ``None`` of generated ones.
    """

    rows: slice
    ids: Sequence[int] | None


@dataclass(frozen=True)
class Origin:
    """What is known of the rows of a pass.

    Attributes:
        parts: The rows by origin; ``None`` where it is not known.
        may_be: The places of the real points that they may be.
    """

    parts: list[Part] | None
    may_be: Sequence[int] | None = None


class Origins:
    """Tells the origin of points.

    Args:
        source: Where real points come from.
    """

    def __init__(self, source: Source):
        self._source = source
        # Aliases that keep the memory: what is freed may be given to another tensor.
        self._made: deque[Tensor] = deque(maxlen=REMEMBERED)

    def add(self, made: Tensor) -> None:
        """Remembers an output of the generator."""
        self._made.append(made.detach())

    def forget(self) -> None:
        """Lets go of all of them."""
        self._made.clear()

    def of(self, x: Tensor) -> Origin:
        """The origin of the points ``x`` with shape (n, *)."""
        x = x.detach()
        place, whole = place_of(x), slice(0, len(x))
        if place and any(place_of(made) == place and rows_within(x, made) is not None for made in self._made):
            return Origin([Part(whole, None)])
        held = self._source.held((x,))
        if held is not None:
            return Origin([Part(whole, held[0])])
        latest = self._source.latest()
        parts = self._by_value(x, latest)
        return Origin(parts, latest[0] if latest is not None and len(latest[0]) == len(x) else None)

    def _by_value(self, x: Tensor, latest: tuple[Sequence[int], Tensor] | None) -> list[Part] | None:
        known: list[tuple[Tensor, Sequence[int] | None]] = [(made, None) for made in reversed(self._made)]
        if latest is not None:
            known.insert(0, (latest[1], latest[0]))
        parts: list[Part] = []
        at = 0
        while at < len(x):
            for points, ids in known:
                start, length = _stretch(x[at:], points)
                if length:
                    parts.append(Part(slice(at, at + length), None if ids is None else ids[start:start + length]))
                    at += length
                    break
            else:
                return None
        return parts


def _stretch(x: Tensor, points: Tensor) -> tuple[int, int]:
    """Where in some points the first rows of ``x`` are, one after the other, and how many of them."""
    if not len(points) or x[0].numel() != points[0].numel():
        return 0, 0
    rows, held = x.flatten(1), points.detach().to(x).flatten(1)
    found = (held == rows[0]).all(1).nonzero()
    if not len(found):
        return 0, 0
    start = int(found[0])
    most = min(len(rows), len(held) - start)
    same = (rows[:most] == held[start:start + most]).all(1)
    return start, most if bool(same.all()) else int(same.int().argmin())
