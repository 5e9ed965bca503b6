r"""Chords as linear functions of their samples.

On a chord of updates :math:`s = 1, \dots, m` the query gradient p and the preconditioners :math:`A, B` are taken as
one. With the coefficients of the rule (:mod:`kernelscope.run.rules`) and the adjoint :math:`N = a_{m+1} M_{m+1}` that
later steps hand back,

.. math::
    M_s = E_s A p + K_s N, \qquad E_s = e_s + a_{s+1} E_{s+1}, \qquad K_s = a_{s+1} K_{s+1}, \qquad K_m = 1,

so that what is done at update s meets :math:`\alpha_s\, A p + \beta_s\, B N` with :math:`\alpha_s = c_s + b_s E_s` and
:math:`\beta_s = b_s K_s`: two directions for the whole chord, and two weights for each visit of a sample. Going
forward, with the momentum :math:`m_0` found,

.. math::
    D = -A\Big(\sum_s \alpha_s d_s + a_1 E_1 m_0\Big) - \sum_s w_s\theta_s, \qquad
    m_m = \sum_s \beta_s d_s + \Big(\prod_s a_s\Big) m_0 ,

(:math:`B` before the sums where there is one, and then c = 0). What the chord has beside D is unattributed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..network import Parameters
from ..run.chords import Chord, lagrange
from ..run.gradient import Tolerance, used_gradient
from ..run.numbers import as_held
from ..run.rules import Diagonal, Hyper, Linear, OneSided, Preconditioner, Rule
from ..run.run import Run
from ..run.step import MicroBatch, Step
from .trajectory import Stretch, between

if TYPE_CHECKING:
    from .training_side import TrainingSide
    from .unrolling import OptimizerState


@dataclass(eq=False)
class Memory:
    r"""The coefficients of one parameter along a chord.

    Attributes:
        linear: Sign, preconditioners; a is that of the first update.
        alpha: :math:`\alpha_s`, 0 at updates that leave the parameter alone.
        beta: :math:`\beta_s`.
        gain: :math:`E_1`.
        carry: :math:`K_1`.
        coupled: :math:`\lambda_s`.
        decoupled: :math:`w_s`.
    """

    linear: Linear
    alpha: Tensor
    beta: Tensor
    gain: float
    carry: float
    coupled: Tensor
    decoupled: Tensor

    @property
    def remembers(self) -> bool:
        """Whether there is momentum."""
        return bool(self.linear.a or self.linear.b)

    @classmethod
    def of(cls, forms: Sequence[Linear | None]) -> Memory:
        """The coefficients from those of each update; ``None`` where the parameter was left alone."""
        count = len(forms)
        alpha, beta, coupled, decoupled = (torch.zeros(count, dtype=torch.float64) for _ in range(4))
        # The factor of the first update is left to whatever comes before it, so the last one meets N as it is.
        gain, carry, later = 0.0, 1.0, 1.0
        for s in range(count - 1, -1, -1):
            form = forms[s]
            if form is not None:
                gain, carry = form.e + later * gain, later * carry
                alpha[s], beta[s] = form.c + form.b * gain, form.b * carry
                coupled[s], decoupled[s] = form.coupled, form.decoupled
                later = form.a
        moved = [form for form in forms if form is not None]
        linear = replace(moved[0], before=_mean([(f.before, f.b) for f in moved]),
                         after=_mean([(f.after, f.c + f.e) for f in moved]), b=max(f.b for f in moved))
        return cls(linear, alpha, beta, gain, carry, coupled, decoupled)


def _mean(parts: list[tuple[Preconditioner, float]]) -> Preconditioner:
    """The mean of preconditioners with their weights."""
    if len(parts) == 1 or parts[0][0] is None:
        return parts[0][0]
    total = sum(weight for _, weight in parts) or 1.0
    first = parts[0][0]
    if isinstance(first, Diagonal):
        return Diagonal(sum(part.values * (weight / total) for part, weight in parts  # type: ignore[arg-type]
                            if isinstance(part, Diagonal)))
    assert isinstance(first, OneSided)
    return OneSided(sum(part.matrix * (weight / total) for part, weight in parts  # type: ignore[arg-type]
                        if isinstance(part, OneSided)), first.left)


@dataclass(eq=False)
class ChordForm:
    r"""A chord as the sweep needs it.

    Attributes:
        memories: The coefficients of each parameter that moved.
        passes: The samples at the nodes.
        weights: For each pass :math:`\sum_s \ell(t_s)\alpha_s / B` and the same of :math:`\beta`, for each group of
            parameters with the same coefficients: (groups, 2, samples).
        groups: The names of the parameters of each group.
        pulled: For each parameter with coupled decay what :math:`\alpha` and :math:`\beta` meet of it.
        shrunk: For each parameter with decoupled decay :math:`\sum_s w_s \theta_s`.
        rate: The learning rate that was fitted, if one was.
    """

    memories: dict[str, Memory]
    passes: list[MicroBatch]
    weights: list[Tensor]
    groups: list[list[str]]
    pulled: dict[str, tuple[Tensor, Tensor]]
    shrunk: Parameters
    rate: float | None = None


class ChordUnroller:
    """Goes along chords, forward, with the optimizer's states.

    Args:
        run: The run of chords.
        side: The training side, which recomputes gradients.
        precision: The precision in which the ledger meets the run.
    """

    def __init__(self, run: Run, side: TrainingSide, precision: torch.dtype):
        self.run, self.side, self.precision = run, side, precision

    def form(self, k: int, chord: Chord, rule: Rule, state: OptimizerState, rows: Stretch,
             keys: dict[str, tuple[int, str]], moved: Parameters) -> tuple[ChordForm, Parameters]:
        """The coefficients of chord k, and what it has beside what they give; ``state`` is advanced."""
        here, there = rows[k], rows[k + 1]
        clips, forms, parts = self._updates(k, chord, rule, state, here, there, keys)
        memories = {name: Memory.of(own) for name, own in forms.items() if any(f is not None for f in own)}
        groups, weights = self._weights(chord, memories, clips, parts)
        found = self._gradients(chord, rows, groups, weights)
        times = torch.arange(chord.updates, dtype=torch.float64) / max(chord.updates, 1)
        form = ChordForm(memories, list(chord.batches), weights, groups, {}, {})
        motion: Parameters = {}
        for name, memory in memories.items():
            # Sums and momenta are let go of as they are used, and gaps take the place of the chord.
            motion[name], momentum = self._displace(name, memory, form, found.pop(name), here, there, times,
                                                    state.momentum.get(keys[name]))
            if memory.remembers:
                state.momentum[keys[name]] = momentum
            if not chord.fits:
                moved[name].sub_(motion.pop(name))
        if chord.fits:
            form.rate = self._fit(form, motion, moved)
        for name, part in motion.items():
            moved[name].sub_(part, alpha=form.rate or 0.0)
        return form, moved

    # -- what the updates were ---------------------------------------------------------------------------------------

    def _updates(self, k: int, chord: Chord, rule: Rule, state: OptimizerState, here: Parameters, there: Parameters,
                 keys: dict[str, tuple[int, str]]) -> tuple[
                     list[float], dict[str, list[Linear | None]], list[list[float]]]:
        """What clipping did to each update, the coefficients of each parameter, and the part of each pass."""
        count = chord.updates
        clips, forms = [1.0] * count, {name: [None] * count for name in keys}
        parts = [by_size(step) for step in chord.inner]
        if chord.averaged:
            return clips, self._averaged(k, chord, rule, state, here, keys), parts
        running = {name: state.momentum.get(key) for name, key in keys.items()}
        clipped = self._is_clipped(k, chord.inner[0], here)
        looks = clipped or bool(rule.moments) or rule.optimizer == "Muon"
        for s, step in enumerate(chord.inner):
            theta = between(here, there, s / count) if s and looks else here
            hyper: dict[str, Hyper] = {name: numbers for group, numbers in zip(
                step.groups, map(as_held, step.groups), strict=True) for name in group["names"]
                if name not in step.without}
            uneven = len({len(batch.columns) for batch in step.batches}) > 1
            short = len(step.batches) != len(chord.inner[0].batches)
            gradient: Parameters = {}
            if looks or uneven or short:
                means = self._means(k, step, theta, list(hyper))
                if uneven:
                    parts[s] = likelier(step, means, [self.run.names.index(name) for name in hyper])
                gradient = {name: torch.stack([part * mean[i] for part, mean in zip(parts[s], means, strict=True)]
                                              ).sum(0) for i, name in enumerate(hyper)}
            if clipped or short:
                size = sum(float((g.double() ** 2).sum()) for g in gradient.values()) ** 0.5
                clips[s] = float(step.norms.norm()) / size if size else 1.0
            for name, numbers in hyper.items():
                key = keys[name]
                g = gradient[name] * clips[s] if looks else theta[name]
                state.age[key] = state.age.get(key, 0) + 1
                if key not in state.moments:
                    state.moments[key] = rule.initial(numbers, theta[name])
                form = rule.linear(numbers, state.age[key], theta[name], g, running[name], state.moments[key])
                forms[name][s] = form  # type: ignore[call-overload]
                if form.a or form.b:
                    # Without a look at the gradients the only question is whether there is momentum.
                    running[name] = form.displacement(theta[name], g, running[name])[1] if looks else theta[name]
        return clips, forms, parts  # type: ignore[return-value]

    def _is_clipped(self, k: int, step: Step, theta: Parameters) -> bool:
        """Whether the first update, whose gradient can be computed again, used another multiple of it."""
        names = [name for group in step.groups for name in group["names"] if name not in step.without]
        means = [self.side.mean_gradient(batch, k, theta, names) for batch in step.batches]
        which = [self.run.names.index(name) for name in names]
        used = used_gradient(step, means, which, Tolerance.of(self.precision, False))
        # Passes that are added up and not divided by their number are a multiple too.
        return not isinstance(used.clip, float) or used.clip != 1.0 or abs(sum(used.weights) - 1) > 1e-6

    def _means(self, k: int, step: Step, theta: Parameters, names: list[str]) -> list[list[Tensor]]:
        return [list(self.side.mean_gradient(batch, k, theta, names)) for batch in step.batches]

    def _averaged(self, k: int, chord: Chord, rule: Rule, state: OptimizerState, here: Parameters,
                  keys: dict[str, tuple[int, str]]) -> dict[str, list[Linear | None]]:
        """The coefficients where each update is given the mean over all samples."""
        forms: dict[str, list[Linear | None]] = {}
        hyper = {name: group for group in chord.inner[0].groups for name in group["names"]}
        for name, key in keys.items():
            group, first = hyper[name], state.age.get(key, chord.begun)
            state.age[key] = first + chord.updates
            after = self._stored(k, group, rule, name)
            if chord.fits and (rule.moments == () or after is None):
                # A rate is fitted to the samples' motion; memory of a constant rate is a part of it.
                forms[name] = [Linear(c=1.0)] * chord.updates
                continue
            numbers = {**group, "lr": 1.0} if chord.fits else group
            own: list[Linear | None] = []
            for s in range(chord.updates):
                begun = state.momentum.get(key) is not None or s > 0
                one = here[name]
                form = rule.linear(numbers, first + s + 1, one, one, one if begun else None, rule.initial(numbers, one))
                own.append(replace(form, after=after))
            forms[name] = own
        return forms

    def _stored(self, k: int, group: Hyper, rule: Rule, name: str) -> Diagonal | None:
        """The preconditioner from the second moments that checkpoints at the ends of the chord hold."""
        found = []
        if rule.moments[:1] == ("exp_avg_sq",):
            for at in (k, k + 1):
                states = self.run.states(at) or {}
                v = next((t for key, t in states.items() if key.endswith(f"|{name}|exp_avg_sq")), None)
                age = next((int(t) for key, t in states.items() if key.endswith(f"|{name}|step")), 0)
                if v is not None and age > 0:
                    beta2 = float(group["betas"][1])
                    v = self.side.to(v)
                    found.append(1 / ((v / (1 - beta2**age)).sqrt() + float(group["eps"])))
        return Diagonal(torch.stack(found).mean(0)) if found else None

    # -- weights of visits -------------------------------------------------------------------------------------------

    def _weights(self, chord: Chord, memories: dict[str, Memory], clips: list[float],
                 parts: list[list[float]]) -> tuple[list[list[str]], list[Tensor]]:
        """The groups of parameters with the same coefficients, and the weights of the samples at each node."""
        alike: dict[bytes, list[str]] = {}
        for name, memory in memories.items():
            alike.setdefault(memory.alpha.numpy().tobytes() + memory.beta.numpy().tobytes(), []).append(name)
        groups = list(alike.values())
        # With shape (groups, 2, updates).
        pairs = torch.stack([torch.stack([memories[g[0]].alpha, memories[g[0]].beta]) for g in groups])
        pairs = pairs * torch.tensor(clips, dtype=torch.float64)
        count = chord.updates
        if chord.averaged:
            at_nodes = pairs @ lagrange(chord.nodes, torch.arange(count) / count).T / self.run.size
            per_node = len(chord.batches) // len(chord.nodes)
            return groups, [at_nodes[:, :, j // per_node, None].expand(-1, -1, len(batch.columns))
                            for j, batch in enumerate(chord.batches)]
        visits = [(s, batch, part) for s, step in enumerate(chord.inner)
                  for batch, part in zip(step.batches, parts[s], strict=True)]
        if not chord.nodes:
            return groups, [(pairs[:, :, s, None] * (part / len(batch.columns))).expand(-1, -1, len(batch.columns))
                            for s, batch, part in visits]
        columns = torch.cat([batch.columns for batch in chord.batches])[:sum(
            len(batch.columns) for batch in chord.batches) // len(chord.nodes)]
        total = torch.zeros(len(chord.nodes), *pairs.shape[:2], len(columns), dtype=torch.float64)
        for s, batch, part in visits:
            place = torch.searchsorted(columns, batch.columns)
            at = lagrange(chord.nodes, torch.tensor([max(batch.at - chord.begun, 0) / count])).flatten()
            amount = pairs[:, :, s] * (part / len(batch.columns))
            for m, share in enumerate(at.tolist()):
                if share:
                    total[m].index_add_(2, place, (amount * share)[:, :, None].expand(-1, -1, len(place)))
        per_node = len(chord.batches) // len(chord.nodes)
        sizes = [len(batch.columns) for batch in chord.batches[:per_node]]
        return groups, [part for node in total for part in node.split(sizes, 2)]

    def _gradients(self, chord: Chord, rows: Stretch, groups: list[list[str]],
                   weights: list[Tensor]) -> dict[str, list[Tensor]]:
        r"""For each parameter :math:`\sum \alpha g` and :math:`\sum \beta g` over all visits."""
        found: dict[str, list[Tensor]] = {}
        for batch, own in zip(chord.batches, weights, strict=True):
            parts = self.side.weighted_gradients(batch, batch.at, rows.seen(batch), groups, own)
            for name, pair in parts.items():
                found[name] = [a + b for a, b in zip(found[name], pair, strict=True)] if name in found else pair
        return found

    # -- the motion --------------------------------------------------------------------------------------------------

    def _displace(self, name: str, memory: Memory, form: ChordForm, sums: list[Tensor], here: Parameters,
                  there: Parameters, times: Tensor, momentum: Tensor | None) -> tuple[Tensor, Tensor]:
        """The motion that a parameter's coefficients give, and the momentum after it."""
        linear = memory.linear
        alpha, beta = (linear.sign * part for part in sums)

        def along(factors: Tensor) -> Tensor:
            return float((factors * (1 - times)).sum()) * here[name] + float((factors * times).sum()) * there[name]

        if bool(memory.coupled.any()):
            pulled = along(memory.coupled * memory.alpha), along(memory.coupled * memory.beta)
            form.pulled[name] = pulled
            alpha, beta = alpha + pulled[0], beta + pulled[1]
        before = linear.before or _same
        alpha, beta = before(alpha), before(beta)
        if momentum is not None:
            alpha = alpha + linear.a * memory.gain * momentum
            beta = beta + linear.a * memory.carry * momentum
        motion = -(linear.after or _same)(alpha)
        if bool(memory.decoupled.any()):
            form.shrunk[name] = along(memory.decoupled)
            motion = motion - form.shrunk[name]
        return motion, beta

    def _fit(self, form: ChordForm, motion: Parameters, moved: Parameters) -> float:
        """The learning rate, from 0 on, that brings the motion of rate 1 closest to the chord; weights take it on."""
        square = sum(float((part.double() ** 2).sum()) for part in motion.values())
        cross = sum(float((part.double() * moved[name].double()).sum()) for name, part in motion.items())
        rate = max(cross / square, 0.0) if square > 0 else 0.0
        form.weights = [own * rate for own in form.weights]
        return rate


