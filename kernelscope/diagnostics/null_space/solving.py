"""From points and a path to modes, what the target asks of each, and what is expected to be left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...budget import as_words
from ...decomposition.stochastic.gradient_products import Plan
from ...decomposition.trajectory import Trajectory
from ...errors import OutOfBudget
from ...run.run import Run
from ..eigenlearning import expected_error, learnability, pool_errors
from .asked import Asked
from .chords import Walk
from .pace import Pace
from .sketch import columns, nystrom, products


def solved(asked: Asked, trajectory: Trajectory, at: list[int], rank: int | None, memory: int,
          done: Callable[[], object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the result, and facts about them."""
    run = trajectory.run
    asked.side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
    walk = Walk(trajectory, asked.side, at)
    m = asked.rows.stop - asked.rows.start
    if rank is None:
        matrix = walk.matrix(_block(asked, run, trajectory, memory), done)
        inner = matrix[asked.rows, asked.rows]
        values, modes = torch.linalg.eigh(inner)
        values, modes, trace, left = values.flip(0), modes.flip(1), float(inner.trace()), 0.0
    else:
        first = walk.outputs(trajectory.at(run.start), trajectory.buffers(run.start))
        omega = columns(asked.targets - first, min(rank, m))
        product, trace = products(walk, omega, _part(asked, run, trajectory, omega.shape[1], memory), done)
        values, modes, left = nystrom(omega, product, trace)
        matrix = None
    met = walk.met
    assert met.initial is not None
    assert met.final is not None
    assert met.buffers is not None
    initial, final, buffers = (t[asked.rows] for t in (met.initial, met.final, met.buffers))
    targets = asked.targets[asked.rows]
    wanted, changed = targets - initial - buffers, final - initial - buffers
    aim, learned = modes.T @ wanted, modes.T @ changed
    outside = torch.stack([(part - modes @ (modes.T @ part)).square().sum() for part in (wanted, changed)])
    slack = 4 * m * torch.finfo(trajectory.dtype).eps * float(values[0].clamp(min=0)) + left if len(values) else 0.0
    pace = Pace.of(trajectory, run.start + at[0], run.start + at[-1], asked.raw, asked.aim, met.energy, memory)
    filtered = 1 - torch.exp(-values.clamp(min=0) * pace.speed / max(m, 1))
    whole = asked.targets - met.initial - met.buffers
    predicted = None
    if asked.known is not None and asked.samples:
        predicted = _predicted(matrix, whole, values, aim, outside, m, asked.samples, int(run.samples.seen.sum()),
                               pace.speed)
    largest = float(values[0]) if len(values) else 0.0
    about = {"least": float(values[-1]) / largest if largest > 0 else 0.0, "asymmetry": met.asymmetry,
             "reduction": pace.reduction}
    return {
        "values": values.clamp(min=0), "modes": modes, "aim": aim, "learned": learned, "filter": filtered,
        "outside": outside if rank is not None and len(values) < m else torch.zeros(2, dtype=torch.float64),
        "slack": slack, "targets": targets, "initial": initial, "final": final, "buffers": buffers,
        "energies": torch.tensor(met.energies, dtype=torch.float64), "loss": pace.loss, "predicted": predicted,
        "speed": pace.speed, "left": met.left(), "trace": trace, "ids": asked.ids, "labels": asked.labels,
    }, about


def _block(asked: Asked, run: Run, trajectory: Trajectory, memory: int) -> int:
    try:
        return Plan.make(run, asked.side, asked.side, False, trajectory.dtype, memory).block
    except OutOfBudget as error:
        raise OutOfBudget(f"{error} Or pass samples= for some of the training samples, or rank= for a sketch."
                          ) from error


def _part(asked: Asked, run: Run, trajectory: Trajectory, rank: int, memory: int) -> int:
    """How many points a sketch takes at a time."""
    width = len(asked.side.functional.names)
    size = run.parameter_count * trajectory.dtype.itemsize
    held = 2 * width * rank * size + 4 * len(asked.side) * rank * 8
    if held + 3 * width * size > memory:
        raise OutOfBudget(
            f"A sketch of {rank} columns needs about {as_words(held + 3 * width * size)} here, and memory="
            f"{as_words(memory)} was given. Raise memory, lower rank, or explain one output.")
    return max(1, (memory - held) // (3 * width * max(size, 1)))


def _predicted(matrix: Tensor | None, whole: Tensor, values: Tensor, aim: Tensor, outside: Tensor, m: int,
               samples: int, n: int, speed: float) -> float | None:
    """The mean squared error that eigenlearning expects of early stopping, a ridge of one over the speed.

    Of the n samples of the run some stand in the matrix; a pool of them all would be larger in this proportion.
    """
    if matrix is None:
        eigenvalues, energies = values.clamp(min=0) / m, aim.square().mean(1) / m
        beyond = float(outside[0]) / m / whole.shape[1]
    else:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        eigenvalues = eigenvalues.clamp(min=0) / len(matrix)
        energies, beyond = (vectors.T @ whole).square().mean(1) / len(matrix), 0.0
    if not speed:
        return float(energies.sum()) + beyond
    if matrix is None or samples == len(matrix):
        found = expected_error(learnability(eigenvalues, n, n / speed)[1], energies, n, beyond)
    else:
        # The pool is made of the samples and the queries, and what is asked for is the error of these.
        found = pool_errors(eigenvalues, energies, n, n / speed, len(matrix) * n / samples, 0.0)[1]
    return found if found < float("inf") else None
