r"""By which factor the gradient of the mean loss went into the steps: how the losses of a pass were reduced.

A loop that sums the losses of n samples follows n times the gradient of their mean; so does one that scales a loss, and
gradients that were clipped are a part of it. The recorded norms tell which gradient :math:`g` was used, and the factor
is :math:`\langle g, \bar g\rangle/|\bar g|^2`, with :math:`\bar g` the gradient of the mean loss of a step.
"""

from __future__ import annotations

import torch

from ...decomposition.training_side import TrainingSide
from ...decomposition.trajectory import Trajectory
from ...run.gradient import Tolerance, used_gradient

#: At how many steps a run is looked at.
STEPS = 8


def reduction(trajectory: Trajectory, start: int, stop: int, memory: int) -> float:
    """The factor in the mean over some steps of a run, evenly among ``start`` to ``stop - 1``; 1 if none tells.

    Args:
        trajectory: The run.
        start: The first step, as the recording counts.
        stop: The step behind the last.
        memory: About how many bytes may be used.
    """
    run = trajectory.run
    side = TrainingSide(run, trajectory.dtype, trajectory.device, memory)
    coarse = max(run.precision, trajectory.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    count = min(STEPS, stop - start)
    found = [_at(trajectory, side, start + round(i * (stop - start - 1) / max(count - 1, 1)), coarse)
             for i in range(count)]
    known = [factor for factor in found if factor is not None]
    return sum(known) / len(known) if known else 1.0


def _at(trajectory: Trajectory, side: TrainingSide, k: int, coarse: torch.dtype) -> float | None:
    run = trajectory.run
    step = run.step(k)
    moving = [name for group in step.groups for name in group["names"] if name not in step.without]
    if not moving or not step.batches:
        return None
    means = [side.mean_gradient(batch, k, trajectory.at(batch.at), moving) for batch in step.batches]
    autocast = any(batch.autocast for batch in step.batches)
    used = used_gradient(step, means, [run.names.index(name) for name in moving], Tolerance.of(coarse, autocast))
    sizes = [len(batch.columns) for batch in step.batches]
    mean = [sum(size * g.double() for size, g in zip(sizes, parts, strict=True)) / sum(sizes)
            for parts in zip(*means, strict=True)]
    size = sum(float(g.square().sum()) for g in mean)
    along = sum(float((g * u.double()).sum()) for g, u in zip(mean, used.gradient, strict=True))
    factor = along / size if size else 0.0
    return factor if 0 < factor < float("inf") else None
