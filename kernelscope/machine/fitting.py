"""How a machine was fitted: what was decided, what came out for each ridge, and how the work went."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from ..result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Fitting(Result):
    """How a machine was fitted.

    Attributes:
        ridges: The ridges that were fitted in the same passes.
        chosen: The place of the one that the machine has.
        objective: For each, the mean squared error plus the ridge's term, with shape (r,); or the mean of another loss.
        validation: For each, the same error on the validation points, with shape (r,), if there were some; the squared
            one as a mean over outputs too.
        coefficients: The coefficients of each, with shape (r, p, c).
        intercepts: The intercepts of each, with shape (r, c).
        history: After each pass its number, and the residual of the equations relative to the start; and the validation
            error, where it was taken.
        passes: How many times all points were read; or a kernel matrix that is kept was multiplied.
        seconds: How long it took.
        plan: What was decided, and why, as the fields of a plan.
        notes: What the user should know.
    """

    ridges: list[float]
    chosen: int
    objective: Tensor
    validation: Tensor | None
    coefficients: Tensor
    intercepts: Tensor
    history: list[dict[str, float | None]]
    passes: float
    seconds: float
    plan: dict[str, Any]
    notes: list[str]

    @property
    def ridge(self) -> float:
        """The ridge that the machine has."""
        return self.ridges[self.chosen]

    def solution(self, place: int) -> tuple[Tensor, Tensor]:
        """Coefficients and intercepts of the ridge at a place, with shapes (p, c) and (c,)."""
        return self.coefficients[place], self.intercepts[place]

    def choosing(self, place: int) -> Self:
        """The same with another of the ridges chosen."""
        return replace(self, chosen=place)

    def summary(self) -> str:
        """The answer in one sentence."""
        error = "" if self.validation is None else f", validation error {float(self.validation[self.chosen]):.4g}"
        one, more = ("pass", "passes") if self.plan.get("products") is None else ("product", "products")
        work = f"{self.passes:.3g} {one if self.passes == 1 else more}"
        several = "" if len(self.ridges) == 1 else f" of {len(self.ridges)}"
        return (f"Fitting({self.plan['solver']}, ridge {self.ridge:g}{several}, objective "
                f"{float(self.objective[self.chosen]):.4g}{error}, {work}, "
                f"{self.seconds:.3g} s)")

    def to_frame(self) -> pd.DataFrame:
        """One row for each ridge."""
        import pandas as pd

        errors = [None] * len(self.ridges) if self.validation is None else self.validation.tolist()
        return pd.DataFrame({"ridge": self.ridges, "objective": self.objective.tolist(), "validation": errors,
                             "chosen": [i == self.chosen for i in range(len(self.ridges))]})

    def check(self) -> Check:
        """Whether the solver had anything to say."""
        if not self.notes:
            return Check((CheckRow("solver", "pass", None, None, "The solver ended as it should."),))
        return Check(tuple(CheckRow("solver", "warn", None, None, note) for note in self.notes))
