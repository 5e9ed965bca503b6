"""One step between two parameter vectors."""

from __future__ import annotations

import torch

from ..network import Parameters


class Stride(tuple[Parameters, Parameters]):
    """The parameters at both ends of a step, and what all parts ask of them, computed once."""

    def __new__(cls, here: Parameters, there: Parameters) -> Stride:  # noqa: D102
        return super().__new__(cls, (here, there))

    @property
    def here(self) -> Parameters:
        """The parameters before the step."""
        return self[0]

    @property
    def there(self) -> Parameters:
        """The parameters after it."""
        return self[1]

    def moved(self, names: list[str]) -> Parameters:
        """By how much the step moved them."""
        if not hasattr(self, "_moved"):
            self._moved = {name: self.there[name] - self.here[name] for name in names}
        return self._moved

    def square(self, names: list[str]) -> float:
        """The square of the step's length."""
        if not hasattr(self, "_square"):
            self._square = sum(float(d.double().flatten().dot(d.double().flatten()))
                               for d in self.moved(names).values())
        return self._square

    def at(self, node: float, names: list[str]) -> Parameters:
        """The parameters on the way, at this share of it."""
        if getattr(self, "_point", (None, {}))[0] != node:
            moved = self.moved(names)
            self._point = node, {**self.here, **{name: torch.add(self.here[name], moved[name], alpha=node)
                                                 for name in names}}
        return self._point[1]


def stride_of(held: tuple[Parameters, Parameters]) -> Stride:
    """The step between two parameter vectors, which may be one already."""
    return held if isinstance(held, Stride) else Stride(*held)
