"""The track of a contender: its error on test points against kernel entries and seconds, looking not counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kernelscope as ks

from .problems import Task


class Over(Exception):  # noqa: N818 - it is no error
    """The time of a contender is over."""


class Track:
    """Hears how a contender goes on.

    Args:
        task: The problem.
        seconds: After how many seconds it is over.
    """

    def __init__(self, task: Task, seconds: float):
        self.task, self.seconds, self.entries, self.marks = task, seconds, 0, []
        self.asleep, self.looking, self.begun = 0.0, False, time.perf_counter()

    def mark(self, predict: Callable[[Tensor], Tensor], **more: float) -> None:
        """Takes the error on test points now.

        Raises:
            Over: If the time is over.
        """
        paused, self.looking = time.perf_counter(), True
        with torch.no_grad():
            error = float((predict(self.task.x_test).double() - self.task.y_test.double()).square().mean())
        self.looking = False
        passes = self.entries / (self.task.setting.n * self.task.setting.p)
        now = paused - self.begun - self.asleep
        self.marks.append({"seconds": now, "passes": passes, "error": error, **more})
        self.asleep += time.perf_counter() - paused
        if now > self.seconds:
            raise Over

    def restart(self) -> None:
        """Begins anew, for a contender that is run again for longer."""
        self.entries, self.asleep, self.begun = 0, 0.0, time.perf_counter()

    def count(self, rows: int, columns: int) -> None:
        """Counts kernel entries."""
        self.entries += 0 if self.looking else rows * columns

    def counted(self, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """A kernel as a function of two tensors, which counts its entries."""

        def kernel(x: Tensor, z: Tensor) -> Tensor:
            self.count(len(x), len(z))
            return function(x, z)

        return kernel

    def kernel(self) -> Any:
        """The package's kernel, which counts its entries."""
        track, kind = self, getattr(ks.kernels, self.task.setting.kernel)

        class Counted(kind):
            def _block(self, rows: Any, columns: Any, same: bool, out: Any = None) -> Tensor:
                track.count(len(rows.vectors), len(columns.vectors))
                return super()._block(rows, columns, same, out)

        return Counted(self.task.bandwidth)
