"""Gradients of many points, some at a time, so that what is under way and what is kept stay within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..budget import as_words
from ..data.points import Points
from ..errors import OutOfBudget
from ..layers import Batch, Gradients, ModuleGradients, OtherUses
from ..layers.factors import distinct
from ..layers.tiles import Joined, Tile, pack
from .first_look import check_finite

#: The share of the memory that gradients under way may fill.
UNDER_WAY = 0.25

#: How many points are differentiated at a time where memory would allow more.
MOST = 512

#: How many points are differentiated to see what one takes.
FEW = 4


class Gatherer:
    """Finds the gradients of points in batches that fit.

    Args:
        gradients: The gradients of a network.
        batch: From points, and the numbers of the first and the one after the last, to a batch.
        memory: About how many bytes may be used.
        rounded: The precision that gradients are kept in; ``None`` for that of the network.
    """

    def __init__(self, gradients: ModuleGradients, batch: Callable[[Points, int, int], Batch], memory: int,
                 rounded: torch.dtype | None = None):
        self.gradients, self.batch, self.memory, self._rounded = gradients, batch, memory, rounded
        self._unit: dict[Any, tuple[int, int]] = {}

    def few(self, points: Points) -> Gradients:
        """The gradients of the first points; of few enough that even formed ones would have room."""
        return self.of(points, 0, max(1, min(FEW, len(points), self.memory // (4 * self._formed(points)))))

    def of(self, points: Points, start: int, stop: int) -> Gradients:
        """The gradients of some points; by themselves, if the network treats them otherwise than the first.

        Raises:
            OutOfBudget: If they do not fit in memory.
        """
        batch = self.batch(points, start, stop)
        try:
            return self.gradients(batch)
        except OtherUses:
            self.gradients.give_up(batch)
            self._unit.clear()
        needed = (stop - start) * self._formed(points)
        if needed > self.memory:
            raise OutOfBudget(
                f"The network sorts or selects samples, so each is differentiated by itself, and {stop - start} at a "
                f"time take {as_words(needed)}, where memory allows {as_words(self.memory)}. Raise memory, or pass "
                "points for which the network does the same in calls of their own."
            )
        return self.gradients(batch)

    def _formed(self, points: Points) -> int:
        """The bytes that the gradients of one point take as they are."""
        function = self.gradients.function
        with torch.no_grad():
            columns = function(self.batch(points, 0, 1)).shape[1]
        return columns * sum(function.parameters[name].nbytes for name in self.gradients.names)

    def some(self, points: Points, full: bool = False) -> Iterator[tuple[int, int]]:
        """Ranges of points that can be differentiated at a time."""
        graph, _ = self.measure(points, len(points), full)
        step = self._step(graph, len(points), self.memory)
        for i in range(0, len(points), step):
            yield i, min(i + step, len(points))

    def tile(self, points: Points, start: int, stop: int, count: int, full: bool, room: int) -> Tile:
        """The gradients of some points, kept for products with ``count`` others, where ``room`` bytes are left."""
        graph, _ = self.measure(points, count, full)
        step = self._step(graph, stop - start, room)
        joined = Joined(stop - start)
        for i in range(start, stop, step):
            found = self.of(points, i, min(i + step, stop))
            joined.add(pack(found, count, full, self._rounded))
        check_finite(joined.tile.tensors(), "The gradient", start)
        return joined.tile

    def measure(self, points: Points, count: int, full: bool) -> tuple[int, int]:
        """The bytes that a sample takes while it is differentiated, and when it is kept."""
        key = count.bit_length(), full
        if key not in self._unit:
            function = self.gradients.function
            kept: dict[int, int] = {}

            def note(t: Tensor) -> Tensor:
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            self.gradients.plan(self.batch(points, 0, min(FEW, len(points))))
            with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                found = self.few(points)
            own = {p.untyped_storage().data_ptr() for p in (*function.parameters.values(), *function.buffers.values())}
            graph = sum(size for place, size in kept.items() if place not in own)
            factors = sum(t.nbytes for t in distinct(found.factors.values()))
            tile = pack(found, count, full, self._rounded)
            # Output gradients are stacked, laid out anew and kept, at worst all at once.
            self._unit[key] = (graph + 3 * factors) // len(tile), tile.nbytes // len(tile)
        return self._unit[key]

    @staticmethod
    def _step(graph: int, count: int, room: int) -> int:
        return max(1, min(count, MOST, int(UNDER_WAY * room // max(graph, 1))))
