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

import torch
from torch import Tensor

from ..run.deliveries import place_of, rows_within
from ..run.source import Source

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
            found = next(((points, ids) for points, ids in known if len(points) and _begins_with(x[at:], points)), None)
            if found is None:
                return None
            parts.append(Part(slice(at, at + len(found[0])), found[1]))
            at += len(found[0])
        return parts


def _begins_with(x: Tensor, points: Tensor) -> bool:
    if len(x) < len(points) or x[0].numel() != points[0].numel():
        return False
    return torch.equal(x[:len(points)].flatten(1), points.to(x).flatten(1))
