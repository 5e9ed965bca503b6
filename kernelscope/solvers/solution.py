"""What a solver found, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Solution:
    """Coefficients for each ridge.

    Attributes:
        coefficients: With shape (r, p, c), for r ridges.
        intercepts: With shape (r, c).
        objective: The mean squared error plus the ridge's term, for each ridge.
        passes: How many times all points were read.
        history: The relative residual after each pass, where there was more than one.
        notes: What the user should know.
    """

    coefficients: Tensor
    intercepts: Tensor
    objective: tuple[float, ...]
    passes: float
    history: tuple[float, ...] = ()
    notes: tuple[str, ...] = field(default=())
