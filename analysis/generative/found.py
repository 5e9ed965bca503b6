"""All that was measured, and numbers of it that are told more than once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import kernelscope as ks
from kernelscope.result import Result

from .models import Models, Settings

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
        return told(self.coverage) if math.isnan(self.low) else (
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
    e5: ks.generative.DisjointHalves
    e6: dict[str, Any]
    e7: dict[str, Any]
    digit: ks.generative.DiffusionExplanation
    e8: ks.generative.CoverageTrial
    geometry: tuple[dict[str, float], list[Result]]
    e9: tuple[dict[str, float], ks.generative.Witness]
    traced: tuple[dict[str, float], ks.generative.GANExplanation]
    e10: tuple[dict[str, float], ks.generative.Bridge]
    compared: ks.generative.GenerativeComparison
    paths: ks.generative.GenerativeComparison
    e11: dict[str, ks.generative.SubsetTrial]
    seconds: dict[str, float]

    def end(self, name: str) -> Line:
        """A model of E8 at its last step, or one of its nulls."""
        if name in self.e8.nulls:
            cover, _, copies = self.e8.nulls[name].tolist()
            return Line(name, cover, math.nan, math.nan, copies)
        cover = self.e8.interval("coverage", name)
        return Line(name, cover.mean, cover.low, cover.high, self.e8.interval("memorised", name).mean)


def told(value: float, digits: int = 2) -> str:
    """A number in words of a page."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"
    # What would be rounded to nought keeps its size.
    text = f"{value:.2g}" if value and abs(value) < 0.01 else text
    return text.replace("e+0", "e").replace("e-0", "e−").replace("-", "−")
