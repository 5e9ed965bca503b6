r"""How fast a fixed kernel would have learned: the curvature of the loss, and the pace of the optimizer.

The filter :math:`F_j = 1 - e^{-s\lambda_j}` of a path kernel, which holds the learning rates already, takes a number s
that the kernel does not know: the curvature a of the loss in the explained outputs, with
:math:`\ell'(f) \approx a\,J^T(F(f) - y)` by least squares at the start (2 over the number of outputs for a mean squared
error), times how much further than its learning rate an optimizer steps. Of SGD with momentum that is
:math:`1/(1-\mu)` times the factor by which the losses of a pass were reduced (1 of a mean, n of a sum over n samples);
of others the energy of the path over the fall of the mean loss, which are one number for gradient flow. It is an
estimate, and no certificate rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...decomposition.trajectory import Trajectory
from ...errors import DataError
from ...network import per_sample_losses
from ...run.run import Run
from ..reduction import mean_reduction
from .aims import Aim


@dataclass(frozen=True)
class Pace:
    """The speed of learning.

    Attributes:
        speed: Curvature times pace.
        loss: The mean loss of the samples at the start and at the end of the path; empty without samples.
        reduction: By which factor the gradient of the mean loss went into the steps.
    """

    speed: float
    loss: Tensor
    reduction: float

    @classmethod
    def of(cls, trajectory: Trajectory, start: int, stop: int, samples: tuple[Any, ...] | None, aim: Aim,
           energy: float, memory: int) -> Pace:
        """The speed from step ``start`` of the recording to ``stop``, from the training samples that are looked at."""
        own = momentum_pace(trajectory.run, start, stop)
        factor = mean_reduction(trajectory, start, stop, memory)
        pace = None if own is None else own * factor
        if samples is None:
            return cls(pace or 1.0, torch.zeros(0, dtype=torch.float64), factor)
        inputs, targets = samples
        ends = [_loss(trajectory, k, inputs, targets) for k in (start, stop)]
        drop = ends[0] - ends[1]
        if pace is None:
            pace = energy / drop if drop > 0 else 1.0
        curvature = _curvature(trajectory, start, inputs, targets, aim)
        return cls(curvature * pace, torch.tensor(ends, dtype=torch.float64), factor)


def momentum_pace(run: Run, start: int, stop: int) -> float | None:
    """How much further than its learning rate SGD with momentum steps, in the mean over steps; ``None`` of others."""
    found = []
    for k in range(start, stop):
        step = run.step(k)
        if step.optimizer != "SGD":
            return None
        for group in step.groups[:1]:
            mu = float(group.get("momentum", 0.0))
            if mu >= 1:
                return None
            # The buffer of the first m steps has gathered a part of what it will hold.
            found.append((1 - mu ** (k + 1)) * (1 - float(group.get("dampening", 0.0)) * (mu > 0)) / (1 - mu))
    return sum(found) / len(found) if found else None


def _loss(trajectory: Trajectory, k: int, inputs: tuple[Tensor, ...], targets: Tensor) -> float:
    outputs = trajectory.run.network(trajectory.at(k), trajectory.buffers(k), inputs)
    return float(per_sample_losses(trajectory.run.loss, outputs, targets, len(targets)).mean())


def _curvature(trajectory: Trajectory, k: int, inputs: tuple[Tensor, ...], targets: Tensor, aim: Aim) -> float:
    run = trajectory.run
    outputs = run.network(trajectory.at(k), trajectory.buffers(k), inputs)
    if not isinstance(outputs, Tensor):
        return 1.0
    with torch.enable_grad():
        free = outputs.detach().requires_grad_()
        losses = per_sample_losses(run.loss, free, targets, len(targets)).sum()
        slopes, = torch.autograd.grad(losses, free)
        explained = free.reshape(len(free), -1)
        if aim.index is not None:
            explained = explained[:, [aim.index]]
        elif callable(aim.output):
            explained = aim.output(free).reshape(len(free), -1)
        try:
            wanted = aim.values(targets, explained.detach().double().cpu()).to(explained)
        # Targets of training that are none of the explained output say nothing of its curvature.
        except DataError:
            return 1.0
        pulled, = torch.autograd.grad(explained, free, (explained - wanted).detach(), allow_unused=True)
    if pulled is None or not float(pulled.square().sum()):
        return 1.0
    return max(float((slopes * pulled).sum() / pulled.square().sum()), 0.0)
