"""The run as the sweep needs it: parameters and buffers by name, in the precision of the ledger."""

from __future__ import annotations

import torch
from torch import Tensor

from ..network import Parameters, cast
from ..run.run import Run


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

    def rows(self, start: int, stop: int) -> list[Parameters]:
        """The parameters at the steps ``start`` to ``stop``, both included."""
        return [self.named(row) for row in self.run.trajectory(start, stop)]

    def buffers(self, k: int) -> Parameters:
        """The buffers at the start of step k."""
        if self._buffers is None or self._buffers[0] != k:
            self._buffers = k, cast(self.run.buffers(k), self.dtype, self.device)
        return self._buffers[1]

    def first_buffers(self) -> Parameters:
        """The buffers behind the initial output: as recording began, or at the first step of a slice."""
        return cast(self.run.buffers(-1), self.dtype, self.device) if self.run.start == 0 else self.buffers(
            self.run.start)


class AveragedTrajectory:
    r"""Averaged weights along a run, :math:`e_{k+1} = a_k e_k + (1-a_k)\theta_{k+1}`, from their recorded factors."""

    def __init__(self, trajectory: Trajectory):
        run = trajectory.run
        first, last = run.average(0), run.average(run.stop)
        assert first is not None
        assert last is not None
        self.recorded_end = trajectory.named(last)
        self._rows = [trajectory.named(first)]
        self.factors = [float(run.step(k).average or 0.0) for k in range(run.stop)]
        for k, row in enumerate(run.trajectory(1, run.stop) if len(run) else []):
            theta, a = trajectory.named(row), self.factors[k]
            self._rows.append({name: a * e + (1 - a) * theta[name] for name, e in self._rows[-1].items()})

    def __getitem__(self, k: int) -> Parameters:
        return self._rows[k]
