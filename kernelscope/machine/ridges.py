"""What each ridge of a machine of features gives, and which one was taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..result import Check, CheckRow, Result
from ..solvers.ridge import RidgePath

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Ridges(Result):
    r"""Ridges of one factorisation, and what each gives. Errors are mean squares over samples and outputs.

    Attributes:
        ridges: The ridges :math:`\lambda`.
        chosen: The place of the one that the machine has.
        degrees: The effective number of coefficients of each, with shape (r,).
        residual: The error on the samples themselves, weighted as they are, with shape (r,).
        gcv: Generalised cross-validation, :math:`\text{residual} / (1 - \text{degrees} / n)^2`, with shape (r,);
            its limit where features pass through all samples.
        validation: The error on validation points, with shape (r,), if there were some.
        count: The number n of samples.
        seconds: How long the fit took.
        plan: What was decided, and why, as the fields of a plan; empty for a machine that was made of another.
        notes: What the user should know.
    """

    ridges: list[float]
    chosen: int
    degrees: Tensor
    residual: Tensor
    gcv: Tensor
    validation: Tensor | None
    count: int
    seconds: float
    plan: dict[str, Any]
    notes: list[str]

    @classmethod
    def of(cls, path: RidgePath, ridges: list[float], validation: Tensor | None = None, seconds: float = 0.0,
           plan: dict[str, Any] | None = None) -> Self:
        """Looks at each ridge, and takes the one with the smallest validation error, or else the smallest GCV."""
        outputs = len(path.equations.squares)
        degrees = torch.tensor([path.degrees(ridge) for ridge in ridges], dtype=torch.float64)
        residual = torch.stack([path.residual(ridge).sum().cpu() / outputs for ridge in ridges])
        gcv = torch.tensor([path.gcv(ridge) / outputs for ridge in ridges], dtype=torch.float64)
        measure = gcv if validation is None else validation
        chosen = int(measure.argmin())
        notes = []
        if len(ridges) > 1:
            word = "GCV" if validation is None else "The validation error"
            for edge, end, other in ((min(ridges), "smallest", "smaller"), (max(ridges), "largest", "larger")):
                if ridges[chosen] == edge and edge:
                    notes.append(f"{word} is best at the {end} of {len(ridges)} ridges, {edge:g}. Pass {other} ones "
                                 "too.")
        notes += lost(path, ridges[chosen])
        return cls(list(ridges), chosen, degrees, residual, gcv, validation, path.equations.count, seconds, plan or {},
                   notes)

    @property
    def ridge(self) -> float:
        """The ridge that the machine has."""
        return self.ridges[self.chosen]

    def choosing(self, place: int, path: RidgePath) -> Self:
        """The same with another of the ridges of a factorisation chosen."""
        return replace(self, chosen=place, notes=lost(path, self.ridges[place]))

    def summary(self) -> str:
        """The answer in one sentence."""
        i = self.chosen
        several = "" if len(self.ridges) == 1 else f" of {len(self.ridges)}"
        error = "" if self.validation is None else f", validation error {float(self.validation[i]):.4g}"
        return (f"Ridges(ridge {self.ridge:g}{several}, {float(self.degrees[i]):.4g} degrees of freedom for "
                f"{self.count:,} samples, residual {float(self.residual[i]):.4g}, GCV {float(self.gcv[i]):.4g}{error}, "
                f"{self.seconds:.3g} s)")

    def to_frame(self) -> pd.DataFrame:
        """One row for each ridge."""
        import pandas as pd

        return pd.DataFrame({
            "ridge": self.ridges, "degrees": self.degrees.tolist(), "residual": self.residual.tolist(),
            "gcv": self.gcv.tolist(),
            "validation": [None] * len(self.ridges) if self.validation is None else self.validation.tolist(),
            "chosen": [i == self.chosen for i in range(len(self.ridges))],
        })

    def check(self) -> Check:
        """Whether the ridge that was taken lies within those that were tried."""
        if not self.notes:
            return Check((CheckRow("ridge", "pass", self.ridge, None, "The ridge is none that asks for others."),))
        return Check(tuple(CheckRow("ridge", "warn", self.ridge, None, note) for note in self.notes))


def lost(path: RidgePath, ridge: float) -> list[str]:
    """What the user should know where rounding leaves nothing of some directions."""
    count = path.lost(ridge)
    if not count:
        return []
    which = f"The ridge {ridge:g} is" if ridge else "Without a ridge some directions of features are"
    return [f"{which} less than what the sums of products of features lose by rounding, and {count} of "
            f"{len(path.spectrum)} directions of features have no weight. Take away samples that are far from all "
            "others, scale features, or pass a larger ridge."]
