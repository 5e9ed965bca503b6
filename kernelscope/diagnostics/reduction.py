r"""How far a step goes beyond the mean loss of its samples: the :math:`\kappa` of :math:`g = \kappa\, \nabla\bar\ell`.

A loop may sum the losses of a batch instead of averaging them (:math:`\kappa = n_b`), weigh its passes, or clip the
gradient by its norm. The recorded norms tell, beside the gradient of the mean loss recomputed at the same parameters.
"""

from __future__ import annotations

import torch

from ..decomposition.training_side import TrainingSide
from ..decomposition.trajectory import Trajectory
from ..run.gradient import Tolerance, used_gradient
from ..run.run import Run

#: At how many steps a run is looked at for the mean.
STEPS = 8


def mean_reduction(trajectory: Trajectory, start: int, stop: int, memory: int) -> float:
    r"""The mean :math:`\kappa` over some steps of a run, evenly among ``start`` to ``stop - 1``; 1 if none tells.

    Args:
        trajectory: The run.
        start: The first step, as the recording counts.
        stop: The step behind the last.
        memory: About how many bytes may be used.
    """
    side = TrainingSide(trajectory.run, trajectory.dtype, trajectory.device, memory)
    count = min(STEPS, stop - start)
    found = [reduction_of(trajectory.run, start + round(i * (stop - start - 1) / max(count - 1, 1)), side, trajectory)
             for i in range(count)]
    known = [factor for factor in found if factor is not None and 0 < factor < float("inf")]
    return sum(known) / len(known) if known else 1.0


def reduction_of(run: Run, k: int, side: TrainingSide, trajectory: Trajectory) -> float | None:
    r"""The :math:`\kappa` of a step, or ``None`` where its gradient is no multiple of that of the mean loss.

    Args:
        run: The run.
        k: The step.
        side: What recomputes gradients.
        trajectory: The parameters of the run.
    """
    step = run.step(k)
    moving = [name for group in step.groups for name in group["names"] if name not in step.without]
    if not moving or not step.batches:
        return 1.0
    means = [side.mean_gradient(batch, k, trajectory.at(batch.at), moving) for batch in step.batches]
    precision = max(run.precision, side.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    tolerance = Tolerance.of(precision, any(batch.autocast for batch in step.batches))
    used = used_gradient(step, means, [run.names.index(name) for name in moving], tolerance)
    return used.clip * sum(used.weights) if isinstance(used.clip, float) else None
