r"""Gradients of every sample by every parameter of a module, as factors.

One forward pass of a batch, and one backward pass for each output, give the inputs and output gradients of all uses of
the parameters; their factors are the gradients of all samples. What a network does with its parameters is observed on
three samples at its first call and compared with plain automatic differentiation; a parameter whose gradient does not
come out right by its uses is differentiated by itself.
"""

from __future__ import annotations

import copy
from typing import Any

from ..errors import ModelError
from ..network import Parameters
from .alone import alone
from .batch import Batch, form, some
from .capture import Gradients, capture
from .factors import Rows
from .function import Function
from .plan import Plan
from .planning import Planner
from .watching import Habits, Piece


class ModuleGradients:
    """Gradients of a function of a network for every sample.

    Args:
        function: The network at its parameters, and what is taken from its outputs.
        names: The parameters to differentiate by.
    """

    def __init__(self, function: Function, names: list[str]):
        self.function, self.names = function, list(names)
        self._plans: dict[Any, Plan] = {}

    def at(self, function: Function) -> ModuleGradients:
        """The gradients at other parameters; what was observed of the network's ways is true of both."""
        other = copy.copy(self)
        other.function = function
        return other

    @property
    def notes(self) -> tuple[str, ...]:
        """The parameters that are differentiated by themselves, each with the reason."""
        return tuple(dict.fromkeys(note for plan in self._plans.values() for note in plan.notes))

    @property
    def by_uses(self) -> bool:
        """Whether a gradient was found from the uses of a parameter, and not by differentiating samples alone."""
        return any(plan.signs for plan in self._plans.values())

    def plan(self, batch: Batch) -> Plan:
        """How gradients are found for inputs like these; observed once for each form of input."""
        key = form(batch)
        if key not in self._plans:
            self._plans[key] = Planner(self.function, self.names).plan(some(batch))
        return self._plans[key]

    def give_up(self, batch: Batch) -> None:
        """From now on differentiates samples like these by themselves."""
        plan = self._plans[form(batch)]
        notes = (f"{name}: samples are not where the first three of them were" for name in self.names)
        self._plans[form(batch)] = Plan(Habits(frozenset(self.names)), (), (), (*plan.notes, *notes))

    def __call__(self, batch: Batch) -> Gradients:
        """The gradients of every sample by every piece of the parameters.

        Raises:
            OtherUses: If the network does not do with these samples what it did with the first three.
            ModelError: If a sample depends on those beside it.
        """
        plan = self.plan(batch)
        found = capture(self.function, plan, self.names, batch)
        rest = [name for name in self.names if name in plan.elsewhere]
        if rest:
            rows = alone(self.function, rest, batch)
            found.factors.update({Piece(name, 0, self.function.parameters[name].numel()): Rows(rows[name])
                                  for name in rest})
        return found

    def rows(self, batch: Batch) -> Parameters:
        """The gradients as rows with shape (n, c, p) by parameter."""
        return self(batch).by_name(self.names, self.function.parameters)

    def rows_anyway(self, batch: Batch) -> Parameters:
        """The rows; of samples that cannot be found together, one after the other, each beside all others."""
        try:
            return self.rows(batch)
        except ModelError:
            return self.function.plainly(self.names, batch)
