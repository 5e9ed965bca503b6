r"""Gradients of every sample by every parameter of a module, as factors.

One forward pass of a batch, and one backward pass for each output, give the inputs and output gradients of all uses of
the parameters; their factors are the gradients of all samples. What a network does with its parameters is observed on
three samples at its first call and compared with plain automatic differentiation; a parameter whose gradient does not
come out right by its uses is differentiated by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from ..errors import ModelError
from ..network import Network, Parameters, gradients_of
from .batch import OBSERVED, Batch, count, each_tensor, form, pick, shaken, some
from .factors import Factor, Outer, Rows, merge
from .layout import Layout, observe, same
from .rules import Rule, Seen
from .watching import Habits, Piece, Use, Watch

#: How closely factors must meet plain automatic differentiation, relative to the largest gradient.
AGREEMENT = {torch.float64: 1e-8, torch.float32: 2e-4}

#: Of the samples that are observed, those that are observed a second time.
AGAIN = (2, 0)

#: From outputs and what stands beside them to the numbers that are differentiated, with shape (n, c).
Values = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    """How the gradients of a network are found, for inputs of one form."""

    habits: Habits
    signs: tuple[Any, ...]
    layouts: tuple[tuple[Layout, Layout], ...]
    notes: tuple[str, ...]

    @property
    def elsewhere(self) -> frozenset[str]:
        """The parameters that are differentiated by themselves."""
        return self.habits.elsewhere


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of n samples by each piece of the parameters.

    Attributes:
        values: What was differentiated, with shape (n, c).
        factors: The gradients by piece.
    """

    values: Tensor
    factors: dict[Piece, Factor]


