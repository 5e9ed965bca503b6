"""F15: Ctrl-C while something is computed."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kernelscope as ks

from ..row import NotTried, Row, Silent, Trial
from ..subjects import classes, points, trained

#: The moments at which Ctrl-C is pressed, for each kind of work.
MOMENTS = 5

Work = Callable[[Path | None], Tensor]


def _fit(solver: Any) -> Work:
    def work(folder: Path | None) -> Tensor:
        x = points(150)
        machine = ks.fit(ks.kernels.Gaussian(1.0), x, x[:, 0].sin(), centers=None if isinstance(solver, ks.solvers.PCG)
                         else 40, ridge=1e-5, solver=solver, checkpoint=folder, progress=False)
        return machine.coefficients

    return work


@cache
def _long() -> ks.Run:
    return trained(points(), classes(), steps=30)


def _works() -> dict[str, Work]:
    s = ks.solvers
    return {
        "conjugate gradients": _fit(s.ConjugateGradient("full", tolerance=1e-14, passes=30)),
        "two-level conjugate gradients": _fit(s.ConjugateGradient("two-level", rank=5, tolerance=1e-14, passes=30)),
        "EigenPro": _fit(s.EigenPro(epochs=15, tolerance=1e-9)),
        "PCG": _fit(s.PCG(None, tolerance=1e-12)),
        "decompose": lambda folder: ks.decompose(_long(), points(seed=3)).contributions,
        "evolution": lambda folder: ks.evolution(_long(), points(), classes(), progress=False, movie=0).cka,
    }


def goes_on(work: Work, folder: Path, moment: float) -> None:
    """Work that is interrupted at a share of its time is done again, from what was kept, to the same bits.

    Raises:
        Silent: If the bits are others, or Ctrl-C gave an answer that is not the whole one.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        raise NotTried("Ctrl-C is heard by the main thread alone, and needs a timer of the system")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(folder / "first")
        began = time.perf_counter()
        whole = work(folder / "whole")
        seconds = time.perf_counter() - began
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-4, moment * seconds))
            found = work(folder / "part")
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            found = None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if found is not None and not torch.equal(found, whole):
            raise Silent("Ctrl-C gave an answer that differs from the whole one")
        if not torch.equal(work(folder / "part"), whole):
            raise Silent("what went on after Ctrl-C differs from what was never interrupted")
    shutil.rmtree(folder / "part", ignore_errors=True)


class Interrupted(Row):
    """Six kinds of work, each interrupted at five moments."""

    id, sentence = "F15", "Ctrl-C is pressed while something is computed."

    def trials(self) -> Iterator[Trial]:
        """The moments are drawn by the place of the trial."""
        for place, (name, work) in enumerate(_works().items()):
            for count in range(MOMENTS):
                moment = (count + random.Random(f"{place} {count}").random()) / MOMENTS
                yield Trial(f"{name}, after {moment:.0%} of its time",
                            lambda folder, work=work, moment=moment: goes_on(work, folder, moment))  # type: ignore[misc]


ROWS = (Interrupted,)
