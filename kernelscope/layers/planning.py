"""What a network does with its parameters: observed on three samples, and compared with plain differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ModelError
from ..sizes import largest_of
from .batch import OBSERVED, Batch, pick, shaken
from .beside import DEPENDS
from .capture import capture
from .function import Function
from .layout import Layout, observe, same
from .plan import Plan
from .watching import Habits, Use, Watch

#: How closely factors must meet plain automatic differentiation, relative to the largest gradient.
AGREEMENT = {torch.float64: 1e-8, torch.float32: 2e-4}

#: Of the samples that are observed, those that are observed a second time.
AGAIN = (2, 0)


@dataclass(frozen=True, eq=False)
class Planner:
    """Finds out how the gradients of a function by some parameters can be found."""

    function: Function
    names: list[str]

    def plan(self, batch: Batch, again: bool = False) -> Plan:
        """Watches the network until nothing new is learned, then compares with plain automatic differentiation."""
        function, numbers = self.function, torch.tensor(AGAIN)
        habits = Habits()
        notes: dict[str, str] = {}
        first: Tensor | None = None
        while True:
            try:
                watch, explained = function.watched(self.names, batch, habits)
                other, part = function.watched(self.names, pick(batch, numbers), habits)
                if first is None:
                    self._check_alone(explained, part)
                    first = explained.detach()
                if not same(first, explained.detach()):
                    raise RuntimeError("it is broadcast in another way")
            except (RuntimeError, IndexError, TypeError) as error:
                if not habits.spread:
                    return self._nothing(notes, f"the network cannot be watched ({str(error).splitlines()[0]})")
                # The module minds that what was one for all is given to each.
                names = {p.name for i in habits.spread for p in watch.uses[i].pieces.values()}
                notes |= dict.fromkeys(names, f"its output is shared by all samples ({str(error).splitlines()[0]})")
                habits = replace(habits, spread=frozenset(), elsewhere=habits.elsewhere | names)
                continue
            signs = tuple(use.sign for use in watch.uses)
            if signs != tuple(use.sign for use in other.uses):
                return self._nothing(notes, "what the network does depends on its inputs")
            learned = self._learn(watch, other, habits, notes)
            if learned == habits:
                break
            habits = learned
        layouts = [_layouts(a, b, i in habits.spread)
                   for i, (a, b) in enumerate(zip(watch.uses, other.uses, strict=True))]
        plan = Plan(habits, signs, tuple((inside[0], outside[0]) for inside, outside in layouts), _told(notes))
        unclear = {piece.name for use, sides in zip(watch.uses, layouts, strict=True) if max(map(len, sides)) > 1
                   for piece in use.pieces.values()}
        if unclear:
            # All entries are the same where samples and positions share an axis, as those of blank samples are.
            other_plan = None if again else self._observe_shaken(batch)
            if other_plan is not None:
                return other_plan
            notes |= dict.fromkeys(unclear, "its samples cannot be told apart where it is used")
            return self._without(plan, unclear, batch, notes)
        wrong = self._disagreeing(plan, batch)
        if wrong:
            notes |= dict.fromkeys(wrong, "its uses do not give its gradient")
            return self._without(plan, wrong, batch, notes)
        return plan

    def _nothing(self, notes: dict[str, str], why: str) -> Plan:
        """The plan by which each sample is differentiated by itself."""
        return Plan(Habits(frozenset(self.names)), (), (), _told(notes | dict.fromkeys(self.names, why)))

    def _check_alone(self, explained: Tensor, part: Tensor) -> None:
        if not self.function.training and Layout(0) not in observe(explained, part, OBSERVED, torch.tensor(AGAIN)):
            raise ModelError(DEPENDS)

    def _observe_shaken(self, batch: Batch) -> Plan | None:
        """What is observed at other parameters and inputs; ``None`` if it is not true of the given ones."""
        moved, others = shaken(self.function.parameters, batch)
        try:
            plan = Planner(replace(self.function, parameters=moved), self.names).plan(others, again=True)
            return None if self._disagreeing(plan, batch) else plan
        except (RuntimeError, IndexError, TypeError, ModelError):
            return None

    def _without(self, plan: Plan, wrong: set[str], batch: Batch, notes: dict[str, str]) -> Plan:
        habits = replace(plan.habits, elsewhere=plan.elsewhere | wrong, spread=frozenset(), keep=frozenset())
        rest = [name for name in self.names if name not in habits.elsewhere]
        if not rest or not plan.signs:
            return Plan(Habits(frozenset(self.names)), (), (), _told(notes))
        inner = Planner(self.function, rest).plan(batch)
        return Plan(replace(inner.habits, elsewhere=inner.elsewhere | habits.elsewhere), inner.signs, inner.layouts,
                    tuple(dict.fromkeys((*_told(notes), *inner.notes))))

    def _learn(self, watch: Watch, other: Watch, habits: Habits, notes: dict[str, str]) -> Habits:
        elsewhere, spread, keep = set(habits.elsewhere), set(habits.spread), set(habits.keep)
        for name in (watch.elsewhere | other.elsewhere) - elsewhere:
            notes[name] = "it is used by an operation without a rule"
            elsewhere.add(name)
        for name in _overlapping(watch.uses) - elsewhere:
            notes[name] = "parts of it that overlap are used"
            elsewhere.add(name)
        if elsewhere != habits.elsewhere:
            # Without these the uses are counted anew.
            return Habits(frozenset(elsewhere))
        for i, (use, twin) in enumerate(zip(watch.uses, other.uses, strict=True)):
            if use.call.input._version != use.version and i not in keep:
                keep.add(i)
                continue
            inside, outside = _layouts(use, twin, i in spread)
            if not inside or not outside or outside == [Layout(None)]:
                if outside == [Layout(None)]:
                    spread.add(i)
                    continue
                names = {piece.name for piece in use.pieces.values()}
                notes |= dict.fromkeys(names, "its samples cannot be told apart where it is used")
                return Habits(habits.elsewhere | names)
        return Habits(frozenset(elsewhere), frozenset(spread), frozenset(keep))

    def _disagreeing(self, plan: Plan, batch: Batch) -> set[str]:
        """The parameters whose gradients by their uses are not those of automatic differentiation."""
        probe = self.function.probed()
        try:
            found = capture(probe, plan, self.names, batch)
            # Of large parameters one sample's gradients are held at a time, and one parameter's rows beside them.
            samples = [found.of(i) for i in range(len(found.values))]
            gaps, sizes = dict.fromkeys(self.names, 0.0), dict.fromkeys(self.names, 0.0)
            for one, truth in zip(samples, probe.one_by_one(self.names, batch)[1], strict=True):
                for name in self.names:
                    true = truth.pop(name)
                    sizes[name] = _larger(sizes[name], largest_of(true))
                    if name not in plan.elsewhere:
                        row = one.by_name([name], probe.parameters)[name].flatten()
                        gaps[name] = _larger(gaps[name], largest_of(row - true))
                    del true
        except RuntimeError:
            # Uses whose gradients do not even have one shape.
            return set(self.names) - plan.elsewhere
        limit = AGREEMENT.get(found.values.dtype, AGREEMENT[torch.float32])
        size = max(sizes.values(), default=0.0)
        return {name for name in self.names if name not in plan.elsewhere
                and not gaps[name] <= limit * max(sizes[name], 1e-3 * size)}


def _larger(a: float, b: float) -> float:
    """The larger of two numbers, and NaN beside NaN."""
    return b if not b <= a else a


def _layouts(use: Use, twin: Use, spread: bool) -> tuple[list[Layout], list[Layout]]:
    """Where the samples may be in a use's input and output."""
    numbers = torch.tensor(AGAIN)
    inside = observe(use.call.input, twin.call.input, OBSERVED, numbers)
    outside = [Layout(0)] if spread else observe(use.output.detach(), twin.output.detach(), OBSERVED, numbers)
    return inside, outside


def _overlapping(uses: list[Use]) -> set[str]:
    """The parameters of which two parts are used that share entries and are not the same."""
    spans: dict[str, set[tuple[int, int]]] = {}
    for use in uses:
        for piece in use.pieces.values():
            spans.setdefault(piece.name, set()).add((piece.start, piece.stop))
    wrong = set()
    for name, parts in spans.items():
        ordered = sorted(parts)
        if any(before[1] > after[0] for before, after in zip(ordered, ordered[1:], strict=False)):
            wrong.add(name)
    return wrong


def _told(notes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {why}" for name, why in notes.items())
