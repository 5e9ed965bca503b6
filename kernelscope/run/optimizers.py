r"""The optimizers that move the recorded parameters.

Each is told apart by itself, because the id of one that is gone may be given to the next, and named by the number of
the first step it made. What is the same for many of its steps, its plan, is looked up anew when its groups change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .rules import hyperparameters, rule_name
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
        if any(isinstance(value, Tensor) for value in now.values()) or now != seen:
            plain = {"names": self.names[i], **hyperparameters(group)}
            self.known[i] = now, plain
        return plain


class Optimizers:
    """The optimizers seen so far.

    Args:
        subject: What is recorded.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._plans: dict[int, Plan] = {}
        self._seen: list[tuple[torch.optim.Optimizer, int]] = []

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
        """The number of the first step of an optimizer, or ``None`` if it has made none."""
        return next((first for seen, first in self._seen if seen is optimizer), None)

    def add(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Takes note of the first step of an optimizer."""
        self._seen.append((optimizer, step))

    def states(self) -> Iterator[tuple[str, Tensor]]:
        """The states of all optimizers, as ``owner|parameter|name``: a replay needs all, whichever moves first."""
        for optimizer, first in self._seen:
            for p in (p for group in optimizer.param_groups for p in group["params"]):
                name = self._subject.name(p)
                for key, value in optimizer.state.get(p, {}).items() if name is not None else ():
                    if value is not None:
                        value = torch.as_tensor(value)
                        yield f"{first}|{name}|{key}", value.to_dense() if value.is_sparse else value

    def forget(self) -> None:
        """Lets go of all of them."""
        self._seen.clear()
        self._plans.clear()
