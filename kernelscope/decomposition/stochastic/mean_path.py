r"""Where each step would have gone on average: the rule of the optimizer on the gradient of all samples.

At the recorded parameters :math:`\theta_k` the gradient of all samples :math:`g_k` takes the place of the batch's, and
a momentum of such gradients that of the optimizer's own. So the mean displacement of heavy ball is
:math:`\bar D_k = -\eta\,\bar b_k` with :math:`\bar b_k = \sum_{s\le k}\mu^{k-s} g_s`.

A preconditioner is that which was recorded, or that which the mean square of a batch's gradient would have made,
:math:`\mathbb E \hat g_j^2 = g_j^2 + v\,\Sigma_{jj}`. The recorded one is right for the batches that were drawn; where
they had no gradient yet (a pixel that was always blank) it is as large as a rule allows, and lets samples that were not
drawn move the output by thousands of times what they would have.

Beside it goes what reshuffling needs: the weight :math:`U_s` with which the gradients of the earlier steps of an epoch
entered :math:`\theta_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...errors import RuleError
from ...network import Parameters
from ...run.numbers import as_held
from ...run.rules import State, find_rule
from ..trajectory import Trajectory
from ..unrolling import Key, OptimizerState, UnrolledStep, Unroller
from .passes import Passes
from .sampling import Sampling

#: By parameter a weight of gradients: a number, or an entry for each of the parameter's.
Weights = dict[str, Tensor]


@dataclass(eq=False)
class MeanStep:
    """One step as it would have been on average.

    Attributes:
        theta: The parameters before it.
        unrolled: The coefficients of the recorded step.
        gradient: The gradient of all samples, for the parameters that moved.
        factor: By parameter what the gradient of the loss was multiplied by on its way into the rule.
        displacement: The mean displacement of all recorded parameters.
        earlier: U, where batches are reshuffled.
    """

    theta: Parameters
    unrolled: UnrolledStep
    gradient: Parameters
    factor: dict[str, Tensor | float]
    displacement: Parameters
    earlier: Weights

    @property
    def heard(self) -> list[str]:
        """The parameters that the samples moved."""
        return list(self.gradient)


@dataclass
class MeanState:
    """What is carried from step to step; the tensors are never changed in place."""

    optimizer: OptimizerState = field(default_factory=OptimizerState)
    momentum: dict[Key, Tensor] = field(default_factory=dict)
    moments: dict[Key, State] = field(default_factory=dict)
    heard: dict[Key, Tensor] = field(default_factory=dict)  # the weight of an epoch's gradients in the momentum
    moved: dict[Key, Tensor] = field(default_factory=dict)  # and in the parameters

    def copy(self) -> MeanState:
        """A state that can be advanced without changing this one."""
        moments = {key: dict(states) for key, states in self.moments.items()}
        return MeanState(self.optimizer.copy(), dict(self.momentum), moments, dict(self.heard), dict(self.moved))


@dataclass(eq=False)
class Segment:
    """A stretch of steps and the state at its start; what was found is kept if the segment is the only one."""

    start: int
    stop: int
    state: MeanState
    alone: bool
    kept: list[MeanStep] = field(default_factory=list)


class MeanPath:
    """Goes forward through a run and finds the mean displacement of its steps.

    Args:
        unroller: What gives the rule's coefficients.
        trajectory: The run's parameters.
        passes: The passes of all samples.
        sampling: How batches were drawn; its steps count from the start of the run.
        recorded: Whether preconditioners are those recorded.
    """

    def __init__(self, unroller: Unroller, trajectory: Trajectory, passes: Passes, sampling: Sampling,
                 recorded: bool):
        self.run = unroller.run
        self._unroller, self._trajectory = unroller, trajectory
        self._passes, self._sampling, self._recorded = passes, sampling, recorded
        #: The steps whose displacement the rule did not explain.
        self.unexplained: set[int] = set()
        #: Whether factors that depend on the gradients multiplied them.
        self.clipped = False
        #: Whether there are preconditioners that only their recorded form is known of.
        self.centered = False
        self._factor: float | None = None
        self._share = 0.0

    def segments(self, length: int) -> list[Segment]:
        """Cuts the run into stretches of at most so many steps."""
        state, found = MeanState(), []
        cuts = range(self.run.start, self.run.stop, length)
        for start in cuts:
            stop = min(start + length, self.run.stop)
            found.append(Segment(start, stop, state.copy(), alone=len(cuts) == 1))
            if stop < self.run.stop:
                for _ in self._steps(start, stop, state):
                    pass
        return found

    def steps(self, segment: Segment) -> list[MeanStep]:
        """The steps of a segment."""
        if segment.kept:
            return segment.kept
        found = list(self._steps(segment.start, segment.stop, segment.state.copy()))
        if segment.alone:
            segment.kept = found
        return found

    def _steps(self, start: int, stop: int, state: MeanState) -> Iterator[MeanStep]:
        rows = self._unroller.stretch(self._trajectory, start, stop)
        for k, unrolled in zip(range(start, stop), self._unroller.steps(start, stop, state.optimizer, rows),
                               strict=True):
            if not unrolled.explained:
                self.unexplained.add(k)
            yield self._mean(k, rows[k], unrolled, state)

    def _mean(self, k: int, theta: Parameters, unrolled: UnrolledStep, state: MeanState) -> MeanStep:
        step = self.run.step(k)
        heard = [name for name in unrolled.linear if name not in unrolled.silent]
        gradient = self._passes.gradient(step, k, theta, heard, self._passes.chosen(k, 0)) if heard else {}
        weight = sum(unrolled.weights)
        self._note_factor(k, unrolled)
        factor: dict[str, Tensor | float] = {
            name: weight * (unrolled.clip if isinstance(unrolled.clip, float) else unrolled.clip[name])
            for name in heard}
        if not self._recorded:
            unrolled = self._preconditioned(k, theta, unrolled, gradient, factor, state)
        if self._sampling.starts_epoch(k):
            state.heard.clear()
            state.moved.clear()
        displacement, earlier = {name: torch.zeros_like(theta[name]) for name in self.run.names}, {}
        for name, rule in unrolled.linear.items():
            key = unrolled.keys[name]
            if unrolled.fresh.get(name) is not None:
                state.momentum[key] = unrolled.fresh[name]  # type: ignore[assignment]
            used = gradient[name] * factor[name] if name in gradient else torch.zeros_like(theta[name])
            displacement[name], after = rule.displacement(theta[name], used, state.momentum.get(key))
            if after is not None:
                state.momentum[key] = after
            if self._sampling.pair and name in gradient:
                earlier[name] = state.moved.get(key, theta[name].new_zeros(()))
                own = theta[name].new_full((), rule.b) if rule.before is None else rule.before(
                    theta[name].new_full((), rule.b))
                heavy = rule.a * state.heard[key] + own if key in state.heard else own
                moved = rule.c + rule.e * heavy
                state.heard[key] = heavy
                state.moved[key] = earlier[name] + rule.sign * factor[name] * (
                    moved if rule.after is None else rule.after(moved))
        return MeanStep(theta, unrolled, gradient, factor, displacement, earlier)

    def _note_factor(self, k: int, unrolled: UnrolledStep) -> None:
        """Sees whether gradients were multiplied by more than a number, or their batch's size.

        Raises:
            RuleError: If the passes of a step were weighed otherwise than by their sizes.
        """
        sizes = [len(batch.columns) for batch in self.run.step(k).batches]
        shares = [w / size for w, size in zip(unrolled.weights, sizes, strict=False)]
        if shares and max(shares) - min(shares) > 1e-4 * max(map(abs, shares)):
            raise RuleError(
                f"The forward passes behind step {k} were weighed otherwise than by their sizes {sizes}, so that its "
                "samples did not count alike, and the noise of such a step is not known. Divide each pass's loss by "
                "the number of all samples of the step."
            )
        if not isinstance(unrolled.clip, float):
            self.clipped = True
            return
        # A loss that is summed, or scaled, is no clipping.
        if not unrolled.linear:
            return
        one, other = unrolled.clip, unrolled.clip / max(sum(sizes), 1)
        if self._factor is None:
            self._factor = one
            self._share = other
        alike = abs(one - self._factor) <= 1e-3 * abs(one) or abs(other - self._share) <= 1e-3 * abs(other)
        self.clipped = self.clipped or not alike

    def _preconditioned(self, k: int, theta: Parameters, unrolled: UnrolledStep, gradient: Parameters,
                        factor: dict[str, Tensor | float], state: MeanState) -> UnrolledStep:
        """The step with the preconditioners that the mean squares of batches would have made."""
        step = self.run.step(k)
        rule = find_rule(step.optimizer)
        hyper = {name: numbers for group, numbers in zip(step.groups, map(as_held, step.groups), strict=True)
                 for name in group["names"]}
        moved = [name for name, linear in unrolled.linear.items()
                 if name in gradient and (linear.before or linear.after) and not hyper[name].get("centered")]
        self.centered = self.centered or any(hyper[name].get("centered") for name in gradient)
        if not moved:
            return unrolled
        squares = self._passes.squares(step, k, theta, moved, gradient, self._sampling.own(k))
        linear = dict(unrolled.linear)
        for name in moved:
            key, own = unrolled.keys[name], linear[name]
            if key not in state.moments:
                # What an optimizer brought along is known after its first step only.
                brought = unrolled.fresh.get(name) is not None
                state.moments[key] = dict(state.optimizer.moments[key]) if brought else rule.initial(
                    hyper[name], theta[name])
            mean = own.direction(theta[name], gradient[name] * factor[name])
            spread = (squares[name] - gradient[name].square()) * factor[name] ** 2
            # A gradient whose direction has the root of the mean square, which is all that moments see.
            seen = own.sign * ((mean.square() + spread).sqrt() - own.coupled * theta[name])
            linear[name] = rule.linear(hyper[name], state.optimizer.age[key], theta[name], seen,
                                       state.momentum.get(key), state.moments[key])
        return replace(unrolled, linear=linear)
