r"""Certified thinning: as few kept parameters as a stated tolerance allows.

Between kept parameters a ledger is complete, and states what it does not attribute. So one may begin with a few chords,
split those that leave too much unattributed, and stop when for every query

.. math:: \sum_j |\langle\bar\phi_j, \text{unattributed}_j\rangle| \le \epsilon \cdot \text{(sum of absolute terms)} .
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from ..arguments import as_whole, what_came
from ..errors import DataError
from ..run.chords import ChordRun
from ..run.run import Run
from .result import Decomposition

#: Chords to begin with.
FIRST = 8

#: Parts into which a chord is split at once.
MOST = 8

#: With more than one chord to so many steps, all steps are taken.
DENSE = 3


def thinned_ledger(run: Run, thin: float, ledger_of: Callable[[Run], Decomposition]) -> Decomposition:
    """The ledger over every ``thin``-th parameter vector, or over as few as leave at most the share ``thin``.

    Raises:
        DataError: If ``thin`` is neither a number of steps from 1 on nor a share below 1.
    """
    every = as_whole(thin)
    if every is not None and every >= 1:
        return ledger_of(run.thinned(every))
    if isinstance(thin, bool) or not isinstance(thin, int | float) or not 0 < thin < 1:
        raise DataError(
            f"thin is a number of steps from 1 on, as in thin=20, or the share that may stay unattributed, as in "
            f"thin=0.01; {what_came(thin)} came."
        )
    if isinstance(run, ChordRun):
        raise DataError("This run is thinned already, and what lies on its chords is not known. Thin the recording.")
    points = sorted({round(i * len(run) / FIRST) for i in range(FIRST + 1)})
    rounds, before = 0, [-1]
    while True:
        rounds += 1
        part = run.thinned(points=points)
        assert isinstance(part, ChordRun)
        points = [point - run.start for point in part.points]
        ledger = ledger_of(part)
        left = gaps_of(ledger)
        open_chords = [j for j in range(len(points) - 1) if points[j + 1] - points[j] > 1]
        if float(left.sum(-1).max()) <= thin or points == before:
            info = {**ledger.info, "thinned": {"tolerance": float(thin), "rounds": rounds, "kept": len(points)}}
            return replace(ledger, info=info)
        before = points
        worst, budget = left.amax(0), float(thin) / len(part)
        for j in open_chords:
            # What a chord leaves falls with the square of its length, so this many parts would leave enough.
            a, b = before[j], before[j + 1]
            parts = min(MOST, math.ceil(1.2 * math.sqrt(float(worst[j]) / budget)))
            points = points + [round(a + i * (b - a) / parts) for i in range(1, parts)]
        points = sorted(set(points))
        if DENSE * len(points) > len(run):
            # With so many chords every single step costs no more, and leaves nothing.
            points = list(range(len(run) + 1))


def gaps_of(ledger: Decomposition) -> torch.Tensor:
    """What each chord leaves unattributed of each output of each query, as a share of the terms: (q c, chords)."""
    scale = ledger.magnitude.clamp_min(torch.finfo(torch.float64).tiny)[..., None]
    gaps = torch.zeros_like(ledger.steps) if ledger.unattributed is None else ledger.unattributed
    found = (gaps.abs() / scale).flatten(0, 1)
    return found if len(found) else found.new_zeros(1, ledger.steps.shape[-1])
