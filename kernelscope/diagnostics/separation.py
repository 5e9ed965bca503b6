r"""How well scores tell known points from unknown ones, and right predictions from wrong ones.

A score is larger for what is better known. Its AUROC is the chance that a known point has a larger one than an unknown
point, equal ones counting half; FPR95 is the share of unknown points above the 5 % quantile of the known ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError
from ..ranks import auroc
from ..result import Check, CheckRow, Result
from ..text import with_minus
from .coverage.others import NULL
from .coverage.result import Coverage
from .winners import KNOWN, Interval, measured, over_seeds, verdict, winners

if TYPE_CHECKING:
    import pandas as pd

#: What may be compared.
MEASURES = ("auroc", "fpr95", "right")


@dataclass(frozen=True, eq=False, repr=False)
class Separation(Result):
    """Scores compared over repeats of the same task.

    Attributes:
        names: The scores.
        auroc: AUROC of known against unknown points, with shape (repeats, scores).
        fpr95: The share of unknown points that pass where 95 % of the known ones do, with shape (repeats, scores).
        right: AUROC of right against wrong predictions among known points, NaN where targets did not come or all
            predictions are alike, with shape (repeats, scores).
        ladder: AUROC of coverage by each ridge, with shape (repeats, ridges).
        ridges: The ridges, as shares of the mean eigenvalue.
        seeds: The seed of each repeat.
        splits: Its split, the same words for all if there is one.
        null: The score that needs no network, if there is one.
        info: Facts to print.
    """

    names: list[str]
    auroc: Tensor
    fpr95: Tensor
    right: Tensor
    ladder: Tensor
    ridges: list[float]
    seeds: list[str]
    splits: list[str]
    null: str | None
    info: dict[str, Any] = field(default_factory=dict)

    def interval(self, name: str, measure: str = "auroc", than: str | None = None) -> Interval:
        """The mean of a score, or of its lead over another one on the same repeats, with its 95 % interval.

        Repeats are averaged over splits first; the interval is that of Student's t over the seeds, for these splits.

        Args:
            name: The score.
            measure: ``"auroc"``, ``"fpr95"`` or ``"right"``.
            than: The other score.

        Raises:
            DataError: If there is no such score or measure.
        """
        table = self._table(measure)
        values = table[:, self._place(name)]
        return over_seeds(values if than is None else values - table[:, self._place(than)], self.seeds)

    def by_ridge(self) -> dict[float, Interval]:
        """The AUROC of coverage by each ridge."""
        return {ridge: over_seeds(self.ladder[:, i], self.seeds) for i, ridge in enumerate(self.ridges)}

    @property
    def order(self) -> list[str]:
        """The scores by their mean AUROC, the best first."""
        return sorted(self.names, key=lambda name: -self.interval(name).mean)

    @property
    def best_other(self) -> str | None:
        """The best score that is no form of coverage and not the null."""
        return next((name for name in self.order if name in self.info["baselines"] and name != self.null), None)

    def _table(self, measure: str) -> Tensor:
        if not isinstance(measure, str) or measure not in MEASURES:
            raise DataError(f"measure must be one of {', '.join(MEASURES)}; {what_came(measure)} came. Leave it out "
                            "for the AUROC of known against unknown.")
        return getattr(self, measure)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise DataError(f"There is no score {name!r}. There are {', '.join(self.names)}.")
        return self.names.index(name)

    def said(self) -> str:
        """Who wins, in words."""
        parts = [verdict(self, "auroc", _auroc)]
        if self.null is not None and "coverage" in self.names:
            lead = self.interval("coverage", than=self.null)
            parts.append(f"{_against(lead, 'coverage', self.null)}: coverage has {self.interval('coverage')}, "
                         f"{self.null} {self.interval(self.null)}, a difference of {lead}")
        other = self.best_other
        if other is not None and "coverage" in self.names:
            lead = self.interval("coverage", than=other)
            parts.append(f"the best other score, {other}, has {self.interval(other)}, and coverage minus it is {lead}")
        return "; ".join(parts)

    def said_of_right(self) -> str:
        """Which score tells right from wrong predictions best, in words; empty where it is not known."""
        said, known = verdict(self, "right", _auroc), measured(self, "right")
        beside = "coverage" in known and "coverage" not in winners(self, "right")
        return f"{said}; coverage has {known['coverage']}" if beside else said

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Separation({self.extent()}: {self.said()})"

    def extent(self) -> str:
        """How many repeats there are."""
        seeds, splits = len(dict.fromkeys(self.seeds)), len(dict.fromkeys(self.splits))
        return f"{seeds} seed{'s' * (seeds > 1)}, {splits} split{'s' * (splits > 1)}"

    def to_frame(self) -> pd.DataFrame:
        """One row for each score, the best first."""
        import pandas as pd

        rows = []
        for name in self.order:
            row: dict[str, Any] = {"score": name}
            for measure in MEASURES:
                found = self.interval(name, measure)
                row |= {measure: found.mean, f"{measure} low": found.low, f"{measure} high": found.high}
            for word, than in (("null", self.null), ("best other", self.best_other)):
                if than is not None:
                    lead = self.interval(name, than=than)
                    row |= {f"minus {word}": lead.mean, f"minus {word} low": lead.low, f"minus {word} high": lead.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def by_split(self, measure: str = "auroc") -> pd.DataFrame:
        """The mean over seeds of each split, a row for each, with a column for each score.

        Args:
            measure: ``"auroc"``, ``"fpr95"`` or ``"right"``.

        Raises:
            DataError: If there is no such measure.
        """
        import pandas as pd

        table = self._table(measure)
        splits = list(dict.fromkeys(self.splits))
        rows = [table[[i for i, other in enumerate(self.splits) if other == split]].nanmean(0).tolist()
                for split in splits]
        return pd.DataFrame(rows, columns=self.names, index=splits)

    def check(self) -> Check:
        """Whether coverage separates, and whether it does better than the null and than other scores."""
        rows = []
        if "coverage" in self.names:
            found = self.interval("coverage").mean
            rows.append(CheckRow("coverage", "pass" if found > 0.5 else "warn", found, 0.5,
                                 f"The AUROC of coverage is {found:.4f} on the mean."))
            for name, than in (("null", self.null), ("others", self.best_other)):
                if than is not None:
                    lead = self.interval("coverage", than=than)
                    rows.append(CheckRow(name, "pass" if lead.mean > 0 else "warn", lead.mean, 0.0,
                                         f"Coverage minus {than}: {lead}."))
        ladder = [found.mean for found in self.by_ridge().values()]
        spread = max(ladder) - min(ladder) if ladder else 0.0
        rows.append(CheckRow("ridge", "pass" if spread <= 0.01 else "warn", spread, 0.01,
                             with_minus(f"Between ridges {max(self.ridges):g} and {min(self.ridges):g} the AUROC of "
                                        f"coverage differs by {spread:.4f}.")))
        return Check(tuple(rows))


def separation(found: Mapping[Any, tuple[Coverage, Coverage]] | Sequence[tuple[Coverage, Coverage]]) -> Separation:
    r"""Compares how well scores tell known from unknown points, over repeats.

    .. math:: \text{AUROC} = P(s_{\text{known}} > s_{\text{unknown}})
              + \tfrac12 P(s_{\text{known}} = s_{\text{unknown}})

    Args:
        found: For each repeat a pair of :class:`Coverage`, that of known points and that of unknown ones, as
            ``coverage[:n]`` and ``coverage[n:]``. The key of a repeat is its seed; or a pair of its seed and its
            split, where several tasks are repeated by several seeds. A list has one repeat for each seed.

    Returns:
        The :class:`Separation`.

    Raises:
        DataError: If there are no such pairs, or a side is empty.

    Example:
        >>> separation([])
        Traceback (most recent call last):
        ...
        kernelscope.errors.DataError: separation needs pairs of coverage, of known points and of unknown ones; ...
    """
    given: dict[Any, Any] = dict(found) if isinstance(found, Mapping) else {}
    if isinstance(found, list | tuple):
        given = dict(enumerate(found))
    if not given:
        raise DataError("separation needs pairs of coverage, of known points and of unknown ones; none came. Pass "
                        '{"seed 0": (known, unknown), ...}.')
    for key, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(c, Coverage) for c in pair):
            raise DataError(f"Repeat {key!r} must be a pair of results of ks.coverage, of known points and of unknown "
                            f"ones; {what_came(pair)} came. Pass (found[:n], found[n:]).")
        if not len(pair[0]) or not len(pair[1]):
            raise DataError(f"Repeat {key!r} has no {'unknown' if len(pair[0]) else 'known'} points. Both are needed.")
    pairs = list(given.values())
    names = [name for name in pairs[0][0].scores() if all(name in side.scores() for pair in pairs for side in pair)]
    tables: dict[str, list[list[float]]] = {measure: [] for measure in (*MEASURES, "ladder")}
    for known, unknown in pairs:
        one, other = known.scores(), unknown.scores()
        tables["auroc"].append([auroc(one[name], other[name]) for name in names])
        tables["fpr95"].append([fpr95(one[name], other[name]) for name in names])
        tables["right"].append([_right(known, one[name]) for name in names])
        tables["ladder"].append([auroc(a, b) for a, b in zip(known.ladder, unknown.ladder, strict=True)])
    keys = [key if isinstance(key, tuple) and len(key) == 2 else (key, "") for key in given]
    first = pairs[0][0]
    known_names = [name for name in first.baselines if name in names]
    return Separation(
        names, **{name: torch.tensor(rows, dtype=torch.float64) for name, rows in tables.items()},
        ridges=list(first.ridges), seeds=[str(seed) for seed, _ in keys], splits=[str(split) for _, split in keys],
        null=NULL if NULL in names else None,
        info={"known": sum(len(pair[0]) for pair in pairs), "unknown": sum(len(pair[1]) for pair in pairs),
              **_counts([pair[0] for pair in pairs]),
              "kernel": first.kernel, "feature": first.feature, "ridge": first.ridge, "baselines": known_names,
              "interval": "Student's t over seeds, of means over splits"})


def fpr95(known: Tensor, unknown: Tensor) -> float:
    """The share of unknown points with scores that at least 95 % of the known points have.

    Example:
        >>> fpr95(torch.arange(100.0), torch.tensor([4.0, 5.0, 6.0, 7.0]))
        0.75
    """
    ordered = known.sort(descending=True).values
    # Round-off must not ask for one more of them.
    threshold = ordered[-int(-(KNOWN * len(known) - 1e-9) // 1) - 1]
    return float((unknown >= threshold).double().mean())


def _right(known: Coverage, score: Tensor) -> float:
    if known.right is None or bool(known.right.all()) or not bool(known.right.any()):
        return float("nan")
    return auroc(score[known.right], score[~known.right])


def _counts(known: list[Coverage]) -> dict[str, int]:
    """How many known points are answered right, and wrong."""
    told = [found.right for found in known if found.right is not None]
    return {"right": sum(int(right.sum()) for right in told), "wrong": sum(int((~right).sum()) for right in told)}


def _auroc(found: Interval) -> str:
    return f"AUROC {found}"


def _against(lead: Interval, name: str, null: str) -> str:
    """Whether a score beats the null, by the interval of the difference."""
    if lead.low > 0:
        return f"{name} beats the null"
    if lead.high < 0:
        return f"the null wins against {name}"
    return f"{name} and the null are level" if lead.low == lead.low else f"{name} beside the null"
