"""Functions put in the place of others, wherever a program has named them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

#: Modules that keep the function they have: torch calls its own, and what this package compares is the original.
KEPT = ("torch", "kernelscope")


class Instead:
    """Other functions in the place of some of a module's, and of every name that was imported from it before.

    ``from torch.nn.functional import cross_entropy`` gives a module a name of its own, which a change of
    ``torch.nn.functional`` does not reach. Names are given back by :meth:`undo`; those that were given another value
    meanwhile are left as they are.

    Args:
        home: The module.
        others: The function to put in the place of each, by its name there.
    """

    def __init__(self, home: ModuleType, others: Mapping[str, Any]):
        originals = {id(getattr(home, name)): (getattr(home, name), other) for name, other in others.items()}
        self._done: list[tuple[dict[str, Any], str, Any, Any]] = []
        for names in [vars(home), *(vars(module) for module in list(sys.modules.values()) if _is_foreign(module))]:
            for name, value in list(names.items()):
                if id(value) in originals:
                    original, other = originals[id(value)]
                    self._done.append((names, name, original, other))
                    names[name] = other

    def undo(self) -> None:
        """Gives every name its function back."""
        for names, name, original, other in self._done:
            if names.get(name) is other:
                names[name] = original
        self._done = []


def _is_foreign(module: Any) -> bool:
    return isinstance(module, ModuleType) and module.__name__.partition(".")[0] not in KEPT
