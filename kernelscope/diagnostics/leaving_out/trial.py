r"""Do scores of training points foretell what leaving points out does?

The linear datamodelling score. A score :math:`s_{qi}` of each training point foretells the answer of a network that is
trained on a subset S by a sum, and the answer is measured by training it:

.. math:: \text{LDS} = \frac1Q \sum_q \rho_S\Big(\sum_{i \in S} s_{qi},\ \bar f_q(S)\Big)

with the rank correlation over subsets. Retraining is noisy, and no score foretells noise. The answers of two halves of
the seeds correlate by r; by Spearman and Brown those of k times as many seeds have the reliability
:math:`R = k r / (1 + (k - 1) r)`. With k the number of seeds over that of a half, another set of as many seeds would
foretell these answers by R, and the score that knows the mean over all seeds there are by about :math:`\sqrt R`: the
ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_seed, as_switch, what_came
from ...errors import DataError
from ...ranks import spearman
from ...result import Check, CheckRow, Result
from ..winners import Interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROLES", "SubsetTrial", "subset_trial"]

#: What a score is. What a point added along a run is a contribution, what leaving it out would do an influence.
ROLES = ("contribution", "influence", "baseline", "null")

#: With how few subsets and seeds nothing is said.
LEAST_SUBSETS, LEAST_SEEDS = 8, 2

#: How many units in the last place answers may differ by that are the same.
ROUNDED = 16

#: What is said of answers that leaving samples out does not change.
SAME = ("There is nothing to foretell: no answer varies between subsets, whatever was left out. Ask for an output that "
        "depends on training; the loss of an ignored target is always 0.")

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
        trivial: The baseline that scores are shown beside, without which they are not; empty for none.
        exact: Whether training again gives the same answers, so that there is no noise.
    """

    names: list[str]
    roles: list[str]
    lds: Tensor
    drawn: Tensor
    halves: Tensor
    predicted: Tensor
    measured: Tensor
    info: dict[str, Any] = field(default_factory=dict)
    trivial: str = ""
    exact: bool = False

    @property
    def reliability(self) -> float:
        """The rank correlation that the mean answers of two sets of as many seeds would have, at least 0."""
        if self.exact:
            return 1.0
        # Halves of an odd number of seeds leave one out.
        seeds = len(self.measured)
        return longer(float(self.halves.mean()), seeds / (seeds // 2))

    @property
    def ceiling(self) -> float:
        """About the score of what knows the mean over all seeds there are: the root of the reliability."""
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
        if not bool(varying(self.measured).any()):
            return SAME
        if not self.reliability > 0:
            return ("Scores are not shown without a noise ceiling: the answers of two halves of the seeds do not "
                    "agree. Train more seeds or more subsets.")
        if self.trivial and self.trivial not in self.names:
            return (f'Scores are not shown without the trivial baseline: there is none called "{self.trivial}". Add it '
                    "to the scores.")
        return ""

    def said(self) -> str:
        """Who wins, in words."""
        if self.refused():
            return self.refused().rstrip(".")
        best = self.order[0]
        found = self.interval(best)
        noise = "training again has no noise" if self.exact else f"{self.ceiling:.3f} is the ceiling of noise"
        text = f"{best} ({self.role(best)}) foretells retraining best, LDS {found}, where {noise}"
        if self.trivial and best != self.trivial:
            lead = self.interval(best, than=self.trivial)
            word = "more than" if lead.low > 0 else "not clearly more than"
            text += f"; it has {word} {self.trivial}, {self.interval(self.trivial)}, a difference of {lead}"
        own = self.best_contribution
        if own is not None and own != best:
            text += f"; the best contribution, {own}, has {self.interval(own)}"
            text += f" and {self.against_trivial(own)}" if self.trivial else ""
        return text

    @property
    def best_contribution(self) -> str | None:
        """The contribution that foretells best, if there is one."""
        return next((name for name in self.order if self.role(name) == "contribution"), None)

    def against_trivial(self, name: str) -> str:
        """Whether a score does better than the trivial baseline, in words."""
        lead = self.interval(name, than=self.trivial)
        word = "beats" if lead.low > 0 else "loses to" if lead.high < 0 else "is level with"
        return f"{word} {self.trivial}"

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
            row: dict[str, Any] = {"score": name, "role": self.role(name), "LDS": found.mean, "low": found.low,
                                   "high": found.high, "part of ceiling": found.mean / (self.ceiling or math.nan)}
            if self.trivial in self.names:
                lead = self.interval(name, than=self.trivial)
                row |= {f"minus {self.trivial}": lead.mean, f"minus {self.trivial} low": lead.low,
                        f"minus {self.trivial} high": lead.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether there are a ceiling, the trivial baseline and a null, and whether the null finds nothing."""
        known = self.reliability > 0 and not self.refused()
        same = int((~varying(self.measured)).sum())
        rows = [CheckRow("ceiling", "pass" if known else "fail", self.ceiling if known else None, None,
                         f"The ceiling of noise is {self.ceiling:.3f}." if known else self.refused())]
        if same:
            count = self.measured.shape[-1]
            rows.append(CheckRow("spread", "fail" if same == count else "warn", same, 0,
                                 f"{same} of {count} answers are the same whatever was left out, and count as 0."))
        if self.trivial:
            there = self.trivial in self.names
            rows.append(CheckRow("baseline", "pass" if there else "fail", None, None,
                                 f"{self.trivial} is beside the scores." if there else
                                 f"There is no {self.trivial} beside the scores."))
        for name in (name for name in self.names if self.role(name) == "null"):
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

    def role(self, name: str) -> str:
        """What a score is."""
        return self.roles[self._place(name)]


def subset_trial(
    scores: Mapping[str, tuple[str, Tensor]],
    members: Tensor,
    measured: Tensor,
    *,
    resamples: int = 200,
    seed: int = 0,
    info: Mapping[str, Any] | None = None,
    trivial: str = "",
    exact: bool = False,
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
        trivial: The name of the baseline that must be among the scores.
        exact: Whether training again gives the same answers; then one seed is enough.

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
    if seeds < LEAST_SEEDS and not as_switch(exact, "exact") or subsets < LEAST_SUBSETS:
        raise DataError(f"Scores are compared over at least {LEAST_SUBSETS} subsets and {LEAST_SEEDS} seeds, without "
                        f"which noise cannot be told from a lack of skill; {subsets} subsets and {seeds} seeds came. "
                        "Train more of them.")
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
                       spearman(sums.transpose(1, 2), mean.T.expand(len(sums), -1, -1)), drawn,
                       answers.new_ones(1, q) if exact else _halves(answers), sums, answers, dict(info or {}), trivial,
                       exact)


def varying(measured: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Whether answers, with shape (seeds, subsets, q), vary between subsets by more than round-off, with shape (q,).

    Example:
        >>> varying(torch.tensor([[[1.0, 2.0], [1.0, 3.0]]]))
        tensor([False,  True])
    """
    spread = (measured.amax(1) - measured.amin(1)).amax(0)
    return spread > ROUNDED * torch.finfo(dtype).eps * measured.abs().amax((0, 1))


def longer(r: float, times: float) -> float:
    """The reliability of an average over so many times as many draws as correlate by r, at least 0 (Spearman, Brown).

    Example:
        >>> round(longer(0.5, 2), 12), longer(-0.1, 3)
        (0.666666666667, 0.0)
    """
    return times * r / (1 + (times - 1) * r) if r > 0 else 0.0


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
