r"""How far a step goes beyond the mean loss of its samples: the :math:`\kappa` of :math:`g = \kappa\, \nabla\bar\ell`.

A loop may sum the losses of a batch instead of averaging them (:math:`\kappa = n_b`), weigh its passes, or clip the
gradient by its norm. The recorded norms tell, beside the gradient of the mean loss recomputed at the same parameters.
"""

from __future__ import annotations

import torch

from ...decomposition.training_side import TrainingSide
from ...decomposition.trajectory import Trajectory
from ...run.gradient import Tolerance, used_gradient
from ...run.run import Run


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
