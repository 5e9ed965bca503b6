r"""A recorded run of which some parameters are kept.

What the samples did between two kept vectors is not forgotten: which of them were drawn, at which learning rate, with
which momentum. Only the places at which their gradients are taken are fewer, on the chord instead of on the path.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import as_count, as_whole, what_came
from ..errors import DataError, OutOfRange
from ..network import Parameters
from .chords import Chord, ChordIndex, ChordRun, Kept, node_batches, parse_nodes, renumbered
from .step import MicroBatch, Step

if TYPE_CHECKING:
    from .run import Run


class _KeptOfRun(Kept):
    """Rows, buffers and states of a run at some of its points."""

    def __init__(self, run: Run, points: list[int]):
        self._run, self._points = run, points

    def row(self, j: int) -> Tensor:
        return self._run.trajectory(self._points[j], self._points[j])[0]

    def buffers(self, j: int) -> Parameters:
        return self._run._index.buffers(-1 if j < 0 else self._points[j])

    def states(self, j: int) -> dict[str, Tensor] | None:
        if j < 0:
            return self._run.states(-1)
        found, owner = self._run.states(self._points[j]), f"{self._points[j]}|"
        return found and {f"{j}|{key.removeprefix(owner)}": t for key, t in found.items() if key.startswith(owner)}


def thinned(run: Run, every: int | None = None, keep: int | None = None, points: Iterable[int] | None = None,
            nodes: str = "ends") -> ChordRun:
    """The run of chords between some of the parameters of a recording; see :meth:`Run.thinned`."""
    if isinstance(run, ChordRun):
        raise DataError("This run is thinned already. Thin the recording it came from; each thinning starts there.")
    chosen = _points(run, every, keep, points)
    # What came before a slice tells with which momentum it began.
    before = range(0, run.start, every or max(run.start, 1))
    steps = run._index.steps[:run.stop]
    # A chord has one optimizer: where another one takes over, a new chord begins.
    turns = [k for k in range(1, len(steps)) if steps[k].owner != steps[k - 1].owner]
    kept = sorted({0, run.start, run.stop, *before, *chosen, *(k for k in turns if k < run.stop)})
    places = {k: j for j, k in enumerate(kept)}
    nested = parse_nodes(nodes)
    pooled = _pools(run)
    chords = [_chord(run, a, b, j, places, nested, pooled) for j, (a, b) in enumerate(pairwise(kept))]
    meta = run.meta | {"keep": "all", "points": kept, "thinned": True}
    index = ChordIndex(meta, run.samples, chords, _KeptOfRun(run, kept))
    return ChordRun(index.store, run.network, run.loss, index, places[run.start], places[run.stop])


def _points(run: Run, every: int | None, keep: int | None, points: Iterable[int] | None) -> list[int]:
    given = {"every": every, "keep": keep, "points": points}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        came = " and ".join(named) or "none of them"
        raise DataError(f"A run is thinned by one of every=, keep= and points=; {came} came. Pass every=20, say.")
    if every is not None:
        return list(range(run.start, run.stop, as_count(every, "every", least=1)))
    if keep is not None:
        count = as_count(keep, "keep", least=2)
        return torch.linspace(run.start, run.stop, count, dtype=torch.float64).round().long().tolist()
    found = []
    for point in list(points or []) if not isinstance(points, str) else [points]:
        place = as_whole(point)
        if place is None:
            raise DataError(f"points are numbers of steps; {what_came(point)} came. Pass points=[0, 10, 50], say.")
        if not 0 <= place <= len(run):
            raise OutOfRange(f"This run has the parameter vectors 0 to {len(run)}, so {place} cannot be kept.")
        found.append(run.start + place)
    return found


def _pools(run: Run) -> bool:
    """Whether a sample has the same loss at the same parameters whenever it is drawn, so that visits are counted."""
    modes = {batch.training for step in run._index.steps for batch in step.batches}
    drawn = any(batch.random is not None or batch.drawn is not None or batch.autocast
                for step in run._index.steps for batch in step.batches)
    return len(modes) == 1 and not drawn and not any(run.network.couples(mode) for mode in modes)


def is_a_step(inner: list[Step], places: dict[int, int]) -> bool:
    """Whether a chord is one recorded step whose passes stand at kept parameters."""
    return len(inner) == 1 and all(batch.at in places for batch in inner[0].batches)


def _chord(run: Run, a: int, b: int, j: int, places: dict[int, int], nodes: tuple[float, ...], pooled: bool) -> Step:
    inner = run._index.steps[a:b]
    first = inner[0]
    if is_a_step(inner, places):
        return renumbered(first, places)
    if pooled:
        columns = torch.cat([batch.columns for step in inner for batch in step.batches]).unique()
        batches = node_batches(j, nodes, columns, first.batches[0].training)
    else:
        nodes = ()
        batches = [_placed(batch, a, b, j) for step in inner for batch in step.batches]
    groups = [{**group, **({"lr": sum(float(step.groups[i]["lr"]) for step in inner)} if "lr" in group else {})}
              for i, group in enumerate(first.groups)]
    return Chord(first.optimizer, groups, batches, first.norms, first.largest, first.without,
                 owner=places[first.owner], inner=inner, begun=a, updates=b - a, nodes=nodes)


def _placed(batch: MicroBatch, a: int, b: int, j: int) -> MicroBatch:
    return MicroBatch(batch.columns, j, batch.training, batch.random, batch.drawn, batch.norms, batch.autocast,
                      max(batch.at - a, 0) / (b - a))


def described(points: list[int]) -> str:
    """Points in a few words, as in ``0, 50 … 500``."""
    if len(points) <= 4:
        return ", ".join(map(str, points))
    return f"{points[0]}, {points[1]} … {points[-1]}"
