"""Stretches of a run that fit in memory: their parameters, their unrolled steps, and the states they begin with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..run.chords import ChordRun
from ..run.run import Run
from .aside import Aside
from .trajectory import Stretch, Trajectory
from .unrolling import OptimizerState, UnrolledStep, Unroller, stored_state


class Unrolled:
    """The steps of a segment and the parameters along it, as the way back reads them.

    Args:
        rows: The parameters.
        steps: The steps from ``start`` on, unrolled as they are asked for.
        start: The first of them.
        end: The optimizer's states, which the unrolling advances.
        aside: Where steps wait until they are read, if memory is too small for them.
    """

    def __init__(self, rows: Stretch, steps: Iterable[UnrolledStep], start: int, end: OptimizerState,
                 aside: Aside | None):
        self.rows, self.start, self.end, self._aside = rows, start, end, aside
        self._steps: list[Any] = [step if aside is None else aside.put_all(step) for step in steps]

    def step(self, k: int) -> UnrolledStep:
        """Step k."""
        step = self._steps[k - self.start]
        return step if self._aside is None else self._aside.get_all(step)

    def close(self) -> None:
        """Lets go of what waits."""
        if self._aside is not None:
            self._aside.close()


@dataclass(eq=False)
class Segment:
    """A stretch of steps and the optimizer's states at its start.

    What unrolling gives is kept if the segment is the only one, so that further queries find it.

    Attributes:
        start: The first step.
        stop: The step after the last.
        state: The states before the first step, which the steps before it have left.
        alone: Whether there is no other segment.
        stored: Whether the states are those that the recording holds, so that no step before has to be gone through.
        aside: Whether its steps do not fit into memory, and wait on the disk.
        waits: Where the states before the first step wait, if they do.
    """

    start: int
    stop: int
    state: OptimizerState
    alone: bool
    stored: bool = False
    aside: bool = False
    waits: Aside | None = None
    _unrolled: Unrolled | None = None

    def unroll(self, unroller: Unroller, trajectory: Trajectory) -> tuple[Stretch, list[UnrolledStep]]:
        """The parameters along the stretch, and its steps."""
        held = self.held(unroller, trajectory)
        return held.rows, [held.step(k) for k in range(self.start, self.stop)]

    def held(self, unroller: Unroller, trajectory: Trajectory) -> Unrolled:
        """The stretch as the way back reads it."""
        if self._unrolled is not None:
            return self._unrolled
        aside = Aside() if self.aside else None
        rows = unroller.stretch(trajectory, self.start, self.stop, aside)
        state = self.begins(trajectory.run, unroller).copy()
        unrolled = Unrolled(rows, unroller.steps(self.start, self.stop, state, rows), self.start, state, aside)
        if self.alone:
            self._unrolled = unrolled
        return unrolled

    def begins(self, run: Run, unroller: Unroller) -> OptimizerState:
        """The states before the first step; those that are stored are read when they are asked for."""
        if self.stored:
            return stored_state(run, self.start, unroller.side)
        return self.state if self.waits is None else self.waits.get_all(self.state)


def cut(run: Run, unroller: Unroller, trajectory: Trajectory, length: int, aside: Aside | None = None,
        fits: int | None = None) -> list[Segment]:
    """Cuts the run into stretches of ``length`` steps, each with the optimizer's states at its start.

    Args:
        run: The run.
        unroller: What unrolls its steps.
        trajectory: Its parameters.
        length: The number of steps in a stretch.
        aside: Where the states wait, if memory is too small for them.
        fits: How many steps of a stretch fit in memory; all, if not given.
    """
    state = OptimizerState()
    segments: list[Segment] = []
    # The steps before a slice are gone through for the states they leave behind.
    before = [(a, min(a + length, run.start)) for a in range(0, run.start, length)]
    own = [(a, min(a + length, run.stop)) for a in range(run.start, run.stop, length)]
    for a, b in before + own:
        if a >= run.start:
            kept = state.copy() if aside is None else aside.put_all(state)
            segments.append(Segment(a, b, kept, len(own) == 1, aside=b - a > (fits or length), waits=aside))
        if b < run.stop and not unroller.displacement:
            for _ in unroller.steps(a, b, state, unroller.stretch(trajectory, a, b)):
                pass
    return segments


def cut_long(run: Run, unroller: Unroller, trajectory: Trajectory, length: int) -> list[Segment]:
    r"""Cuts a run of which ``length`` steps fit in memory where the recording holds the optimizer's states.

    Then no step is gone through for the states it leaves behind, and none is computed again more than once. Where no
    states are stored, about :math:`\sqrt T` stretches are made. A stretch that does not fit waits on the disk.
    """
    places = [] if unroller.displacement else [k for k in run.anchors if k not in run.restarts]
    inner = [k for k in (run.anchors if unroller.displacement else places) if run.start < k < run.stop]
    if isinstance(run, ChordRun):
        # To go along a chord costs as much as the way back, so none is gone along twice.
        return cut(run, unroller, trajectory, max(len(run), 1), Aside(), length)
    if not inner:
        return cut(run, unroller, trajectory, max(length, math.isqrt(len(run))), Aside(), length)
    state = OptimizerState()
    if run.start not in (0, *places) and not unroller.displacement:
        # A slice begins at the last such step before it.
        before = max([k for k in places if k < run.start], default=0)
        state = stored_state(run, before, unroller.side) if before else state
        for k in range(before, run.start, length):
            end = min(k + length, run.start)
            for _ in unroller.steps(k, end, state, unroller.stretch(trajectory, k, end)):
                pass
    segments: list[Segment] = []
    start = run.start
    while start < run.stop:
        near = [k for k in (*inner, run.stop) if start < k <= start + length]
        stop = near[-1] if near else next(k for k in (*inner, run.stop) if k > start)
        segments.append(Segment(start, stop, state if start == run.start else OptimizerState(), alone=False,
                                stored=start in places, aside=stop - start > length))
        start = stop
    return segments
