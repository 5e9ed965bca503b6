"""Two runs compared, as a result: the measures with their nulls, what can be said, and the samples behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ...arguments import as_choice, as_count
from ...ranks import ranks
from ...result import Check, CheckRow, Result
from ..coverage.result import Coverage
from .metrics import METRICS, SIDES
from .reading import NULLS
from .wording import LIMIT, Claim, claims, printed

if TYPE_CHECKING:
    import pandas as pd

#: With how few probes an interval over them is rough.
ROUGH = 20

#: Within which distance from 1 a CKA is that of one kernel, in single precision too.
SAME = 1e-5


class Measure(NamedTuple):
    """One number of a comparison.

    Attributes:
        name: Its key.
        value: The number; NaN where it is not known.
        low: The lower end of its 95 % interval over probes, NaN where there is none.
        high: The upper end.
        nulls: What it is held against, by name.
        why: Why it is not known; empty where it is.
    """

    name: str
    value: float
    low: float
    high: float
    nulls: dict[str, float]
    why: str

    def __str__(self) -> str:
        return printed(self.value, self.low, self.high)


@dataclass(frozen=True, eq=False, repr=False)
class RunComparison(Result):
    """What two runs say of the same probes.

    Attributes:
        names: What the runs are called.
        ids: What the probes are called.
        table: The measures in plain data; :meth:`measure` reads them.
        answers: Of classifiers the class that each run answers each probe with.
        truth: The true classes, if they are known.
        outputs: Of each run, ``"a"`` and ``"b"``, the outputs at the start and at the end, with shape (2, q, c).
        contributions: Of each run the contribution of each distinct sample, with shape (q, c', n); empty if they were
            left out.
        sample_ids: The ids of these samples, those of the first copies.
        labels: A word for each.
        pairs: The places, in a and in b, of samples that are in both, with shape (m, 2).
        k: How many samples an answer leans on most.
        kernels: The empirical NTKs of the probes, of ``"a start"``, ``"a"``, ``"b start"`` and ``"b"``.
        spectra: Their eigenvalues, descending.
        points: What can be drawn: the first ``"probes"`` that are answered differently, and of each run the samples
            it leans on most, with their ``"a ids"`` and ``"b ids"``; empty of networks that take several inputs.
        coverage: The :class:`~kernelscope.Coverage` of the probes in each run; empty if it was left out.
        info: Facts to print.
    """

    names: list[str]
    ids: list[str]
    table: list[dict[str, Any]]
    answers: list[list[str]] | None
    truth: list[str] | None
    outputs: dict[str, Tensor]
    contributions: dict[str, Tensor]
    sample_ids: dict[str, Tensor]
    labels: dict[str, list[str] | None]
    pairs: Tensor
    k: int
    kernels: dict[str, Tensor]
    spectra: dict[str, Tensor]
    points: dict[str, Tensor]
    coverage: dict[str, Coverage]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def columns(self) -> list[str]:
        """The names of the runs, apart from each other."""
        return self.names if self.names[0] != self.names[1] else [f"{self.names[0]} {i}" for i in (1, 2)]

    @property
    def data(self) -> str:
        """How far the training samples of the two are the same, in words."""
        return self.info["data"]

    @property
    def measures(self) -> dict[str, Measure]:
        """All measures by name."""
        found = {}
        for row in self.table:
            value, low, high = (_number(row[key]) for key in ("value", "low", "high"))
            nulls = {name: _number(row["nulls"][name]) for name in NULLS if name in row["nulls"]}
            found[row["measure"]] = Measure(row["measure"], value, low, high, nulls, row["why"])
        return found

    def label(self, name: str) -> str:
        """What a measure is called, with the name of its run."""
        words, _, side = METRICS[name].label.partition(", ")
        return f"{words}, {self.columns[SIDES.index(side)]}" if side in SIDES else METRICS[name].label

    def measure(self, name: str) -> Measure:
        """One measure.

        Raises:
            DataError: If there is none of this name.
        """
        return self.measures[as_choice(name, "name", list(METRICS))]

    def differing(self) -> pd.DataFrame:
        """The probes that are answered differently, a row for each."""
        import pandas as pd

        if self.answers is None:
            return pd.DataFrame({"probe": [], **{name: [] for name in self.columns}})
        places = [i for i, (one, other) in enumerate(zip(*self.answers, strict=True)) if one != other]
        rows: dict[str, Any] = {"probe": [self.ids[i] for i in places]}
        rows |= {name: [each[i] for i in places] for name, each in zip(self.columns, self.answers, strict=True)}
        return pd.DataFrame(rows | ({} if self.truth is None else {"true": [self.truth[i] for i in places]}))

    def shared(self, k: int | None = None) -> pd.DataFrame:
        """The samples that are among the k both runs lean on most, over all probes; largest in a first."""
        return self._leaned("both", k)

    def only_a(self, k: int | None = None) -> pd.DataFrame:
        """The samples among the k that the first run leans on most, and not among those of the second."""
        return self._leaned("a", k)

    def only_b(self, k: int | None = None) -> pd.DataFrame:
        """The samples among the k that the second run leans on most, and not among those of the first."""
        return self._leaned("b", k)

    def leaning(self) -> pd.DataFrame:
        """A row for each distinct sample of either run: its ids, its mean contribution in size, and its rank, in each.

        A sample that a run never drew has no rank there.
        """
        import pandas as pd

        if not self.contributions:
            return pd.DataFrame({"sample in a": [], "sample in b": []})
        places = {"a": [*range(self.contributions["a"].shape[2])], "b": [-1] * self.contributions["a"].shape[2]}
        for one, other in self.pairs.tolist():
            places["b"][one] = other
        known = set(self.pairs[:, 1].tolist())
        rest = [i for i in range(self.contributions["b"].shape[2]) if i not in known]
        places = {"a": places["a"] + [-1] * len(rest), "b": places["b"] + rest}
        found: dict[str, Any] = {}
        words: list[str | None] = [None] * len(places["a"])
        for side in SIDES:
            sizes = self.contributions[side].abs().mean((0, 1))
            order = ranks(-sizes)
            ids, labels = self.sample_ids[side].tolist(), self.labels[side]
            found[f"sample in {side}"] = [ids[i] if i >= 0 else None for i in places[side]]
            found[f"size in {side}"] = [float(sizes[i]) if i >= 0 else math.nan for i in places[side]]
            found[f"rank in {side}"] = [float(order[i]) if i >= 0 else math.nan for i in places[side]]
            words = [word if word is not None or labels is None or i < 0 else labels[i]
                     for word, i in zip(words, places[side], strict=True)]
        table = pd.DataFrame(found).astype({f"sample in {side}": "Int64" for side in SIDES})
        return table if all(word is None for word in words) else table.assign(label=words)

    def _leaned(self, by: str, k: int | None) -> pd.DataFrame:
        k = self.k if k is None else as_count(k, "k", least=1)
        table = self.leaning()
        if not len(table):
            return table
        # Ranks of equal ones are shared, so the k first are counted out.
        tops = {side: table[f"rank in {side}"].rank(method="first") <= k for side in SIDES}
        kept = tops["a"] & tops["b"] if by == "both" else tops[by] & ~tops["b" if by == "a" else "a"]
        return table[kept].sort_values(f"rank in {'b' if by == 'b' else 'a'}").reset_index(drop=True)

    def claims(self) -> list[Claim]:
        """What the numbers say, each with its null: what differs first, what does not after it."""
        return claims(self)

    def said(self) -> str:
        """What differs, in words; or that nothing is shown to."""
        told = self.claims()
        found = [claim.text for claim in told if claim.differs][:3] or [claim.text for claim in told[:2]]
        return "; ".join(f"{text[0].lower()}{text[1:]}".rstrip(".") for text in found)

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"RunComparison({' and '.join(self.columns)} at {len(self):,} probes: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each measure: its value, its interval, and its nulls in words."""
        import pandas as pd

        return pd.DataFrame([
            {"group": METRICS[one.name].group, "measure": one.name, "value": one.value, "low": one.low,
             "high": one.high, "beside": "; ".join(f"{name} {printed(value)}" for name, value in one.nulls.items())
             or one.why or "–"} for one in self.measures.values()])

    def check(self) -> Check:
        """Whether ledgers close, shares may be read, probes are enough, and kernels say more than before training."""
        rows = []
        for side, name in zip(SIDES, self.columns, strict=True):
            if side in self.contributions:
                left, limit = self.info["completeness"][side], self.info["complete"][side]
                rows.append(CheckRow(f"completeness, {name}", "pass" if left <= limit else "fail", left, limit,
                                     f"The terms of {name} leave {left:.1e} of their sizes over.".replace("e-", "e−")))
                kappa = self.measure(f"kappa_{side}")
                size = kappa.value
                rows.append(CheckRow(
                    f"cancellation, {name}", "pass" if size <= LIMIT else "warn",
                    None if math.isnan(size) else size, LIMIT,
                    f"κ of {name} is {printed(size)}; beyond {LIMIT:g} only ranks of contributions are read."))
        count = len(self)
        rows.append(CheckRow("probes", "pass" if count >= ROUGH else "warn", float(count), float(ROUGH),
                             f"Intervals are over {count:,} probes{'' if count >= ROUGH else ', and so are rough'}."))
        alike = self.measure("cka")
        before = alike.nulls.get("untrained", math.nan)
        if not math.isnan(alike.value) and not math.isnan(before):
            more, same = alike.value > before, before > 1 - SAME
            told = ("Both began from the same kernel, so all that tells them apart came by training." if same else
                    f"The kernels are {'more' if more else 'no more'} alike than before training, where their CKA was "
                    f"{printed(before)}.")
            rows.append(CheckRow("beyond architecture", "pass" if more or same else "warn", alike.value, before, told))
        same = not any(self.info["only"])
        rows.append(CheckRow("data", "pass" if same else "warn", float(sum(self.info["only"])), 0.0,
                             f"Training samples: {self.data}."))
        return Check(tuple(rows))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
