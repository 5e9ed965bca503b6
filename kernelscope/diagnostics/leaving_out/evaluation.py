r"""How well each way to score training samples foretells what leaving them out did.

A contribution says what a sample added along the run; an influence says what leaving it out would do. Only the second
is a claim about retraining, and both are judged by it here, beside baselines and random scores, under their own names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...result import Check, CheckRow, Result
from ...text import with_minus
from .trial import SAME, SubsetTrial, varying

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTRIBUTION", "Evaluation", "GAUSS_NEWTON", "METAGRADIENT", "RANDOM", "WHAT"]

#: The ways that every evaluation has.
CONTRIBUTION, RANDOM = "contribution", "random scores"
METAGRADIENT, GAUSS_NEWTON = "influence, metagradient", "influence, Gauss-Newton"

#: What a score is, in words.
WHAT = {
    "contribution": "share: what the sample added along this run",
    "influence": "counterfactual: what leaving it out would do, to first order",
    "baseline": "baseline: neither a share nor a counterfactual",
    "null": "null: drawn at random",
}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Scores of training samples, judged by networks that were trained without some of them.

    Attributes:
        own: Against networks that began as the run did; with more than one seed each drew its own batches.
        anew: Against the mean of networks that each seed began anew; ``None`` where parameters cannot be drawn anew.
        settings: The setting that was chosen for each way that has one, on other queries than it is judged on.
        seconds: How long the scores of each way took.
        left_out: Ways that this run does not have, each with the reason.
        info: Facts to print.
    """

    own: SubsetTrial
    anew: SubsetTrial | None
    settings: dict[str, str]
    seconds: dict[str, float]
    left_out: dict[str, str]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def trials(self) -> dict[str, SubsetTrial]:
        """The comparisons by what networks began with."""
        return {"same start": self.own} | ({} if self.anew is None else {"mean of seeds": self.anew})

    @property
    def names(self) -> list[str]:
        """The ways, the best first, by networks that began as the run did."""
        return self.own.order

    def lds(self, name: str, start: str = "same start") -> float:
        """The linear datamodelling score of a way.

        Args:
            name: The way.
            start: ``"same start"`` or ``"mean of seeds"``.

        Raises:
            DataError: If there is no such way or start.
        """
        if start not in self.trials:
            raise DataError(f"There is no comparison by {start!r}. There is {', '.join(self.trials)}.")
        return self.trials[start].interval(name).mean

    def said(self) -> str:
        """Who foretells best, and what the contribution does, in words."""
        if not bool(varying(self.own.measured).any()):
            return SAME.rstrip(".")
        best = self.names[0]
        text = f"{best} foretells best what leaving out does, {self._figures(best)}"
        if CONTRIBUTION in self.names and best != CONTRIBUTION:
            text += (f"; the contribution, which says what samples added and not what leaving them out would do, has "
                     f"{self._figures(CONTRIBUTION)}")
        return text

    def _figures(self, name: str) -> str:
        return with_minus(" and ".join(f"{trial.interval(name).mean:.2f} of at most {trial.ceiling:.2f} ({start})"
                                       for start, trial in self.trials.items()))

    def extent(self) -> str:
        """How much was trained again, in words."""
        _, subsets, queries = self.own.measured.shape
        return (f"{subsets} subsets of {self.info.get('subset')} of {self.info.get('samples')} samples, "
                f"{self.info.get('networks')} networks trained again, {queries} queries, {self.info.get('asked')}")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Evaluation({self.extent()}: LDS: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each way, the best first, with what it is and the ceilings of noise beside it."""
        import pandas as pd

        rows = []
        for name in self.names:
            row: dict[str, Any] = {"way": name, "what it is": WHAT[self.own.role(name)]}
            for start, trial in self.trials.items():
                found = trial.interval(name)
                row |= {f"LDS, {start}": found.mean, f"{start}, low": found.low, f"{start}, high": found.high,
                        f"{start}, ceiling": trial.ceiling, f"{start}, as many seeds again": trial.reliability}
            row |= {"setting": self.settings.get(name, ""), "seconds": self.seconds.get(name, float("nan"))}
            rows.append(row)
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether noise leaves room to judge by, random scores find nothing, and no query was trained on."""
        rows = []
        for start, trial in self.trials.items():
            rows += [CheckRow(f"{row.name}, {start}", row.status, row.value, row.limit, f"By {start}: {row.sentence}")
                     for row in trial.check().rows]
        trained = int(self.info.get("queries trained on", 0))
        told = (f"{trained} of the queries are training samples, whose own presence in a subset is foretold."
                if trained else "No query is a training sample.")
        rows.append(CheckRow("held out", "warn" if trained else "pass", trained, 0, told))
        if self.info.get("interrupted"):
            rows.append(CheckRow("interrupted", "warn", None, None, f"{self.info['interrupted']}."))
        for name, why in self.left_out.items():
            rows.append(CheckRow(name, "warn", None, None, f"{name} is left out: {why}"))
        return Check(tuple(rows))
