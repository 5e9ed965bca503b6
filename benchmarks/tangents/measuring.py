"""Time, memory and the rate of matrix products on this machine."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

#: A contender is run three times, and on until a second has passed; it is not begun again after forty seconds.
RUNS, ENOUGH, TOO_LONG = 3, 1.0, 40.0


@dataclass(frozen=True)
class Time:
    """The shortest of some runs, in seconds."""

    core: float
    wall: float


def timed(work: Callable[[], object], runs: int = RUNS, enough: float = ENOUGH) -> Time:
    """The shortest processor time and the shortest time on the clock."""
    cores, walls = [], []
    while len(walls) < runs or sum(walls) < enough:
        core, wall = time.process_time(), time.perf_counter()
        work()
        cores.append(time.process_time() - core)
        walls.append(time.perf_counter() - wall)
        if sum(walls) > TOO_LONG:
            break
    return Time(min(cores), min(walls))


class Memory:
    """The peak of the resident set above its size at the start, in MiB."""

    def __enter__(self) -> Memory:
        # What earlier calls have left in the allocator's pools would be used again, and not be seen.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.before = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = (self._read("VmHWM") - self.before) / 1024

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def product_rate(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of matrix products, the best of several shapes; a multiplication and its addition are two."""
    sizes = ((256, 1024), (512, 512), (1024, 1024), (2048, 512)) if device == "cpu" else ((4096, 4096), (8192, 8192))
    best = 0.0
    for size, inner in sizes:
        a, b = (torch.randn(size, inner, device=device).to(dtype) for _ in range(2))
        for _ in range(8):
            begun = time.perf_counter()
            a @ b.T
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 2 * size * size * inner / (time.perf_counter() - begun))
    return best
