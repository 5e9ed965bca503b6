r"""The exact derivative of an output by each sample's weight in training, through the whole recorded run.

With weights w the gradient of a pass is :math:`\frac1B\sum_i w_i g_i`; denominators, batches, random numbers and all
scalars of the optimizer are those recorded; of a weighted mean (class weights, ignored targets) the gradient is
:math:`\sum_i w_i c_i g_i / \sum_i c_i`, its denominator as recorded as well. With :math:`\lambda_{k+1}` the derivative
of the output by the parameters after step k, the derivative of the update gives :math:`\gamma_k`, that by the gradient
it used, and

.. math:: \frac{\partial f}{\partial w_i} \mathrel{+}= \frac1B\langle\gamma_k, g_i\rangle, \qquad
          \lambda_k = \Big(\frac{\partial\theta_{k+1}}{\partial\theta_k}\Big)^T \lambda_{k+1} + H_k\gamma_k ,

with :math:`H_k` the Hessian of the batch's mean loss: one backward loop, one product with a Hessian for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ...errors import OutOfBudget, RuleError
from ...network import Parameters
from ...run.rules import Rule, find_rule
from ...run.run import Run
from ..query_side import QuerySide
from ..segments import Segment
from ..training_side import TrainingSide
from ..trajectory import Trajectory
from ..unrolling import OptimizerState, UnrolledStep, Unroller, sample_weights
from .bending import Bending
from .scaling import Scaled, Scaling, scaled, with_means
from .statistics import Statistics
from .steps import Cotangents, scale

#: How closely factors of scaling that are the same agree.
ALIKE = {torch.float64: 1e-6}

#: The share of the path that must be explained.
HALF = 0.5


@dataclass
class Seen:
    """What going through the run forwards tells of its steps.

    Attributes:
        segments: The stretches in which it is gone through backwards.
        scaling: Why gradients were scaled.
        path: The length of the path, and that of the steps which the rules do not explain.
        unexplained: These steps.
        rounded: The steps of which low-precision arithmetic is a part.
    """

    segments: list[Segment]
    scaling: Scaling
    path: list[float] = field(default_factory=lambda: [0.0, 0.0])
    unexplained: list[int] = field(default_factory=list)
    rounded: int = 0


def look(run: Run, unroller: Unroller, trajectory: Trajectory, length: int, advance: Callable[[int], object]) -> Seen:
    """Goes through the run forwards, once, and cuts it into stretches of ``length`` steps."""
    state = OptimizerState()
    segments: list[Segment] = []
    found: dict[int, Scaled] = {}
    seen = Seen(segments, Scaling({}, 0.0))
    own = [(a, min(a + length, run.stop)) for a in range(run.start, run.stop, length)]
    for a, b in [(a, min(a + length, run.start)) for a in range(0, run.start, length)]:
        for _ in unroller.steps(a, b, state, unroller.stretch(trajectory, a, b)):
            pass
    for a, b in own:
        segment = Segment(a, b, state.copy(), alone=len(own) == 1)
        segments.append(segment)
        if segment.alone:
            steps = iter(segment.unroll(unroller, trajectory)[1])
        else:
            steps = unroller.steps(a, b, state, unroller.stretch(trajectory, a, b))
        for k, step in enumerate(steps, a):
            _note(seen, found, run, k, step)
            advance(1)
    _refuse_unexplained(seen)
    seen.scaling = Scaling(with_means(found, unroller.side, trajectory), ALIKE.get(unroller.precision, 2e-3))
    return seen


def _refuse_unexplained(seen: Seen) -> None:
    """Refuses a run of which most is unknown: the derivative of what is known would be that of another training.

    Raises:
        RuleError: If more than half of the path is unexplained.
    """
    share = min(1.0, seen.path[1] / seen.path[0]) if seen.path[0] else 0.0
    if share > HALF:
        raise RuleError(
            f"{len(seen.unexplained)} steps, the first of them step {seen.unexplained[0]}, moved otherwise than their "
            f"rule says, {share:.2g} of the path, so it is not known how most of this training depends on the samples. "
            "Gradients that were changed layer by layer, as by clipping each layer at a limit of its own, do so. Clip "
            'all of them together, or use influence(..., method="gauss-newton"), which needs no steps.'
        )


def _note(seen: Seen, found: dict[int, Scaled], run: Run, k: int, step: UnrolledStep) -> None:
    one = scaled(run.step(k), step)
    if one is not None:
        found[k] = one
    row = run.trajectory(k, k + 1)
    moved = float((row[1].double() - row[0].double()).norm())
    gap = sum(float(part.double().square().sum()) for part in step.gap.values()) ** 0.5
    seen.path[0] += moved
    if not step.explained:
        seen.path[1] += min(gap, moved) if moved else gap
        seen.unexplained.append(k)
    seen.rounded += type(find_rule(run.step(k).optimizer)).rounded is not Rule.rounded


class Back:
    """Some queries on their way back through a run.

    Args:
        run: The run.
        trajectory: Its parameters.
        training: The training side.
        side: The queries.
        bending: The Hessians.
        statistics: The running statistics of the network, which parameters move too.

    Attributes:
        values: The outputs at the end, with shape (q, c).
        influences: The derivatives by the samples' weights, with shape (q c, n).
        growth: By how much the largest derivative by the parameters grew on the way.
    """

    def __init__(self, run: Run, trajectory: Trajectory, training: TrainingSide, side: QuerySide, bending: Bending,
                 statistics: Statistics):
        self.run, self.trajectory, self.training, self.bending = run, trajectory, training, bending
        self.statistics = statistics
        theta, buffers = trajectory.at(run.stop), trajectory.buffers(run.stop)
        self.values = side.outputs(theta, buffers)[1]
        rows = {name: rows.contiguous() for name, rows in zip(side.names, side.gradients(theta, buffers), strict=True)}
        self._cotangents = Cotangents(rows)
        self._statistics = statistics.begin(side, theta, buffers)
        self._late: dict[int, list[Parameters]] = {}
        self._first = scale(rows)
        self.growth = 1.0
        self.influences = torch.zeros(self.values.numel(), run.size, dtype=torch.float64)

    def go(self, seen: Seen, unroller: Unroller, advance: Callable[[int], object]) -> None:
        """Goes back through all steps."""
        for segment in reversed(seen.segments):
            rows, unrolled = segment.unroll(unroller, self.trajectory)
            for k in range(segment.stop - 1, segment.start - 1, -1):
                step = unrolled[k - segment.start]
                self._through(k, step, rows[k], {batch.at: rows[batch.at] for batch in self.run.step(k).batches},
                              seen.scaling)
                for late in self._late.pop(k, []):
                    self._add(late)
                self.growth = max(self.growth, scale(self._cotangents.parameters) / max(self._first, 1e-300))
                advance(1)

    def _through(self, k: int, unrolled: UnrolledStep, theta: Parameters, at: dict[int, Parameters],
                 scaling: Scaling) -> None:
        recorded = self.run.step(k)
        gradients = self._cotangents.back(find_rule(recorded.optimizer), theta, unrolled)
        self.statistics.back(k, self._statistics, at, lambda place, rows: self._return(k, place, rows))
        gradients = {name: rows for name, rows in gradients.items() if name not in unrolled.silent}
        if not gradients:
            return
        gradients = scaling.back(k, unrolled, gradients)
        for j, batch in enumerate(recorded.batches):
            weight = sample_weights(unrolled, batch, j)
            products = self.training.products(batch, k, at[batch.at], list(gradients))
            met = products(gradients, dict.fromkeys(gradients, weight))
            self.influences.index_add_(1, batch.columns.cpu(), met.double().cpu())
            bent = self.bending(batch, k, at[batch.at], gradients)
            self._return(k, batch.at, {name: rows * unrolled.weights[j] for name, rows in bent.items()})

    def _return(self, k: int, place: int, rows: Parameters) -> None:
        """Adds derivatives by the parameters that a pass of step k saw, those at the start of step ``place``."""
        if place == k:
            self._add(rows)
        elif place >= self.run.start:
            # A pass was made before an earlier step.
            self._late.setdefault(place, []).append(rows)

    def _add(self, rows: Parameters) -> None:
        for name, part in rows.items():
            self._cotangents.parameters[name] = self._cotangents.parameters[name] + part


@dataclass(frozen=True)
class Plan:
    """How many queries go back together, in how many passes, and how many steps are held."""

    block: int
    passes: int
    length: int
    bytes: int

    @classmethod
    def make(cls, run: Run, count: int, width: int, dtype: torch.dtype, memory: int) -> Plan:
        """Divides the memory between rows of queries and steps.

        Raises:
            OutOfBudget: If not even one query fits.
        """
        size = max(run.parameter_count * dtype.itemsize, 1)
        states = max((1 + len(find_rule(run.step(k).optimizer).moments) for k in range(run.start, run.stop)), default=1)
        # A row is a derivative by parameters, momentum and states; at a step it is so twice, with what lies between.
        each, held = (3 * (1 + states) + 2) * width * size, (5 + states) * size
        if each > 2 * memory:
            raise OutOfBudget(
                f"One query with {width} outputs needs about {each / 2**20:.0f} MiB, and memory={memory} allows "
                f'{memory / 2**20:.0f} MiB. Ask for fewer outputs, for example output="margin", or raise memory.'
            )
        block = min(max(1, memory // (2 * each)), count)
        passes = -(-count // block)
        block = -(-count // passes)
        length = min(max(1, memory // (4 * held)), len(run))
        return cls(block, passes, length, block * each + length * held)


