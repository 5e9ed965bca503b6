r"""Do scores of training points foretell what leaving points out does?

The linear datamodelling score. A score :math:`s_{qi}` of each training point foretells the answer of a network that is
trained on a subset S by a sum, and the answer is measured by training it:

.. math:: \text{LDS} = \frac1Q \sum_q \rho_S\Big(\sum_{i \in S} s_{qi},\ \bar f_q(S)\Big)

with the rank correlation over subsets. Retraining is noisy, and no score foretells noise. The answers of two halves of
the seeds correlate by r; by Spearman and Brown those of all seeds have the reliability :math:`R = 2r / (1 + r)`, and
the score that knows the mean answer itself would have about :math:`\sqrt R`: the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed, what_came
from ...diagnostics.winners import Interval
from ...errors import DataError
from ...ranks import spearman
from ...result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PIXELS", "ROLES", "SubsetTrial", "subset_trial"]

#: What a score is. What a point added along a run is a contribution, what leaving it out would do an influence.
ROLES = ("contribution", "influence", "baseline", "null")

#: The baseline that must be there.
PIXELS = "pixel distance"

#: With how few subsets and seeds nothing is said.
LEAST_SUBSETS, LEAST_SEEDS = 8, 2

#: Into how many pairs of halves seeds are split at most.
SPLITS = 35


@dataclass(frozen=True, eq=False, repr=False)
class SubsetTrial(Result):
    """Scores of training points, compared by what leaving points out did.

    Attributes:
        names: The scores.
        roles: For each ``"contribution"``, ``"influence"``, ``"baseline"`` or ``"null"``.
        lds: The rank correlation over subsets, with shape (scores, q).
        drawn: Its mean over queries on each resample of the subsets, with shape (scores, resamples).
        halves: The rank correlation of the answers of two halves of the seeds, with shape (splits, q).
        predicted: The sums of scores, with shape (scores, subsets, q).
        measured: The answers, with shape (seeds, subsets, q).
        info: Facts to print; ``"asked"`` says what was measured.
    """

    names: list[str]
    roles: list[str]
    lds: Tensor
    drawn: Tensor
    halves: Tensor
    predicted: Tensor
    measured: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def reliability(self) -> float:
        """The rank correlation that the mean answers of two sets of as many seeds would have, at least 0."""
        if not self.halves.numel():
            return math.nan
        r = float(self.halves.mean())
        return max(2 * r / (1 + r), 0.0) if r > -1 else 0.0

    @property
    def ceiling(self) -> float:
        """About the score of what knows the mean answers: the root of the reliability."""
        return math.sqrt(self.reliability)

    @property
    def order(self) -> list[str]:
        """The scores, the best first."""
        return [self.names[i] for i in self.lds.mean(1).sort(descending=True, stable=True).indices.tolist()]

    def interval(self, name: str, than: str | None = None) -> Interval:
        """The score, or its lead over another one, with a 95 % interval by resampled subsets.

        Args:
            name: The score.
            than: The other score.

        Raises:
            DataError: If there is no such score.
        """
        i = self._place(name)
        mean, drawn = self.lds[i].mean(), self.drawn[i]
        if than is not None:
            mean, drawn = mean - self.lds[self._place(than)].mean(), drawn - self.drawn[self._place(than)]
        # Subsets that are drawn twice tie, which pulls every resample towards nought by about as much.
        drawn = drawn - drawn.mean() + mean
        low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
        return Interval(float(mean), low, high)

    def refused(self) -> str:
        """Why this must not be shown, in a sentence; empty where it may be."""
        if not self.reliability > 0:
            return ("Scores are not shown without a noise ceiling: the answers of two halves of the seeds do not "
                    "agree. Train more seeds or more subsets.")
        if PIXELS not in self.names:
            return (f'Scores are not shown without the trivial baseline: there is none called "{PIXELS}". Add it, as '
                    "kernelscope.generative.trials.attributions.pixel_distance makes it.")
        return ""

    def said(self) -> str:
        """Who wins, in words."""
        if self.refused():
            return self.refused().rstrip(".")
        best = self.order[0]
        found = self.interval(best)
        text = (f"{best} ({self._role(best)}) foretells retraining best, LDS {found}, where "
                f"{self.ceiling:.3f} is the ceiling of noise")
        if best != PIXELS:
            lead = self.interval(best, than=PIXELS)
            word = "more than" if lead.low > 0 else "not clearly more than"
            text += f"; it has {word} {PIXELS}, {self.interval(PIXELS)}, a difference of {lead}"
        own = next((name for name in self.order if self._role(name) == "contribution"), None)
        if own is not None and own != best:
            lead = self.interval(own, than=PIXELS)
            word = "beats" if lead.low > 0 else "loses to" if lead.high < 0 else "is level with"
            text += f"; the best contribution, {own}, has {self.interval(own)} and {word} {PIXELS}"
        return text

    def summary(self) -> str:
        """The answer in one sentence."""
        seeds, subsets, queries = self.measured.shape
        asked = f" of the {self.info['asked']}" if "asked" in self.info else ""
        return f"SubsetTrial({subsets} subsets, {seeds} seeds, {queries} queries{asked}: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each score, the best first, with the ceiling beside it."""
        import pandas as pd

        rows = []
        for name in self.order:
            found = self.interval(name)
            row: dict[str, Any] = {"score": name, "role": self._role(name), "LDS": found.mean, "low": found.low,
                                   "high": found.high, "part of ceiling": found.mean / (self.ceiling or math.nan)}
            if PIXELS in self.names:
                lead = self.interval(name, than=PIXELS)
                row |= {"minus pixels": lead.mean, "minus pixels low": lead.low, "minus pixels high": lead.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether there are a ceiling, the trivial baseline and a null, and whether the null finds nothing."""
        known, pixels = self.reliability > 0, PIXELS in self.names
        rows = [CheckRow("ceiling", "pass" if known else "fail", self.ceiling if known else None, None,
                         f"The ceiling of noise is {self.ceiling:.3f}." if known else self.refused()),
                CheckRow("baseline", "pass" if pixels else "fail", None, None,
                         f"{PIXELS} is beside the scores." if pixels else f"There is no {PIXELS} beside the scores.")]
        for name in (name for name in self.names if self._role(name) == "null"):
            found = self.interval(name)
            near = found.low <= 0 <= found.high
            rows.append(CheckRow(name, "pass" if near else "warn", found.mean, 0.0,
                                 f"{name} has {found}, which {'holds' if near else 'leaves out'} 0."))
        if all(role != "null" for role in self.roles):
            rows.append(CheckRow("null", "warn", None, None, "No random scores are beside the others."))
        return Check(tuple(rows))

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise DataError(f"There is no score {name!r}. There are {', '.join(self.names)}.")
        return self.names.index(name)

    def _role(self, name: str) -> str:
        return self.roles[self._place(name)]


def subset_trial(
    scores: Mapping[str, tuple[str, Tensor]],
    members: Tensor,
    measured: Tensor,
    *,
    resamples: int = 200,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
) -> SubsetTrial:
    """Compares scores of training points by answers of networks that were trained on subsets.

    Args:
        scores: For each name its role (``"contribution"``, ``"influence"``, ``"baseline"``, ``"null"``) and its
            scores, with shape (q, n); more means that training on the point raises the answer.
        members: Whether each point is in each subset, with shape (subsets, n).
        measured: The answers, with shape (seeds, subsets, q).
        resamples: How many times subsets are drawn anew, for intervals.
        seed: The seed of these draws.
        info: Facts to print.

    Raises:
        DataError: If there are fewer than 8 subsets or 2 seeds, or shapes do not go together.

    References:
        "TRAK: Attributing Model Behavior at Scale" (Park et al., 2023), definition 2.1; "Intriguing Properties of Data
        Attribution on Diffusion Models" (Zheng et al., 2024); Spearman (1910) and Brown (1910).

    Example:
        >>> members = torch.rand(16, 20, generator=torch.Generator().manual_seed(0)) < 0.5
        >>> effects = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
        >>> answers = (members.float() @ effects.T).expand(2, 16, 3)
        >>> found = subset_trial({"the effects": ("influence", effects)}, members, answers)
        >>> found.interval("the effects").mean, found.ceiling
        (1.0, 1.0)
    """
    if not isinstance(measured, Tensor) or measured.ndim != 3 or not bool(measured.isfinite().all()):
        raise DataError("measured must be finite answers with shape (seeds, subsets, queries); "
                        f"{_came(measured)} came.")
    seeds, subsets, q = measured.shape
    if seeds < LEAST_SEEDS or subsets < LEAST_SUBSETS:
        raise DataError(f"Scores are compared over at least {LEAST_SUBSETS} subsets and {LEAST_SEEDS} seeds, without "
                        f"which noise cannot be told from a lack of skill; {subsets} subsets and {seeds} seeds came. "
                        "Train more of them together by train_many.")
    if not isinstance(members, Tensor) or members.ndim != 2 or len(members) != subsets:
        raise DataError(f"members must say of each of {subsets} subsets which points are in it, with shape "
                        f"({subsets}, n); {_came(members)} came.")
    if not scores:
        raise DataError("There are no scores to compare. Pass {name: (kind, scores)}.")
    n = members.shape[1]
    predicted = []
    for name, (role, values) in scores.items():
        as_choice(role, f"the role of {name!r}", ROLES)
        if not isinstance(values, Tensor) or values.shape != (q, n) or not bool(values.isfinite().all()):
            raise DataError(f"The scores {name!r} must be finite, with a row for each of {q} queries and a column for "
                            f"each of {n} points; {_came(values)} came.")
        predicted.append(members.double() @ values.double().T)
    sums, answers = torch.stack(predicted), measured.double()
    mean = answers.mean(0)
    source = torch.Generator().manual_seed(as_seed(seed))
    rows = torch.randint(subsets, (as_count(resamples, "resamples", 1), subsets), generator=source)
    again = mean[rows].transpose(1, 2)
    drawn = torch.stack([spearman(one[rows].transpose(1, 2), again).mean(1) for one in sums])
    return SubsetTrial(list(scores), [role for role, _ in scores.values()],
                       spearman(sums.transpose(1, 2), mean.T.expand(len(sums), -1, -1)), drawn, _halves(answers),
                       sums, answers, dict(info or {}))


def _halves(answers: Tensor) -> Tensor:
    """The rank correlations of two halves of the seeds, over different ways to halve them, with shape (splits, q)."""
    count = len(answers)
    ways = [list(way) for way in combinations(range(count), count // 2) if count % 2 or 0 in way][:SPLITS]
    found = []
    for way in ways:
        # Of an odd number the last one that is left is dropped, so that halves are as large.
        rest = [i for i in range(count) if i not in way][:len(way)]
        found.append(spearman(answers[way].mean(0).T, answers[rest].mean(0).T))
    return torch.stack(found)


def _came(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else what_came(value)
