r"""The places at which the kernels of a run take gradients, and how much each counts.

- The *path kernel* takes them at the start of each step, weighted by its learning rate: the left sum of
  :math:`\int K_t\,dt`, where the time of a run is the sum of its learning rates. By the trapezoid rule the two ends of
  a step count half each.
- The *step kernel* of step k takes for the rows their average along the step, at the nodes of a Gauss-Legendre rule,
  and for the columns those at its start.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import RuleError
from ...run.run import Run
from ...run.step import Step
from ..quadrature import Quadrature
from ..trajectory import Trajectory
from .gradient_products import Gradients, Place


def rates(step: Step) -> dict[str, float]:
    """The learning rate of each parameter that a step moves.

    Raises:
        RuleError: If its optimizer has none.
    """
    found: dict[str, float] = {}
    for group in step.groups:
        if not isinstance(group.get("lr"), int | float):
            raise RuleError(
                f"The time of a path kernel is the sum of the learning rates, and {step.optimizer} has none. Ask for "
                'the kernel of one step, kind="step", which needs no rate.'
            )
        found |= dict.fromkeys((name for name in group["names"] if name not in step.without), float(group["lr"]))
    return found


def time_of(run: Run) -> float:
    """The sum of the learning rates, of the largest of each step."""
    return sum(max(rates(run.step(k)).values(), default=0.0) for k in range(run.start, run.stop))


def moves_plainly(step: Step) -> bool:
    """Whether a step is the gradient of its batch times the learning rate."""
    return step.optimizer == "SGD" and not any(
        group.get(word) for group in step.groups for word in ("momentum", "weight_decay", "maximize"))


def along_the_run(trajectory: Trajectory, rule: str, length: int) -> Iterator[Place]:
    """The places of a path kernel, ``len(run)`` by the left rule and one more by the trapezoid rule.

    Args:
        trajectory: The run.
        rule: ``"left"`` or ``"trapezoid"``.
        length: How many steps are held at a time.
    """
    run = trajectory.run
    stop = run.stop + (rule == "trapezoid")
    for first in range(run.start, stop, length):
        last = min(first + length, stop) - 1
        rows = trajectory.stretch(first, last)
        for k in range(first, last + 1):
            yield Place(Gradients([(1.0, rows[k], trajectory.buffers(k))]), None, _weights(run, k, rule))


def along_a_step(trajectory: Trajectory, k: int, rule: Quadrature) -> Place:
    """The only place of the kernel of step k."""
    here, there = (trajectory.at(j) for j in (k, k + 1))
    buffers = trajectory.buffers(k)

    names = trajectory.run.names
    between = ({name: here[name] + node * (there[name] - here[name]) for name in names} for node in rule.nodes)
    averaged = Gradients([(weight, here | point, buffers)
                          for weight, point in zip(rule.weights, between, strict=True)])
    moved = {name for group in trajectory.run.step(k).groups for name in group["names"]} - {
        *trajectory.run.step(k).without}
    return Place(averaged, Gradients([(1.0, here, buffers)]), [float(name in moved) for name in names])


def _weights(run: Run, k: int, rule: str) -> list[float]:
    own = rates(run.step(k)) if k < run.stop else {}
    if rule == "left":
        return [own.get(name, 0.0) for name in run.names]
    before = rates(run.step(k - 1)) if k > run.start else {}
    return [(own.get(name, 0.0) + before.get(name, 0.0)) / 2 for name in run.names]
