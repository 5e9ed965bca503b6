"""How the gradients of a network are found, once it was observed."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import ModelError
from .layout import Layout
from .watching import Habits

#: What is said where samples cannot be taken together.
OTHER = ("The network uses its parameters in another way for these inputs than for the first three samples, so their "
         "gradients cannot be found together. Pass inputs that take the same branches, in calls of their own.")


class OtherUses(ModelError):
    """A network does not do with some samples what was observed of it on others."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How the gradients of a network are found, for inputs of one form.

    Attributes:
        habits: What was learned about the network.
        signs: What must be the same of each use when the network is called again.
        layouts: Where the samples stand in the input and in the output of each use.
        notes: The parameters that are differentiated by themselves, each with the reason.
        sizes: The numbers of samples in the batches that were checked.
    """

    habits: Habits
    signs: tuple[object, ...]
    layouts: tuple[tuple[Layout, Layout], ...]
    notes: tuple[str, ...]
    sizes: set[int] = field(default_factory=set)

    @property
    def elsewhere(self) -> frozenset[str]:
        """The parameters that are differentiated by themselves."""
        return self.habits.elsewhere
