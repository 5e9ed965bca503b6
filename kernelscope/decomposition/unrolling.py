r"""Each recorded step as a linear function of its samples.

Going forward through the run, the gradients are recomputed at the recorded parameters, the optimizer's states follow
from them, and the rule gives the coefficients of each step. The step so explained is compared with the one that was
recorded: what differs is rounding if it is as small as the precision allows, and unattributed if it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..network import Parameters
from ..run.chords import Chord
from ..run.gradient import Tolerance, used_gradient
from ..run.numbers import as_held, rounding
from ..run.rules import Hyper, Linear, Rule, State, find_rule
from ..run.run import Run
from ..run.step import MicroBatch, Step
from ..sizes import norm_of
from .aside import Aside
from .chords import ChordForm, ChordUnroller
from .non_finite import refuse_non_finite
from .training_side import TrainingSide
from .trajectory import Stretch, Trajectory

#: A gradient is cancelled that is smaller than this share of the gradients of the groups it is made of.
CANCELLED = 1e-5

#: How a chord is marked: what is not known of it is not the fault of a rule.
CHORD = "chord"

#: An optimizer, named by its first step, and a parameter it moves.
Key = tuple[int, str]


@dataclass
class OptimizerState:
    """The states of all optimizers before a step; the tensors are never changed in place.

    Attributes:
        momentum: m, where there is one.
        moments: The states behind the preconditioners.
        age: The number of steps made.
        heir: For an optimizer that went on from the states of an earlier one, that earlier one.
    """

    momentum: dict[Key, Tensor] = field(default_factory=dict)
    moments: dict[Key, dict[str, Tensor]] = field(default_factory=dict)
    age: dict[Key, int] = field(default_factory=dict)
    heir: dict[Key, Key] = field(default_factory=dict)

    def copy(self) -> OptimizerState:
        """A state that can be advanced without changing this one."""
        moments = {key: dict(states) for key, states in self.moments.items()}
        return OptimizerState(dict(self.momentum), moments, dict(self.age), dict(self.heir))


@dataclass(frozen=True, eq=False)
class Before:
    """What a rule found as it moved a parameter.

    Attributes:
        hyper: The scalars of the parameter's group.
        age: The number of steps the parameter has made, this one included.
        gradient: The gradient used.
        momentum: The momentum before the step.
        moments: The states behind the preconditioners before the step.
    """

    hyper: Hyper
    age: int
    gradient: Tensor
    momentum: Tensor | None
    moments: State


@dataclass(eq=False)
class UnrolledStep:
    r"""A step and its coefficients.

    Attributes:
        linear: The coefficients of each parameter that the rule moved.
        weights: The weight of each forward pass in the gradient.
        clip: What clipping multiplied the gradient by: a number, or a tensor for each parameter.
        gap: For each parameter the recorded step minus the explained one.
        explained: Whether the gap is rounding.
        fresh: The momentum that parameters held before this step without any recorded step behind it.
        keys: For each parameter moved, under which key its momentum is carried.
        silent: The parameters whose gradient was nothing but round-off, which counts as nought, or was kept at nought.
        led: Whether the gradient was that of the recorded loss, here and at the earlier steps of the optimizer;
            ``None`` where no rule is used.
        turned: Whether it is the step that the negative gradients, here and before, would have made.
        restored: Whether it went on from a momentum that is not the one which the steps before it left.
        cancelled: The parameters whose gradient is next to nothing beside those of the groups it is made of, where the
            rule divides by its size: such groups are told together.
        before: What the rule found at each parameter that it moved, where that is kept.
        chord: The coefficients of a chord, which goes over several updates.
    """

    linear: dict[str, Linear]
    weights: list[float]
    clip: float | dict[str, Tensor]
    gap: dict[str, Tensor]
    explained: bool
    fresh: dict[str, Tensor | None]
    keys: dict[str, Key]
    silent: frozenset[str] = frozenset()
    led: bool | str | None = True
    turned: bool = False
    restored: bool = False
    cancelled: frozenset[str] = frozenset()
    before: dict[str, Before] = field(default_factory=dict)
    chord: ChordForm | None = None


class Unroller:
    """Goes forward through a run and unrolls its steps.

    Args:
        run: The run.
        side: The training side, which recomputes gradients.
        displacement: Whether no rule is used, so that every step is a gap.
        groups: The group of each sample, with shape (n,), if it is asked whether groups cancel.
        keeping: Whether each step keeps what its rule found.
    """

    def __init__(self, run: Run, side: TrainingSide, displacement: bool, groups: Tensor | None = None,
                 keeping: bool = False):
        self.run = run
        self.keeping = keeping
        self.groups = groups
        self.side = side
        self.displacement = displacement
        # Whether a parameter is without effect is a matter of the network's structure, and asked once for each mode.
        self._silent: dict[tuple[str, tuple[str, ...]], bool] = {}
        # The first step of each optimizer whose gradient was another one; its momentum carries it on.
        self._led_astray: dict[int, int] = {}
        # Whether low-precision arithmetic was seen to round here as it did in training.
        self._rounds_alike = False
        # A ledger in float32 meets a run in float64 to float32 only.
        self.precision = max(run.precision, side.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        self._chords = ChordUnroller(run, side, self.precision)
        if not displacement:
            for name in sorted({run.step(k).optimizer for k in range(run.start, run.stop)}):
                find_rule(name)

    def stretch(self, trajectory: Trajectory, start: int, stop: int, aside: Aside | None = None) -> Stretch:
        """The parameters that the steps ``start`` to ``stop - 1`` began and ended at, and took gradients at."""
        first = min([start, *(batch.at for k in range(start, stop) for batch in self.run.step(k).batches)])
        return trajectory.stretch(first, stop, aside)

    def steps(self, start: int, stop: int, state: OptimizerState, rows: Stretch) -> Iterator[UnrolledStep]:
        """Unrolls the steps ``start`` to ``stop - 1`` at the parameters ``rows``; ``state`` is advanced."""
        for k in range(start, stop):
            here, there = rows[k], rows[k + 1]
            moved = {name: there[name] - here[name] for name in self.run.names}
            del there
            if self.displacement:
                yield UnrolledStep({}, [], 1.0, moved, False, {}, {}, led=None)
            elif isinstance(step := self.run.step(k), Chord):
                yield self._along(k, step, state, rows, moved)
            else:
                at = [rows[batch.at] for batch in self.run.step(k).batches]
                yield self._unroll(k, self.run.step(k), state, here, at, moved, rows)

    def _along(self, k: int, chord: Chord, state: OptimizerState, rows: Stretch, moved: Parameters) -> UnrolledStep:
        """A chord as a linear function of its samples, with what is left of it as its gap."""
        rule = find_rule(chord.optimizer)
        fresh = self._take_states(k, chord, rule, state)
        keys = {name: _key(chord, name, state) for group in chord.groups for name in group["names"]
                if any(name not in update.without for update in chord.inner or [chord])}
        form, gap = self._chords.form(k, chord, rule, state, rows, keys, moved)
        linear = {name: memory.linear for name, memory in form.memories.items()}
        return UnrolledStep(linear, [], 1.0, gap, False, fresh, keys, led=CHORD, chord=form)

    def _unroll(self, k: int, step: Step, state: OptimizerState, theta: Parameters, at: list[Parameters],
                moved: Parameters, rows: Stretch) -> UnrolledStep:
        rule = find_rule(step.optimizer)
        moved_before = {name for _, name in state.age}
        fresh = self._take_states(k, step, rule, state)
        restored = any(found is not None and name in moved_before and bool(found.any())
                       for name, found in fresh.items())
        keys: dict[str, Key] = {}
        hyper = {name: numbers for group, numbers in zip(step.groups, map(as_held, step.groups), strict=True)
                 for name in group["names"] if name not in step.without}
        moving = list(hyper)
        if not moving:
            return UnrolledStep({}, [], 1.0, moved, not any(bool(gap.any()) for gap in moved.values()), {}, {})
        means = [self.side.mean_gradient(batch, k, parameters, moving)
                 for batch, parameters in zip(step.batches, at, strict=True)]
        for j, (batch, parameters) in enumerate(zip(step.batches, at, strict=True)):
            refuse_non_finite(self.side, batch, k, parameters, means[j], moving)
        which = [self.run.names.index(name) for name in moving]
        autocast = any(batch.autocast for batch in step.batches)
        used = used_gradient(step, means, which, Tolerance.of(self.precision, autocast))
        still = frozenset(moving[i] for i in used.still)
        del means
        doubtful = self._doubtful(step, moving, which, used.gradient)
        silent = frozenset(name for name in doubtful if self._is_silent(k, step, at, name))
        cancelled_by = list(used.gradient) if self.groups is not None else []
        linear: dict[str, Linear] = {}
        moving_by, gap, rounded = _norm(moved), moved, {}
        kept: dict[str, Before] = {}
        for i, name in enumerate(moving):
            # Each gradient is let go of as soon as it has been used, and gaps take the place of their motion.
            gradient, used.gradient[i] = used.gradient[i], torch.empty(0)
            if name in silent:
                gradient = torch.zeros_like(gradient)
            key = keys[name] = _key(step, name, state)
            state.age[key] = state.age.get(key, 0) + 1
            if key not in state.moments:
                state.moments[key] = rule.initial(hyper[name], theta[name])
            momentum = state.momentum.get(key)
            if self.keeping:
                kept[name] = Before(hyper[name], state.age[key], gradient, momentum, dict(state.moments[key]))
            linear[name] = rule.linear(hyper[name], state.age[key], theta[name], gradient, momentum,
                                       state.moments[key])
            low = rule.rounded(hyper[name], theta[name], gradient, momentum)
            if low is not None and name not in silent:
                rounded[name] = low - moved[name]
            gap[name], after = linear[name].beside(moved[name], theta[name], gradient, momentum)
            if after is not None:
                state.momentum[key] = after
            if name in rounded:
                rounded[name] += gap[name]
        clip = used.clip if isinstance(used.clip, float) else dict(zip(moving, used.clip, strict=True))
        missing = _norm({n: gap[n] for n in gap if n not in silent})
        coarse = max(rule.tolerance, *(rounding(group) for group in step.groups))
        limit = _rounding(moving_by, _norm({n: theta[n] for n in gap}), self.precision, coarse, autocast)
        close = missing <= limit
        if rounded and not close:
            close = self._is_rounded(_norm({n: gap[n] - rounded.get(n, 0.0) for n in gap if n not in silent}),
                                     _norm(rounded), limit)
        opposite = not close and used.met and _norm(
            {n: self._turned(n, rows[k + 1][n] - theta[n], gap[n], linear.get(n), theta)
             for n in gap if n not in silent}) <= limit
        if missing <= 1e-5 * moving_by and not silent:
            # Of so small a gap seven digits are enough, and it is held for every step.
            gap = {name: part.float() for name, part in gap.items()}
        if not used.met and not close:
            self._led_astray[step.owner] = min(k, self._led_astray.get(step.owner, k))
        led = k < self._led_astray.get(step.owner, k + 1)
        return UnrolledStep(linear, used.weights, clip, gap, close, fresh, keys, silent | still, led,
                            opposite, restored, self._cancelled(k, step, at, linear, cancelled_by, moving), kept)

    def left_alike(self, ends: OptimizerState, begins: OptimizerState, start: int, stop: int) -> bool:
        """Whether stored momenta are those that the steps ``start`` to ``stop - 1`` have left, up to rounding."""
        autocast = any(batch.autocast for k in range(start, stop) for batch in self.run.step(k).batches)
        relative = 0.1 if autocast else {torch.float64: 1e-9, torch.float32: 1e-3}.get(self.precision, 0.1)
        missed, whole = 0.0, 0.0
        for key, value in begins.momentum.items():
            left = ends.momentum.get(ends.heir.get(key, key))
            missed += float((value if left is None else value - left).double().norm()) ** 2
            whole += float(value.double().norm()) ** 2
        return missed <= relative**2 * whole

    @staticmethod
    def _turned(name: str, moved: Tensor, gap: Tensor, linear: Linear | None, theta: Parameters) -> Tensor:
        """What is left of a step beside that of the negative gradients."""
        if linear is None:
            return moved
        # Moments are even in the gradients and momenta odd, so all but decay turns round with them.
        return 2 * moved - gap + 2 * linear.decoupled * theta[name]

    def _is_rounded(self, missing: float, rounded: float, limit: float) -> bool:
        """Whether a step misses its low-precision form by no more than can be rounding.

        On the machine that trained in float64 the low precision rounds in the same way to the last digit; from another
        precision a few numbers fall on the other side of a half. Another machine rounds as much, but elsewhere.
        """
        few = 0.0 if self.precision == torch.float64 else 1 / 8
        if missing <= limit + few * rounded:
            self._rounds_alike = True
        return missing <= limit + (few if self._rounds_alike else 2.0) * rounded

    def _cancelled(self, k: int, step: Step, at: list[Parameters], linear: dict[str, Linear], gradients: list[Tensor],
                   moving: list[str]) -> frozenset[str]:
        r"""The parameters with :math:`|\sum_g g_g| \ll \sum_g |g_g|` over groups g, which a preconditioner blows up."""
        if self.groups is None:
            return frozenset()
        total = float(step.norms.norm())
        sizes = {name: norm_of(gradient) for name, gradient in zip(moving, gradients, strict=True)}
        small = [name for name, size in sizes.items() if linear[name].after is not None and size <= CANCELLED * total]
        found: dict[str, float] = dict.fromkeys(small, 0.0)
        for batch, parameters in zip(step.batches, at, strict=True) if small else ():
            members = self.groups[batch.columns]
            for name, rows in self.side.rows(batch, k, parameters, small).items():
                parts = [rows[members.to(rows.device) == g].sum(0) / len(rows) for g in members.unique().tolist()]
                found[name] += sum(float(part.norm()) for part in parts)
        return frozenset(name for name in small if found[name] > 0 and sizes[name] <= CANCELLED * found[name])

    def _doubtful(self, step: Step, moving: list[str], which: list[int], gradients: list[Tensor]) -> list[str]:
        """The parameters whose whole gradient may be nothing but round-off.

        A gradient that is small and real is met again when it is computed again; round-off is not.
        """
        total = float(step.norms.norm())
        doubtful = []
        for name, i, gradient in zip(moving, which, gradients, strict=True):
            recorded, again = float(step.norms[i]), norm_of(gradient)
            small = recorded <= 32 * torch.finfo(self.precision).eps * total
            nought = recorded <= 32 * torch.finfo(torch.float64).eps * total
            if max(recorded, again) > 0 and (nought or (small and abs(again - recorded) > 0.1 * recorded)):
                doubtful.append(name)
        return doubtful

    def _is_silent(self, k: int, step: Step, at: list[Parameters], name: str) -> bool:
        """Whether no sample's loss depends on the parameter, as on a bias before batch normalisation.

        An optimizer that divides by the size of the gradient makes whole steps of such round-off. Where samples have
        gradients of their own that cancel, each keeps its share.
        """
        kind = name, step.batches[0].training
        if kind not in self._silent:
            limit = 256 * torch.finfo(self.side.dtype).eps * float(step.norms.norm())
            self._silent[kind] = all(self.side.largest_gradient(batch, k, parameters, name) <= limit
                                     for batch, parameters in zip(step.batches, at, strict=True))
        return self._silent[kind]

    def _take_states(self, k: int, step: Step, rule: Rule, state: OptimizerState) -> dict[str, Tensor | None]:
        """Takes over stored states where no recorded step explains them; returns the momentum so introduced."""
        fresh: dict[str, Tensor | None] = {}
        new = [name for group in step.groups for name in group["names"]
               if name not in step.without and _key(step, name, state) not in state.age]
        stored = self.run.states(step.owner) if new else None
        for name in new:
            # Numbers stay as the optimizer keeps them: some are float32 whatever the parameters are.
            own = {key.rpartition("|")[2]: value if key.rpartition("|")[2] in rule.scalars else self.side.to(value)
                   for key, value in (stored or {}).items() if key.rpartition("|")[0] == f"{step.owner}|{name}"}
            momentum = own.get(rule.momentum) if rule.momentum else None
            before = _before(name, state) if step.owner in self.run.restarts else None
            if before is not None and _continues(rule, state, before, own):
                # The loop went on with the states it had: the chain of recorded steps is whole.
                state.heir[step.owner, name] = before
                continue
            fresh[name] = momentum
            if not own:
                continue
            key = step.owner, name
            if momentum is not None:
                state.momentum[key] = momentum
            known = {word: own[word] for word in (*rule.moments, *rule.scalars) if word in own}
            if known:
                state.moments[key] = known
            # SGD counts no steps; a buffer tells that there was one.
            state.age[key] = int(own["step"]) if "step" in own else 1
        return fresh


def stored_state(run: Run, k: int, side: TrainingSide) -> OptimizerState:
    """The states of all optimizers before step k as the recording holds them, at one of ``run.anchors``."""
    state = OptimizerState()
    for word, value in (run.states(k) or {}).items():
        owner, _, rest = word.partition("|")
        name, _, kind = rest.rpartition("|")
        key, rule = (int(owner), name), find_rule(run.step(int(owner)).optimizer)
        # SGD counts no steps; a buffer tells that there was one.
        state.age.setdefault(key, 1)
        if kind == "step":
            state.age[key] = int(value)
        elif kind == rule.momentum:
            state.momentum[key] = side.to(value)
        elif kind in rule.moments or kind in rule.scalars:
            # Numbers stay as the optimizer keeps them: some are float32 whatever the parameters are.
            state.moments.setdefault(key, {})[kind] = value if kind in rule.scalars else side.to(value)
    return state


def _key(step: Step, name: str, state: OptimizerState) -> Key:
    return state.heir.get((step.owner, name), (step.owner, name))


def _before(name: str, state: OptimizerState) -> Key | None:
    """The optimizer that moved this parameter last."""
    owners = [owner for owner, moved in state.age if moved == name]
    return (max(owners), name) if owners else None


def _continues(rule: Rule, state: OptimizerState, before: Key, stored: dict[str, Tensor]) -> bool:
    """Whether stored states are those that the steps before have left."""
    left: dict[str, Tensor | None] = {**state.moments.get(before, {}), rule.momentum or "": state.momentum.get(before)}
    return (int(stored.get("step", state.age[before])) == state.age[before]
            and all(_alike(value, stored.get(word)) for word, value in left.items()))


def _alike(recomputed: Tensor | None, stored: Tensor | None) -> bool:
    if recomputed is None or stored is None:
        return recomputed is stored
    return float((recomputed - stored).norm()) <= 1e-3 * float(stored.norm())


def _norm(parts: Parameters) -> float:
    return sum(norm_of(t) ** 2 for t in parts.values()) ** 0.5


def _rounding(step: float, size: float, dtype: torch.dtype, coarse: float, autocast: bool) -> float:
    """The largest gap that the precision of the training can explain, for a step and parameters of these norms."""
    # Gradients that nearly cancel, or are divided by their own size, lose digits. Steps of convolutions, deep networks
    # and layer norms under Adam and its kin were seen to differ by 1.5e-4 in float32, beyond what storing parameters
    # rounds off, and by 2e-14 in float64.
    relative = 0.1 if autocast else {torch.float64: 1e-11, torch.float32: 1e-3}.get(dtype, 0.1)
    return 16 * torch.finfo(dtype).eps * size + max(relative, coarse) * step


def sample_weights(step: UnrolledStep, batch: MicroBatch, j: int) -> float:
    """How much one sample of forward pass j weighs in the step's gradient."""
    return step.weights[j] / len(batch.columns)
