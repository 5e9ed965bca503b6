"""The run as the sweep needs it: parameters and buffers by name, in the precision of the ledger."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..network import Parameters, cast
from ..run.run import Run
from ..run.step import MicroBatch
from .aside import Aside


class Trajectory:
    """Parameters and buffers of a run in one precision, on one device."""

    def __init__(self, run: Run, dtype: torch.dtype, device: torch.device):
        self.run = run
        self.dtype = dtype
        self.device = device
        frozen = {name: p for name, p in run.network.parameters.items() if name not in run.names}
        self._frozen = cast(frozen, dtype, device)
        self._buffers: tuple[int, Parameters] | None = None

    def named(self, row: Tensor) -> Parameters:
        """All parameters, from a stored vector of the trained ones."""
        return cast(self.run.named(row), self.dtype, self.device) | self._frozen

    def at(self, k: int) -> Parameters:
        """The parameters at the start of step k."""
        return self.named(self.run.trajectory(k, k)[0])

    def stretch(self, start: int, stop: int, aside: Aside | None = None) -> Stretch:
        """The parameters at the steps ``start`` to ``stop``, both included."""
        return Stretch(self, start, stop, aside)

    def buffers(self, k: int) -> Parameters:
        """The buffers at the start of step k."""
        if self._buffers is None or self._buffers[0] != k:
            self._buffers = k, cast(self.run.buffers(k), self.dtype, self.device)
        return self._buffers[1]

    def first_buffers(self) -> Parameters:
        """The buffers behind the initial output: as recording began, or at the first step of a slice."""
        return cast(self.run.buffers(-1), self.dtype, self.device) if self.run.start == 0 else self.buffers(
            self.run.start)


class Stretch:
    """Parameters at consecutive steps, kept as they were stored and brought to the ledger's precision when read.

    They are computed as the stretch is gone through for the first time, and put aside where ``aside`` says.
    """

    def __init__(self, trajectory: Trajectory, start: int, stop: int, aside: Aside | None = None):
        self._trajectory, self._start, self._aside = trajectory, start, aside
        self._coming = trajectory.run.rows(start, stop)
        self._rows: list[Any] = []
        self._read: dict[int, Parameters] = {}

    def __getitem__(self, k: int) -> Parameters:
        if k not in self._read:
            # A step reads its two ends, and the next one reads one of them again.
            self._read = {j: read for j, read in self._read.items() if abs(j - k) == 1}
            self._read[k] = self._trajectory.named(self._row(k))
        return self._read[k]

    def seen(self, batch: MicroBatch) -> Parameters:
        """The parameters that a pass saw, or would have seen at its place on a chord."""
        if not batch.along:
            return self[batch.at]
        return between(self[batch.at], self[batch.at + 1], batch.along)

    def forget(self) -> None:
        """Lets go of what was read."""
        self._read.clear()

    def _row(self, k: int) -> Tensor:
        row: Tensor | None = None
        while len(self._rows) <= k - self._start:
            row = next(self._coming)
            self._rows.append(row if self._aside is None else self._aside.put(row))
        if row is None:
            row = self._rows[k - self._start]
        return row if self._aside is None or isinstance(row, Tensor) else self._aside.get(row)


def between(here: Parameters, there: Parameters, along: float) -> Parameters:
    """The parameters on the way from the ones to the others."""
    return {name: p if p is there[name] else torch.lerp(p, there[name], along) for name, p in here.items()}


class AveragedTrajectory:
    r"""Averaged weights along a run, :math:`e_{k+1} = a_k e_k + (1-a_k)\theta_{k+1}`, from their recorded factors.

    Of T rows about :math:`2\sqrt T` are held at a time: anchors, and the stretch between two of them that is read.
    """

    def __init__(self, trajectory: Trajectory):
        run = trajectory.run
        first, last = run.average(0), run.average(run.stop)
        assert first is not None
        assert last is not None
        self._trajectory = trajectory
        self._length = max(1, math.isqrt(len(run)))
        self.recorded_end = trajectory.named(last)
        self.factors = [float(run.step(k).average or 0.0) for k in range(run.stop)]
        self._anchors = [trajectory.named(first)]
        for start in range(0, run.stop, self._length):
            self._anchors.append(self._between(start)[-1])
        self._held: tuple[int, list[Parameters]] = 0, [self._anchors[0]]

    def __getitem__(self, k: int) -> Parameters:
        start, rows = self._held
        if not start <= k < start + len(rows):
            start = max(k - 1, 0) // self._length * self._length
            self._held = start, rows = start, self._between(start)
        return rows[k - start]

    def _between(self, start: int) -> list[Parameters]:
        run = self._trajectory.run
        stop = min(start + self._length, run.stop)
        rows = [self._anchors[start // self._length]]
        for k, row in enumerate(run.trajectory(start + 1, stop), start):
            theta, a = self._trajectory.named(row), self.factors[k]
            rows.append({name: a * e + (1 - a) * theta[name] for name, e in rows[-1].items()})
        return rows
