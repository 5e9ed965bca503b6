"""What a solver tells while it works, and what it needs to go on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """Where a solver stands after a pass.

    Attributes:
        passes: How many times all points were read.
        residual: The norm of what is left of the equations, relative to the start.
        objective: For each ridge, the mean squared error plus the ridge's term; ``None`` where it is not known.
        coefficients: Gives the coefficients, with shape (r, p, c), and the intercepts, with shape (r, c).
        tensors: Gives all that is needed to go on, bit for bit; they are the caller's to keep.
    """

    passes: float
    residual: float
    objective: tuple[float, ...] | None
    coefficients: Callable[[], tuple[Tensor, Tensor]]
    tensors: Callable[[], dict[str, Tensor]]


class Watch:
    """Hears of each pass; this one says nothing and keeps nothing.

    Attributes:
        kept: The tensors of the state to go on from; ``None`` to begin.
    """

    kept: dict[str, Tensor] | None = None

    def heard(self, state: State) -> bool:
        """Takes note of a state; says whether the solver may stop here."""
        del state
        return False