def by_size(step: Step) -> list[float]:
    """The part of each pass in a step's gradient where each sample counts alike."""
    counts = [len(batch.columns) for batch in step.batches]
    return [count / sum(counts) for count in counts]


def likelier(step: Step, means: list[list[Tensor]], which: list[int]) -> list[float]:
    """The part of each pass: by its size, or alike, whichever is nearer to what was recorded of their sum.

    Norms were recorded after each pass; the gradients are those of another place nearby, so that ratios are compared.
    """
    recorded = [step.norms if batch.norms is None else batch.norms for batch in step.batches[:-1]]
    wanted = torch.stack([*(norms[which].double() for norms in recorded), step.norms[which].double()])

    def misfit(parts: list[float]) -> float:
        sums = [torch.stack([(part * mean[i]).double() for part, mean in zip(parts, means, strict=True)]).cumsum(0)
                for i in range(len(which))]
        found = torch.stack([t.flatten(1).norm(dim=1).cpu() for t in sums], 1)
        # The last sum may have been clipped; those before it share a scale.
        scales = [(wanted[rows] * found[rows]).sum() / (found[rows] ** 2).sum().clamp(min=1e-300)
                  for rows in (slice(0, -1), slice(-1, None))]
        early, last = (((wanted[rows] - scale * found[rows]) ** 2).sum() / (wanted[rows] ** 2).sum().clamp(min=1e-300)
                       for rows, scale in zip((slice(0, -1), slice(-1, None)), scales, strict=True))
        return float(early + last)

    alike = [1 / len(means)] * len(means)
    return min((by_size(step), alike), key=misfit)


def _same(rows: Tensor) -> Tensor:
    return rows
