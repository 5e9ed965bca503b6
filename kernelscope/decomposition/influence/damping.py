r"""The damping that a run's own length stands for.

Gradient descent that ends after the time :math:`\tau = \sum_k \eta_k` has fitted directions whose curvature is above
:math:`1/\tau` and left those below nearly as they were, as a ridge of :math:`1/\tau` does. With momentum the time is
:math:`\sum_k\eta_k(1 - d)/(1-\mu)` for a dampening d; for rules that precondition it is told from the lengths of steps
and gradients, :math:`\sum_k |\theta_{k+1} - \theta_k| / |\hat g_k|`. Coupled weight decay is curvature of its own.

References:
    | A Continuous-Time View of Early Stopping for Least Squares (Ali, Kolter and Tibshirani, 2019)
"""

from __future__ import annotations

from ...run.run import Run
from ...run.step import Step


def damping_of(run: Run) -> float:
    """The damping that the length of a run stands for, in units of the curvature of the mean loss."""
    time, decay = 0.0, 0.0
    for k in range(run.start, run.stop):
        step = run.step(k)
        if step.optimizer == "SGD":
            passed, shrunk = _of_sgd(run, step)
        else:
            here, there = run.trajectory(k, k + 1)
            size = float(step.norms.double().norm())
            passed, shrunk = (float((there.double() - here.double()).norm()) / size if size else 0.0), 0.0
        time, decay = time + passed, decay + passed * shrunk
    return 1 / time + decay / time if time > 0 else 1.0


def _of_sgd(run: Run, step: Step) -> tuple[float, float]:
    """The time of a step, and its decay, as means over parameters."""
    sizes = dict(zip(run.names, (shape.numel() for shape in run.shapes), strict=True))
    total, time, decay = 0, 0.0, 0.0
    for group in step.groups:
        count = sum(sizes[name] for name in group["names"] if name in sizes)
        mu = float(group["momentum"])
        passed = float(group["lr"]) * ((1 - float(group["dampening"])) / (1 - mu) if 0 < mu < 1 else 1.0)
        total, time, decay = total + count, time + count * passed, decay + count * float(group["weight_decay"])
    return (time / total, decay / total) if total else (0.0, 0.0)
