r"""The optimizers that move the recorded parameters.

Each is told apart by itself, because the id of one that is gone may be given to the next, and named by the number of
the first step it made. What is the same for many of its steps, its plan, is looked up anew when its groups change.

States that are not those which its last step left (cleared, restored, edited by hand) follow from no recorded step. An
optimizer that goes on from such states counts as another one, whose states at its first step are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import Tensor

from .numbers import hyperparameters
from .rules import RULES, Rule, rule_name
from .step import Step
from .subject import Subject
from .surroundings import moved_while_frozen


@dataclass
class Plan:
    """What is the same for many steps of an optimizer.

    Attributes:
        optimizer: The optimizer.
        held: The ids of its groups and of their parameters.
        rule: The name of its rule.
        names: For each group the names of the recorded parameters in it.
        frozen: Parameters in it that were frozen when the recording began, by name.
        known: For each group its numbers as they were seen last, and what is recorded of them.
    """

    optimizer: torch.optim.Optimizer
    held: tuple[int, ...]
    rule: str
    names: list[list[str]]
    frozen: dict[str, Tensor]
    known: dict[int, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def group(self, i: int, group: dict[str, Any]) -> dict[str, Any]:
        """The names and numbers of a group, made anew when one of them has changed."""
        seen, plain = self.known.get(i, ({}, {}))
        now = {key: value for key, value in group.items() if key != "params"}
        if any(_may_change(value) for value in now.values()) or now != seen:
            plain = {"names": self.names[i], **hyperparameters(group)}
            self.known[i] = now, plain
        return plain


@dataclass
class Seen:
    """An optimizer that has made a step.

    Attributes:
        optimizer: The optimizer.
        first: The number of its first step.
        words: The names of the states that tell whether others were put in their place.
        left: These states as its last step left them, and how often each had been written to; ``None`` if it made none.
    """

    optimizer: torch.optim.Optimizer
    first: int
    words: tuple[str, str]
    left: tuple[list[Tensor], list[int]] | None = None

    def look(self) -> tuple[list[Tensor], list[int]]:
        """The states as they are, one for each parameter."""
        one, other = self.words
        states = [s[one] if s.get(one) is not None else s.get(other) for s in self.optimizer.state.values()]
        held = [t for t in states if t is not None]
        return held, [t._version for t in held]

    def goes_on(self) -> bool:
        """Whether the states are those that the last step left."""
        if self.left is None:
            return False
        (now, writes), (before, written) = self.look(), self.left
        return writes == written and len(now) == len(before) and all(map(is_, now, before))


def _may_change(value: Any) -> bool:
    """Whether a number may be another one without being another object."""
    return isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(item, Tensor) for item in value))


class Optimizers:
    """The optimizers seen so far.

    Args:
        subject: What is recorded.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._plans: dict[int, Plan] = {}
        self._seen: dict[int, Seen] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def plan(self, optimizer: torch.optim.Optimizer, step: int) -> Plan:
        """The plan of an optimizer that makes a step.

        Raises:
            RecordingError: If it moves a parameter of the model whose rows are not recorded.
        """
        held = tuple(id(p) for group in optimizer.param_groups for p in (*group["params"], group))
        plan = self._plans.get(id(optimizer))
        if plan is None or plan.optimizer is not optimizer or plan.held != held:
            plan = self._plans[id(optimizer)] = self._made(optimizer, held, step)
        for name, p in plan.frozen.items():
            if p.grad is not None:
                raise moved_while_frozen(step, name)
        return plan

    def _made(self, optimizer: torch.optim.Optimizer, held: tuple[int, ...], step: int) -> Plan:
        subject, groups = self._subject, [group["params"] for group in optimizer.param_groups]
        others = [p for group in groups for p in group if subject.name(p) is None]
        frozen = {name: p for p in others if (name := subject.surroundings.frozen(p)) is not None}
        if any(p is q for q in subject.model.parameters() for p in others if subject.surroundings.frozen(p) is None):
            raise moved_while_frozen(step, None)
        names = [[name for p in group if (name := subject.name(p)) is not None] for group in groups]
        return Plan(optimizer, held, rule_name(optimizer), names, frozen)

    def first_step(self, optimizer: torch.optim.Optimizer) -> int | None:
        """The number of the first step since which an optimizer goes on from its own states, or ``None``."""
        seen = self._seen.get(id(optimizer))
        return seen.first if seen is not None and seen.goes_on() else None

    def add(self, optimizer: torch.optim.Optimizer, step: Step) -> None:
        """Takes note of a step that is the first of an optimizer, or the first after its states were replaced."""
        rule = RULES.get(step.optimizer, Rule())
        momentum, *moments = rule.momentum or "", *rule.moments, ""
        # An optimizer that is held keeps its id to itself.
        self._seen[id(optimizer)] = Seen(optimizer, step.owner, (momentum, moments[0]))

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes note of the states that a step has left."""
        seen = self._seen.get(id(optimizer))
        if seen is not None:
            seen.left = seen.look()

    def states(self) -> Iterator[tuple[str, Tensor]]:
        """The states of all optimizers, as ``owner|parameter|name``: a replay needs all, whichever moves first."""
        for seen in self._seen.values():
            for p in (p for group in seen.optimizer.param_groups for p in group["params"]):
                name = self._subject.name(p)
                for key, value in seen.optimizer.state.get(p, {}).items() if name is not None else ():
                    if value is not None:
                        value = torch.as_tensor(value)
                        yield f"{seen.first}|{name}|{key}", value.to_dense() if value.is_sparse else value

    def forget(self) -> None:
        """Lets go of all of them."""
        self._seen.clear()
        self._plans.clear()