class ModuleGradients:
    """Gradients of a network's outputs for every sample.

    Args:
        network: The network.
        names: The parameters to differentiate by.
        training: The submodules in train mode.
    """

    def __init__(self, network: Network, names: list[str], training: tuple[str, ...] = ()):
        self.network, self.names, self.training = network, list(names), training
        self._plans: dict[Any, Plan] = {}

    # -- what a network does with its parameters ---------------------------------------------------------------------

    @property
    def plans(self) -> list[Plan]:
        """The plans made so far."""
        return list(self._plans.values())

    def plan(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values) -> Plan:
        """How gradients are found for inputs like these; observed once for each form of input."""
        key = form(batch), next(iter(parameters.values())).dtype
        if key not in self._plans:
            self._plans[key] = self._observe(parameters, buffers, some(batch), values)
        return self._plans[key]

    def _observe(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values,
                 again: bool = False) -> Plan:
        """Watches the network until nothing new is learned, then compares with plain automatic differentiation."""
        numbers = torch.tensor(AGAIN)
        habits = Habits()
        notes: dict[str, str] = {}
        first: Tensor | None = None
        while True:
            try:
                watch, explained = self._watched(parameters, buffers, batch, values, habits)
                other, part = self._watched(parameters, buffers, pick(batch, numbers), values, habits)
                if first is None:
                    self._check_alone(explained, part)
                    first = explained.detach()
                if not same(first, explained.detach()):
                    raise RuntimeError("it is broadcast in another way")
            except (RuntimeError, IndexError, TypeError) as error:
                if not habits.spread:
                    raise
                # The module minds that what was one for all is given to each.
                names = {p.name for i in habits.spread for p in watch.uses[i].pieces.values()}
                notes |= dict.fromkeys(names, f"its output is shared by all samples ({str(error).splitlines()[0]})")
                habits = replace(habits, spread=frozenset(), elsewhere=habits.elsewhere | names)
                continue
            signs = tuple(use.sign for use in watch.uses)
            if signs != tuple(use.sign for use in other.uses):
                names = set(self.names)
                notes |= dict.fromkeys(names, "what the network does depends on its inputs")
                return Plan(Habits(frozenset(names)), (), (), _told(notes))
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
            other_plan = None if again else self._observe_shaken(parameters, buffers, batch, values)
            if other_plan is not None:
                return other_plan
            notes |= dict.fromkeys(unclear, "its samples cannot be told apart where it is used")
            return self._without(plan, unclear, parameters, buffers, batch, values, notes)
        wrong = self._disagreeing(plan, parameters, buffers, batch, values)
        if wrong:
            notes |= dict.fromkeys(wrong, "its uses do not give its gradient")
            return self._without(plan, wrong, parameters, buffers, batch, values, notes)
        return plan

    def _check_alone(self, explained: Tensor, part: Tensor) -> None:
        if not self.training and Layout(0) not in observe(explained, part, OBSERVED, torch.tensor(AGAIN)):
            raise ModelError(
                "The outputs of a sample depend on the samples beside it, or on chance, so a sample has no gradient of "
                "its own. Keep statistics of the batch and random numbers out of the network's eval mode."
            )

    def _observe_shaken(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values) -> Plan | None:
        """What is observed at other parameters and inputs; ``None`` if it is not true of the given ones."""
        moved, others = shaken(parameters, batch)
        try:
            plan = self._observe(moved, buffers, others, values, again=True)
            return None if self._disagreeing(plan, parameters, buffers, batch, values) else plan
        except (RuntimeError, IndexError, TypeError, ModelError):
            return None

    def _without(self, plan: Plan, wrong: set[str], parameters: Parameters, buffers: Parameters, batch: Batch,
                 values: Values, notes: dict[str, str]) -> Plan:
        habits = replace(plan.habits, elsewhere=plan.elsewhere | wrong, spread=frozenset(), keep=frozenset())
        rest = [name for name in self.names if name not in habits.elsewhere]
        if not rest or not plan.signs:
            return Plan(Habits(frozenset(self.names)), (), (), _told(notes))
        narrow = ModuleGradients(self.network, rest, self.training)
        inner = narrow._observe(parameters, buffers, batch, values)
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

    def _disagreeing(self, plan: Plan, parameters: Parameters, buffers: Parameters, batch: Batch,
                     values: Values) -> set[str]:
        """The parameters whose gradients by their uses are not those of automatic differentiation."""
        probe = _probe(values)
        found = self._capture(plan, parameters, buffers, batch, probe)
        rows = self._by_name(found, parameters)
        truth = self.plainly(self.names, parameters, buffers, batch, probe)
        limit = AGREEMENT.get(found.values.dtype, AGREEMENT[torch.float32])
        size = max((float(t.abs().max()) for t in truth.values() if t.numel()), default=0.0)
        wrong = set()
        for name, true in truth.items():
            if name in plan.elsewhere or not true.numel():
                continue
            gap = float((rows[name].flatten() - true.flatten()).abs().max())
            own = float(true.abs().max())
            if not gap <= limit * max(own, 1e-3 * size):
                wrong.add(name)
        return wrong

    # -- gradients ---------------------------------------------------------------------------------------------------

    def __call__(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values) -> Gradients:
        """The gradients of ``values(outputs)``, with shape (n, c), of every sample by every piece of the parameters."""
        plan = self.plan(parameters, buffers, batch, values)
        found = self._capture(plan, parameters, buffers, batch, values)
        alone = [name for name in self.names if name in plan.elsewhere]
        if alone:
            rows = self._alone(alone, parameters, buffers, batch, values)
            found.factors.update({Piece(name, 0, parameters[name].numel()): Rows(rows[name]) for name in alone})
        return found

    def rows(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values) -> Parameters:
        """The gradients as rows with shape :math:`(n c, *)` by parameter."""
        found = self(parameters, buffers, batch, values)
        return {name: rows.flatten(0, 1).view(-1, *parameters[name].shape)
                for name, rows in self._by_name(found, parameters).items()}

    def _by_name(self, found: Gradients, parameters: Parameters) -> dict[str, Tensor]:
        n, c = found.values.shape
        rows: dict[str, Tensor] = {}
        for piece, factor in found.factors.items():
            size = parameters[piece.name].numel()
            values = factor.rows()
            if piece.stop - piece.start == size:
                rows[piece.name] = values
            else:
                whole = rows.setdefault(piece.name, values.new_zeros(n, c, size))
                whole[:, :, piece.start:piece.stop] = values
        return {name: rows[name] if name in rows else found.values.new_zeros(n, c, parameters[name].numel())
                for name in self.names}

    def _watched(self, parameters: Parameters, buffers: Parameters, batch: Batch, values: Values,
                 habits: Habits) -> tuple[Watch, Tensor]:
        own = {name: p.detach() for name, p in parameters.items()}
        watch = Watch({name: own[name] for name in self.names}, count(batch), habits)
        module = self.network.module(self.training)
        state = {**self.network.parameters, **own, **{name: b.clone() for name, b in buffers.items()}}
        with torch.enable_grad(), watch:
            outputs = functional_call(module, state, batch.args, batch.kwargs)
        with torch.enable_grad():
            return watch, values(outputs, batch.side)

    def _capture(self, plan: Plan, parameters: Parameters, buffers: Parameters, batch: Batch,
                 values: Values) -> Gradients:
        if not plan.signs:
            with torch.no_grad():
                state = {**self.network.parameters, **parameters, **{name: b.clone() for name, b in buffers.items()}}
                outputs = functional_call(self.network.module(self.training), state, batch.args, batch.kwargs)
                return Gradients(values(outputs, batch.side), {})
        watch, explained = self._watched(parameters, buffers, batch, values, plan.habits)
        if tuple(use.sign for use in watch.uses) != plan.signs:
            raise ModelError(
                "The network uses its parameters in another way for these inputs than for the first three samples, so "
                "their gradients cannot be found together. Pass inputs that take the same branches, in calls of their "
                "own."
            )
        gradients = _backward(explained, watch.uses, plan.layouts)
        parts: dict[Piece, list[Factor]] = {}
        for use, gradient, (inside, outside) in zip(watch.uses, gradients, plan.layouts, strict=True):
            if gradient is None:
                continue
            with torch.no_grad():
                found = use.rule.factors(Seen(use.call, gradient, len(explained), inside, outside))
            for role, piece in use.pieces.items():
                if role in found:
                    whole = replace(piece, turned=False) if piece.turned else piece
                    parts.setdefault(whole, []).append(_turned(found[role], piece.turned))
        with torch.no_grad():
            return Gradients(explained.detach(), {piece: merge(uses) for piece, uses in parts.items()})

    def _alone(self, names: list[str], parameters: Parameters, buffers: Parameters, batch: Batch,
               values: Values) -> Parameters:
        """Rows by parameters whose uses do not give them, with shape (n, c, p)."""
        try:
            found = self._transformed(names, parameters, buffers, batch, values)
        # torch.func reports what it cannot transform by these.
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            return self.plainly(names, parameters, buffers, batch, values)
        # Some operations have transformed gradients that are wrong for some numbers of samples and outputs.
        right = self._adds_up(found, parameters, buffers, batch, values)
        return found if right else self.plainly(names, parameters, buffers, batch, values)

    def _adds_up(self, rows: Parameters, parameters: Parameters, buffers: Parameters, batch: Batch,
                 values: Values) -> bool:
        """Whether a weighted sum of rows is the gradient of the weighted sum of outputs."""
        leaves = {name: parameters[name].detach().clone().requires_grad_() for name in rows}
        state = {**self.network.parameters, **parameters, **leaves, **{name: b.clone() for name, b in buffers.items()}}
        with torch.enable_grad():
            outputs = functional_call(self.network.module(self.training), state, batch.args, batch.kwargs)
            explained = values(outputs, batch.side)
            weights = torch.arange(1, explained.numel() + 1).to(explained).sin().view_as(explained)
            total = (weights * explained).sum()
        for found, true in zip(rows.values(), gradients_of(total, leaves), strict=True):
            sums = torch.tensordot(weights.detach(), found, 2)
            true = torch.zeros_like(sums) if true is None else true.flatten()
            size = torch.tensordot(weights.detach().abs(), found.abs(), 2)
            if not bool(((sums - true).abs() <= AGREEMENT[torch.float32] * size.max()).all()):
                return False
        return True

    def _transformed(self, names: list[str], parameters: Parameters, buffers: Parameters, batch: Batch,
                     values: Values) -> Parameters:
        module = self.network.module(self.training)
        state = {**self.network.parameters, **parameters, **buffers}

        def one(own: Parameters, args: Any, kwargs: Any, side: Any) -> Tensor:
            args, kwargs, side = each_tensor((args, kwargs, side), lambda t: t.unsqueeze(0))
            return values(functional_call(module, {**state, **own}, args, kwargs), side)[0]

        own = {name: parameters[name] for name in names}
        axes = (None, 0, 0, None if batch.side is None else 0)
        found = vmap(jacrev(one), in_dims=axes)(own, *batch)
        return {name: rows.flatten(2) if rows.ndim > 2 else rows.unsqueeze(2) for name, rows in found.items()}

    def plainly(self, names: list[str], parameters: Parameters, buffers: Parameters, batch: Batch,
              values: Values) -> Parameters:
        leaves = {name: parameters[name].detach().clone().requires_grad_() for name in names}
        state = {**self.network.parameters, **parameters, **leaves, **{name: b.clone() for name, b in buffers.items()}}
        with torch.enable_grad():
            outputs = functional_call(self.network.module(self.training), state, batch.args, batch.kwargs)
            explained = values(outputs, batch.side)
            each = explained.flatten().unbind()
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for value in each:
            for (name, p), g in zip(leaves.items(), gradients_of(value, leaves, retain_graph=True), strict=True):
                rows[name].append(torch.zeros_like(p).flatten() if g is None else g.flatten())
        return {name: torch.stack(found).view(*explained.shape, -1) for name, found in rows.items()}


