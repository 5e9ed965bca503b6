"""All that was measured, and numbers of it that are told more than once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

import kernelscope as ks
from kernelscope.result import Result

from .models import Models, Settings
from .trials import Table

__all__ = ["Found", "Line", "told"]


class Line(NamedTuple):
    """A model at the end of its training."""

    name: str
    coverage: float
    low: float
    high: float
    copies: float

    def said(self) -> str:
        """Its coverage, with the interval over seeds where there is one."""
        return told(self.coverage) if pd.isna(self.low) else (
            f"{told(self.coverage)} ({told(self.low)} to {told(self.high)})")


@dataclass(frozen=True)
class Found:
    """What each experiment gave, by its number in the notes."""

    settings: Settings
    models: Models
    e1: tuple[dict[str, float], ks.generative.OptimalExplanation]
    e2: dict[str, ks.generative.DenoiserFit]
    e3: ks.generative.JacobianGeometry
    e4: ks.generative.MemorisationTransition
    e5: Table
    e6: dict[str, Any]
    e7: dict[str, Any]
    digit: ks.generative.DiffusionExplanation
    e8: Table
    geometry: tuple[dict[str, float], list[Result]]
    e9: tuple[dict[str, float], ks.generative.Witness]
    traced: tuple[dict[str, float], ks.generative.GANExplanation]
    e10: tuple[dict[str, float], ks.generative.Bridge]
    compared: ks.generative.GenerativeComparison
    paths: ks.generative.GenerativeComparison
    e11: dict[str, ks.generative.SubsetTrial]
    seconds: dict[str, float]

    def ends(self) -> list[Line]:
        """Every model of E8 at its last step, nulls after them."""
        last = self.e8.rows.sort_values("step", kind="stable").groupby("model", sort=False).tail(1)
        last = last.reindex(self.e8.rows["model"].drop_duplicates().map(
            {name: place for place, name in last["model"].items()}))
        return [Line(*row) for row in last[["model", "coverage", "low", "high", "memorised"]].itertuples(index=False)]

    def end(self, start: str) -> Line:
        """The first of them whose name begins so."""
        return next(line for line in self.ends() if line.name.startswith(start))


def told(value: float, digits: int = 2) -> str:
    """A number in words of a page."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
    # What would be rounded to nought keeps its size.
    text = f"{value:.2g}" if value and abs(value) < 0.01 else text
    return text.replace("e+0", "e").replace("e-0", "e−").replace("-", "−")
