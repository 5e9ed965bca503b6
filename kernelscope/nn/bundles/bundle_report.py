"""What bundling a network cost and saved, measured on points that it was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ...result import Check, CheckRow, Result
from ...text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: The share of points whose class may change before a warning, and by how much a score may fall.
AGREES, FALLS = 0.95, 0.01

#: An error of outputs fails that is this large, and as many times that of the worst block.
ALIKE, GROWS = 0.5, 5.0


@dataclass(frozen=True, eq=False, repr=False)
class BundleReport(Result):
    r"""A network beside what was bundled from it.

    Attributes:
        mode: ``"ffn"``, ``"layerwise"`` or ``"full"``.
        tower: The kind of features.
        blocks: What was replaced.
        features: How many features each of them has.
        ridges: The ridge of each.
        errors: How far each is from what it replaces, on the inputs it was fitted for, relative to its spread, with
            shape (k,). NaN for a network fitted to labels.
        linear: The same of a linear map alone, fitted to the same rows, with shape (k,).
        accumulated: The same in the bundled network, with what blocks before it did, with shape (k,).
        before: The parameters of each block.
        after: The numbers that stand for them: all that were solved for, and neurons that were kept.
        parameters_before: The parameters of the network.
        parameters_after: Those that are left, with neurons that were kept.
        fixed: How many random numbers its towers hold beside them, which a seed could make again.
        error: How far outputs are from those of the network, relative to their spread; ``None`` for labels.
        agreement: The share of points that get the same class; ``None`` without classes.
        divergence: The mean divergence of the probabilities in nats; ``None`` without logits.
        score_before: The accuracy of the network, or R²; ``None`` without targets.
        score_after: That of what was bundled.
        score_linear: That of a linear map of the inputs, for a network bundled as a whole.
        score: ``"accuracy"`` or ``"R²"``.
        measured_on: Which points all this was measured on, in words.
        count: How many they are.
        left: Blocks that were not replaced, and why.
    """

    mode: str
    tower: str
    blocks: list[str]
    features: list[int]
    ridges: list[float]
    errors: Tensor
    linear: Tensor
    accumulated: Tensor
    before: list[int]
    after: list[int]
    parameters_before: int
    parameters_after: int
    fixed: int
    error: float | None
    agreement: float | None
    divergence: float | None
    score_before: float | None
    score_after: float | None
    score_linear: float | None
    score: str
    measured_on: str
    count: int
    left: dict[str, str] = field(default_factory=dict)

    @property
    def fewer(self) -> float:
        """How many times fewer parameters there are than before."""
        return self.parameters_before / max(self.parameters_after, 1)

    def said(self) -> str:
        """What it saved and what it cost, in words."""
        beside = f" beside {self.fixed:,} fixed numbers" if self.fixed else ""
        parts = [f"{self.parameters_before:,} parameters became {self.parameters_after:,}{beside}"]
        if self.agreement is not None and self.score_before is not None:
            parts.append(f"{self.agreement:.1%} of {self.measured_on} get the same class")
        elif self.error is not None:
            parts.append(f"outputs are off by {self.error:.2g} of their spread on {self.measured_on}")
            if self.agreement is not None:
                # Without targets nobody knows that outputs are logits.
                parts.append(f"read as logits, {self.agreement:.1%} give the same class")
        if self.score_before is not None and self.score_after is not None:
            beside = f", of a linear map {self.score_linear:.4f}" if self.score_linear is not None else ""
            parts.append(f"{self.score} {self.score_before:.4f} became {self.score_after:.4f}{beside}")
        if self.left:
            parts.append(f"{len(self.left)} block{'s were' if len(self.left) > 1 else ' was'} left as "
                         f"{'they were' if len(self.left) > 1 else 'it was'}")
        return with_minus("; ".join(parts))

    def summary(self) -> str:
        """The answer in one sentence."""
        several = f"{len(self.blocks)} block{'s' * (len(self.blocks) != 1)}"
        what = "the whole network" if self.mode == "full" else several
        return f"BundleReport({self.mode}, {what}, {self.tower} features: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each block that was replaced."""
        import pandas as pd

        return pd.DataFrame({
            "block": self.blocks, "features": self.features, "ridge": self.ridges, "error": self.errors.tolist(),
            "linear map": self.linear.tolist(), "accumulated": self.accumulated.tolist(),
            "parameters before": self.before, "parameters after": self.after,
        })

    def check(self) -> Check:
        """Whether there are fewer parameters, features beat a linear map, and answers stayed what they were."""
        rows = [CheckRow("fewer", "pass" if self.fewer > 1 else "warn", self.fewer, 1.0,
                         f"There are {self.fewer:.2f} times fewer parameters.")]
        for name, error, linear in zip(self.blocks, self.errors.tolist(), self.linear.tolist(), strict=True):
            if error == error:
                rows.append(CheckRow(f"features of {name}", "pass" if error < linear else "warn", error, linear,
                                     f"With features it is off by {error:.3g} of the spread, a linear map by "
                                     f"{linear:.3g}."))
        worst = max((each for each in self.accumulated.tolist() if each == each), default=None)
        if self.mode != "full" and self.error is not None and worst is not None:
            grown = self.error > ALIKE and self.error > GROWS * worst
            rows.append(CheckRow("outputs", "fail" if grown else "pass", self.error, max(ALIKE, GROWS * worst),
                                 f"Outputs are off by {self.error:.3g} of their spread, blocks by up to {worst:.3g}."))
        if self.agreement is not None:
            read = "Read as logits, " if self.score_before is None else ""
            rows.append(CheckRow("agreement", "pass" if self.agreement >= AGREES else "warn", self.agreement, AGREES,
                                 f"{read}{self.agreement:.1%} of {self.measured_on} get the same class."))
        if self.score_before is not None and self.score_after is not None:
            # Nought has no sign.
            lost = self.score_before - self.score_after
            change = round(-lost, 4) + 0.0
            rows.append(CheckRow("score", "pass" if lost <= FALLS else "warn", lost, FALLS,
                                 with_minus(f"The {self.score} changed by {change:+.4f}.")))
        return Check(tuple(rows))
