r"""Which part of a target a recorded run could not have learned.

Training moves the parameters along a path, and the outputs at some points by what the path kernel lets through. Modes
of no eigenvalue stay where they were; others move at most by their reach. What of the target lies beyond it is left as
an error, for every optimizer, loss and network, and without any assumption: the run is looked at, not its limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_switch, as_whole
from ...decomposition.precision import checked_dtype, ledger_precision
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...decomposition.stochastic.points import samples_of
from ...decomposition.trajectory import Trajectory
from ...network import undisturbed
from ...progress import Bar
from ...run.run import Run
from ..states import times_of
from .asked import Asked, as_asked, chosen_samples, part_words
from .reservoir import reservoir_of
from .result import NullSpace
from .solving import solved

#: Rounding, relative to the largest terms, by the precision of the computation.
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4}


def null_space(run: Run, x: Any = None, y: Any = None, *, times: Any = None,
               output: int | str | Callable[..., Tensor] | None = None, on: str = "queries", rank: int | None = None,
               gramian: bool = False, samples: Any = None, dtype: torch.dtype | None = None,
               device: torch.device | str | None = None, memory: int | str = "1GB",
               progress: bool | None = None) -> NullSpace:
    r"""Tells which part of a target a recorded run could not have learned, and the error that follows from it.

    .. math:: \|\langle h_j, f_T - f_0\rangle\|^2 \le \mu_j E, \qquad
              \|f^* - f_T\|^2 \ge \sum_j \max\big(0,\ \|\langle h_j, f^* - f_0\rangle\| - \sqrt{\mu_j E}\big)^2

    :math:`\mu_j, h_j` are the eigenpairs of the path kernel on the points, made of chords of the path, and E is the
    energy of the path. Modes of :math:`\mu_j = 0` did not move at all. This holds for every optimizer, loss and
    network. The network is read in eval mode.

    The matrix is one of all points, training samples and queries: with N of them a chord costs N gradients, and their
    products :math:`N^2 P` operations for P parameters. ``samples=0`` leaves the samples out, which is much faster where
    there are few queries.

    Args:
        run: The recorded run, or a slice of it.
        x: The queries, in any form that :func:`decompose` takes; without them the points are the training samples.
        y: Their targets: the values of the explained outputs, or classes.
        times: Where chords begin and end: how many times, or the numbers of steps; 30 if not given, stored ones where
            some are near. More make the bound tighter and take longer.
        output: What is explained: ``None`` for all outputs, and of classes for their probabilities; ``"logits"``; the
            number of one; or a function of the outputs, and y then has its values.
        on: The points of the modes: ``"queries"``, ``"samples"`` (those of training), or ``"all"`` of them.
        rank: The number of columns of a sketch, for more points than a matrix has room for; ``None`` for the matrix.
        gramian: Whether the directions of residuals that moved nothing are computed too, as by :func:`reservoir`.
        samples: Which training samples join the matrix beside the queries: at most 1,000, evenly among those that were
            drawn, if not given; how many, evenly; or their places. Of modes on queries they serve the error expected by
            eigenlearning alone; with 0 it is left out.
        dtype: The precision to compute in, as in :func:`decompose`.
        device: Where to compute.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`NullSpace`.

    Raises:
        DataError: If points, targets or options do not fit the run.
        ModelError: If the network is no function of a point.
        NonFiniteError: If points or targets, or gradients at them, are NaN or infinite.
        OutOfBudget: If the matrix does not fit into memory.

    References:
        | (f1), (f2) and (f4) of the theory notes
        | Every Model Learned by Gradient Descent Is Approximately a Kernel Machine (Domingos, arXiv 2012.00152)
        | The Eigenlearning Framework (Simon et al., arXiv 2110.03922)

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x[:1], x[:1, :1]), loss=F.mse_loss) as recording:     # only ever sees (1, 0)
        ...     for _ in range(50):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x[:1]), x[:1, :1]).backward()
        ...         optimizer.step()
        >>> found = ks.null_space(recording.run, x, torch.ones(2, 1), progress=False)
        >>> found.check().ok, found.bound <= found.error
        (True, True)
    """
    begun = time.perf_counter()
    run = checked_run(run)
    as_choice(on, "on", ("queries", "samples", "all"))
    checked_dtype(dtype)
    as_switch(gramian, "gramian")
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    wanted = None if rank is None else as_count(rank, "rank", least=1)
    at = stored_times(run, times)
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        queries = as_asked(run, x, y)
        on = "samples" if queries is None else on
        inputs = queries[0] if queries is not None else samples_of(run).inputs
        dtype, note = ledger_precision(run, dtype, inputs, place)
        trajectory = Trajectory(run, dtype, place)
        chosen = chosen_samples(run, samples, on)
        asked = Asked.of(trajectory, queries, output, on, chosen, wanted is not None)
        bar = Bar(total=len(at) - 1, desc="null space", unit="chord", disable=quiet)
        with bar:
            found, about = solved(asked, trajectory, at, wanted, memory, bar.update)
        # What the reservoir says of its own progress comes after the chords.
        reserve = reservoir_of(trajectory, inputs, None, memory, quiet) if gramian else None
    told = run.info()
    part = part_words(run, chosen, on) if samples is None and (wanted is None or on != "queries") else ""
    said = note, asked.aim.note, asked.note, part, asked.side.note
    notes = [words for words in said if words]
    return NullSpace(**found, on=on, reservoir=reserve, output_names=asked.side.functional.names, info={
        "run": {key: told[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
        "first_step": run.start, "times": at, "steps": len(run), "rank": wanted, "rounding": ROUNDING[dtype],
        "dtype": str(dtype).removeprefix("torch."), "engine": asked.side.way, "notes": notes,
        "samples": asked.samples, "queries": 0 if queries is None else len(inputs[0]), **about,
        "seconds": round(time.perf_counter() - begun, 3),
    })


def stored_times(run: Run, times: Any) -> list[int]:
    """The times of a run, moved to stored steps where some are near and nobody named the steps."""
    at = times_of(run, times)
    if times is not None and as_whole(times) is None:
        return at
    apart = max(1, len(run) // max(len(at) - 1, 1)) // 2
    near = lambda k: next((j for d in range(apart + 1) for j in (k - d, k + d)
                           if 0 <= j <= len(run) and run.row(run.start + j) is not None), k)
    return sorted({0, len(run), *(near(k) for k in at[1:-1])})
