"""What a machine of features was fitted to: points, targets and weights, whose features are read in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_place
from ..data.points import Part, Points
from ..errors import DataError, NonFiniteError
from ..features.base import FeatureMap, points_between
from ..solvers.ridge import NormalEquations
from .points import in_memory

#: The share of the memory that the features of some points may use, the bytes of one beside its copies in double
#: precision, and of how many points they are taken at a time at most.
SHARE, EACH, MOST = 0.25, 32, 4096

#: By how many points a map, or samples, are known again.
FEW = 32


@dataclass(frozen=True, eq=False)
class Samples:
    """Points with what was said of them.

    Attributes:
        points: The points, n of them.
        targets: Their targets, with shape (n, c).
        weights: Their weights, with shape (n,); ``None`` where all are one.
    """

    points: Points
    targets: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def rows(self, features: FeatureMap, intercept: bool,
             memory: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Features, targets and weights of some samples at a time; with a column of ones for an intercept."""
        for place, values in rows_of(features, self.points, memory):
            yield (with_ones(values) if intercept else values, self.targets[place].to(values.device),
                   None if self.weights is None else self.weights[place])

    def chosen(self, places: Sequence[int]) -> Samples:
        """Some of the samples."""
        numbers = torch.tensor(places, dtype=torch.long)
        return Samples(self.points.chosen(places), self.targets[numbers.to(self.targets.device)],
                       None if self.weights is None else self.weights[numbers])

    @property
    def few(self) -> Any:
        """A few of the points, as tensors."""
        n = len(self)
        count = min(FEW, n)
        return in_memory(self.points.chosen([i * n // count for i in range(count)]))

    def joined(self, other: Samples) -> Samples:
        """These samples and others after them."""
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = torch.cat([torch.ones(len(one), dtype=torch.float64) if one.weights is None else one.weights
                                 for one in (self, other)])
        return Samples(_joined(self.points, other.points),
                       torch.cat([self.targets, other.targets.to(self.targets.device)]), weights)


def equations_of(samples: Samples, features: FeatureMap, intercept: bool, memory: int) -> NormalEquations:
    """The sums over samples, which are read once."""
    found = None
    for p, y, w in samples.rows(features, intercept, memory):
        found = found or NormalEquations(p.shape[1], y.shape[1], p.device)
        found.add(p, y, w)
    assert found is not None
    return found


def rows_of(features: FeatureMap, points: Points, memory: int) -> Iterator[tuple[slice, Tensor]]:
    r"""The features of some points at a time, with shape :math:`(r, p)`; those of all outputs one after the other.

    Raises:
        DataError: If the map gives no features.
        NonFiniteError: If a feature is NaN or infinite.
    """
    each = EACH * features.size * (features.columns_of(points) or 1)
    for rows in features.steps(points, max(1, min(MOST, int(SHARE * memory) // each))):
        values = features.phi(points_between(points, rows.start, rows.stop))
        if values.ndim not in (2, 3) or len(values) != rows.stop - rows.start or not values.is_floating_point():
            raise DataError(f"A map gives real features of shape (n, p) or (n, c, p), and {features!r} gave "
                            f"{values.dtype} of shape {tuple(values.shape)} for {rows.stop - rows.start} points.")
        values = values.flatten(1)
        if not bool(values.isfinite().all()):
            bad = rows.start + int((~values.isfinite()).any(1).nonzero()[0])
            raise NonFiniteError(f"{features!r} is NaN or infinite at point {bad}. Look at this point, and at the "
                                 "numbers of the map.")
        yield rows, values


def gathered(n: int, parts: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Parts of several tensors, each as one with n rows.

    Example:
        >>> gathered(3, iter([(torch.ones(2),), (torch.zeros(1),)]))
        (tensor([1., 1., 0.]),)
    """
    whole: tuple[Tensor, ...] = ()
    done = 0
    for part in parts:
        # Made beforehand: small tensors that are kept between large ones hold on to memory.
        whole = whole or tuple(one.new_zeros(n, *one.shape[1:]) for one in part)
        for place, one in zip(whole, part, strict=True):
            place[done:done + len(one)] = one
        done += len(part[0])
    return whole


def with_ones(values: Tensor) -> Tensor:
    """Features and a column of ones."""
    return torch.cat([values, values.new_ones(len(values), 1)], 1)


def _joined(one: Points, other: Points) -> Points:
    n = len(one)

    def read(numbers: Sequence[int]) -> Part:
        here = [place for place, number in enumerate(numbers) if number < n]
        there = [place for place, number in enumerate(numbers) if number >= n]
        first = one.chosen([numbers[place] for place in here]).part(0, len(here)) if here else None
        last = other.chosen([numbers[place] - n for place in there]).part(0, len(there)) if there else None
        if first is None or last is None:
            return first or last  # type: ignore[return-value]
        back = torch.tensor(here + there).argsort()
        return Part(_together(first.args, last.args, back), _together(first.kwargs, last.kwargs, back), None)

    return Points(n + len(other), read)


def _together(one: Any, other: Any, order: Tensor) -> Any:
    """Rows of both, in an order."""
    if isinstance(one, dict):
        return {name: _together(value, other[name], order) for name, value in one.items()}
    if isinstance(one, tuple):
        return tuple(_together(a, b, order) for a, b in zip(one, other, strict=True))
    return torch.cat([one, other.to(one.device)])[order.to(one.device)]


def places_of(rows: Any, n: int) -> list[int]:
    """The places of samples, each once, from a number, several of them, a slice or a mask.

    Raises:
        OutOfRange: If one of them is beyond the last.
        DataError: If these are none, or nothing would be left.

    Example:
        >>> places_of([2, -1, 2], 5), places_of(slice(2), 5)
        ([2, 4], [0, 1])
    """
    if isinstance(rows, slice):
        found = list(range(n)[rows])
    else:
        given = rows.tolist() if hasattr(rows, "tolist") else rows
        several = list(given) if isinstance(given, list | tuple | range | set) else [given]
        mask = len(several) == n and all(isinstance(entry, bool) for entry in several)
        found = ([place for place, entry in enumerate(several) if entry] if mask
                 else sorted({as_place(entry, "rows", n, "samples") for entry in several}))
    if not 0 < len(found) < n:
        raise DataError(f"Some samples are taken away and some are left; {len(found)} of {n} were named. Pass their "
                        "places, as [3, 5].")
    return found