def _layouts(use: Use, twin: Use, spread: bool) -> tuple[list[Layout], list[Layout]]:
    """Where the samples may be in a use's input and output."""
    numbers = torch.tensor(AGAIN)
    inside = observe(use.call.input, twin.call.input, OBSERVED, numbers)
    outside = [Layout(0)] if spread else observe(use.output.detach(), twin.output.detach(), OBSERVED, numbers)
    return inside, outside


def _backward(explained: Tensor, uses: list[Use], layouts: Sequence[tuple[Layout, Layout]]) -> list[Tensor | None]:
    """The gradients of each output, summed over samples, at the output of each use: with shape (c, *)."""
    found: dict[int, Tensor] = {}
    edges, (n, c) = [use.edge for use in uses], explained.shape
    for j in range(c if explained.requires_grad else 0):
        direction = explained.new_zeros(n, c)
        direction[:, j] = 1
        gradients: Sequence[Tensor | None] = torch.autograd.grad(explained, edges, direction, retain_graph=j + 1 < c,
                                                                 allow_unused=True)
        for k, gradient in enumerate(gradients):
            if gradient is None and k in found:
                found[k][j] = 0
            elif gradient is not None and c == 1:
                found[k] = gradient.unsqueeze(0)
            elif gradient is not None:
                if k not in found:
                    found[k] = _room(gradient, c, uses[k].rule, layouts[k][1])
                    found[k][:j] = 0
                found[k][j] = gradient
    return [found.get(k) for k in range(len(uses))]


def _room(gradient: Tensor, c: int, rule: Rule, layout: Layout) -> Tensor:
    """Room for the gradients of c outputs, with shape (c, *), laid out as products will read them."""
    shape = list(gradient.shape)
    place = len(shape) - 1 if rule.features_last else (layout.axis or 0) + 1
    return gradient.new_empty(*shape[:place], c, *shape[place:]).movedim(place, 0)


def _turned(factor: Factor, turned: bool) -> Factor:
    return replace(factor, first=not factor.first) if turned and isinstance(factor, Outer) else factor


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


def _probe(values: Values) -> Values:
    """One number for each sample in place of its outputs, to which each of them adds."""
    def probe(outputs: Any, side: Any) -> Tensor:
        explained = values(outputs, side)
        c = explained.shape[1]
        weights = 1 + torch.arange(c, dtype=explained.dtype, device=explained.device) / max(c, 1)
        return (explained * weights).sum(1, keepdim=True)

    return probe


def _told(notes: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {why}" for name, why in notes.items())
