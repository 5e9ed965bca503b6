r"""Which of several scores separates best over repeats, whether some tie, and whether any does better than chance.

The mean of a score is one over seeds, with the 95 % interval of Student's t. A score does better than chance if its
interval is. Of one repeat there is no interval; there a score that says nothing has an AUROC around 0.5 with variance
:math:`(n + m + 1) / (12 n m)` for n and m points, and a share around 0.95 with that of m draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..text import with_minus

if TYPE_CHECKING:
    from .separation import Separation

#: The share of known points that FPR95 lets through.
KNOWN = 0.95

#: What a score has that says nothing.
CHANCE = {"auroc": 0.5, "fpr95": KNOWN, "right": 0.5}

#: Which two groups of points a measure is of.
GROUPS = {"auroc": ("known", "unknown"), "fpr95": ("known", "unknown"), "right": ("right", "wrong")}

#: What the best score does, and what none does.
BEST = {"auroc": "tells known from unknown best", "fpr95": "lets the fewest unknown points pass",
        "right": "tells right from wrong best"}
NONE = {"auroc": "no score tells known from unknown", "fpr95": "no score keeps unknown points out",
        "right": "no score tells right from wrong"}

#: How far apart two means are that are no tie.
APART = 1e-9

#: The quantile of the normal distribution that leaves out 2.5 %.
NORMAL = 1.96


@dataclass(frozen=True)
class Interval:
    """A mean over repeats with its 95 % interval; of one repeat the interval is not known, and NaN."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low != self.low:
            return with_minus(f"{self.mean:.3f}")
        return with_minus(f"{self.mean:.4f} ({self.low:.4f} to {self.high:.4f})")


def over_seeds(values: Tensor, seeds: Sequence[str]) -> Interval:
    """The mean over seeds of the means over their repeats, with NaN left out.

    Args:
        values: One for each repeat.
        seeds: The seed of each repeat.
    """
    kept = ~values.isnan()
    each = [values[[s == seed and bool(kept[i]) for i, s in enumerate(seeds)]].mean() for seed in dict.fromkeys(seeds)]
    means = torch.stack(each)
    means = means[~means.isnan()]
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(means.mean())
    if len(means) < 2:
        return Interval(mean, float("nan"), float("nan"))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(means) - 1)) * float(means.std()) / len(means) ** 0.5
    return Interval(mean, mean - half, mean + half)


def measured(result: Separation, measure: str) -> dict[str, Interval]:
    """The scores of which a measure is known."""
    found = {name: result.interval(name, measure) for name in result.names}
    return {name: value for name, value in found.items() if value.mean == value.mean}


def winners(result: Separation, measure: str) -> list[str]:
    """The scores that no other does better than: coverage first, if it is one, then the null."""
    means = {name: value.mean if measure != "fpr95" else -value.mean
             for name, value in measured(result, measure).items()}
    most = max(means.values(), default=0.0)
    return sorted((name for name, mean in means.items() if mean >= most - APART),
                  key=lambda name: (name != "coverage", name != result.null))


def separates(result: Separation, name: str, measure: str) -> bool:
    """Whether a score does better than chance."""
    found, chance = result.interval(name, measure), CHANCE[measure]
    if found.low == found.low:
        return found.high < chance - APART if measure == "fpr95" else found.low > chance + APART
    # The points of one repeat.
    n, m = (max(result.info.get(group, 0) / max(len(result.seeds), 1), 1.0) for group in GROUPS[measure])
    variance = chance * (1 - chance) / m if measure == "fpr95" else (n + m + 1) / (12 * n * m)
    lead = chance - found.mean if measure == "fpr95" else found.mean - chance
    return lead > NORMAL * variance**0.5


def any_separates(result: Separation, measure: str) -> bool:
    """Whether some score does better than chance."""
    return any(separates(result, name, measure) for name in measured(result, measure))


def verdict(result: Separation, measure: str, number: Callable[[Interval], str], short: bool = False) -> str:
    """Which score is best, in words; that several tie, or that none does better than chance.

    Args:
        result: The scores.
        measure: ``"auroc"``, ``"fpr95"`` or ``"right"``.
        number: How an interval is written.
        short: Whether this is a title, beside an axis that says what is measured.
    """
    best, known = winners(result, measure), measured(result, measure)
    if not best:
        return ""
    value = number(known[best[0]])
    if not any_separates(result, measure):
        whose = "all have" if len(best) == len(known) > 1 else f"the best, {listed(best, result.null)}, " + (
            "has" if len(best) == 1 else "have")
        return f"{NONE[measure]}; {whose} {value}, which chance may give too"
    if len(best) == 1:
        subject = f"the null, {best[0]}," if best[0] == result.null else best[0]
        return f"{subject} {BEST[measure]}{'; it has' if short else ', with'} {value}"
    return f"{listed(best, result.null)} tie; {'they have' if short else f'each {BEST[measure]}, with'} {value}"


def listed(names: list[str], null: str | None) -> str:
    """Up to three names, or two and how many others."""
    words = ["the null" if name == null else name for name in names]
    if len(words) > 3:
        words = [*words[:2], f"{len(words) - 2} others"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
