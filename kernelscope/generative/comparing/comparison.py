"""Two generative models side by side, as a result: the table, the rules, what can be claimed and what it is beside."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from ...arguments import as_choice
from ...diagnostics.winners import Interval
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ..measures import intervals
from .bridging import Bridge
from .claims import LIMIT, Claim, claims
from .fairness import HELD, NOT_HELD
from .metrics import METRICS
from .readings import NULLS

if TYPE_CHECKING:
    import pandas as pd

#: What a decomposition may leave over, of its terms.
EXACT = 1e-10


class Row(NamedTuple):
    """One line of the table: the same metric of both models, with its nulls.

    Attributes:
        metric: Its key.
        slot: Which of several of this metric; ``"main"`` is the one that stands for the model.
        where: What it was read off on each side, in words; empty where it was not.
        values: Of each side the mean over seeds, with its interval from five seeds on; NaN where it is not known.
        why: Why it is not known, on each side; empty where it is.
        nulls: Of each side, the same number of what was not trained.
        why_null: Why there is none; empty where there is one.
    """

    metric: str
    slot: str
    where: list[str]
    values: list[Interval]
    why: list[str]
    nulls: list[dict[str, float]]
    why_null: str

    @property
    def label(self) -> str:
        """What it is called."""
        name = METRICS[self.metric].label
        return name if self.slot == "main" else f"{name}, {self.slot}"


@dataclass(frozen=True, eq=False, repr=False)
class GenerativeComparison(Result):
    """Two generative models side by side.

    Attributes:
        names: What the two are called.
        sides: ``"diffusion"`` or ``"GAN"``, of each.
        table: The rows in plain data; :attr:`rows` reads them.
        rules: The rules of a fair comparison: what each asks for, whether it holds, and what was found.
        samples: Points by whose they are: those of ``"a"`` and ``"b"``, ``"real"`` ones, and those of the nulls, each
            with shape (m, *).
        explained: Of one sample of each side: the sample, the training points that its correction rests on most, their
            ids and their centred contributions.
        bridge: The critic's field beside the denoiser's correction, where one side is a GAN and the other is not.
        info: Facts to print.
    """

    names: list[str]
    sides: list[str]
    table: list[dict[str, Any]]
    rules: list[dict[str, str]]
    samples: dict[str, Tensor]
    explained: dict[str, Tensor]
    bridge: Bridge | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """The lines of the table, in its order."""
        return [Row(row["metric"], row["slot"], row["where"], [intervals([_number(v) for v in side] or [math.nan])
                                                               for side in row["values"]],
                    row["why"], [{name: _number(v) for name, v in side.items()} for side in row["nulls"]],
                    row["why_null"]) for row in self.table]

    def row(self, metric: str, slot: str = "main") -> Row:
        """One line of the table.

        Raises:
            DataError: If there is none.
        """
        metric = as_choice(metric, "metric", list(dict.fromkeys(row["metric"] for row in self.table)))
        found = next((row for row in self.rows if (row.metric, row.slot) == (metric, slot)), None)
        if found is None:
            slots = [row.slot for row in self.rows if row.metric == metric]
            raise DataError(f"There is no row {metric!r} of {slot!r}. Of this metric there are {', '.join(slots)}.")
        return found

    def claims(self) -> list[Claim]:
        """What the numbers say, each with its null."""
        return claims(self)

    def summary(self) -> str:
        """The answer in one sentence."""
        told = {claim.topic: claim.text.rstrip(".") for claim in self.claims()}
        said = "; ".join(told[topic] for topic in ("coverage", "memorisation", "cancellation") if topic in told)
        return f"GenerativeComparison({said})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each metric, both models side by side, and a column for each null."""
        import pandas as pd

        # In an order of their own: a folder does not keep that of a row.
        known = {name: place for place, name in enumerate(NULLS)}
        rows, beside = [], sorted({name for row in self.rows for side in row.nulls for name in side},
                                  key=lambda name: (known.get(name, len(known)), name))
        for row in self.rows:
            line: dict[str, Any] = {"group": METRICS[row.metric].group, "metric": row.label}
            for name, found, why, where in zip(self.columns, row.values, row.why, row.where, strict=True):
                line |= {name: found.mean, f"{name} low": found.low, f"{name} high": found.high,
                         f"{name} read off": where or f"– ({why})"}
            for name in beside:
                values = [side.get(name, math.nan) for side in row.nulls]
                line |= {f"{name}, {of}": value for of, value in zip(self.columns, values, strict=True)}
            rows.append(line)
        return pd.DataFrame(rows)

    @property
    def columns(self) -> list[str]:
        """The names, apart from each other."""
        return self.names if self.names[0] != self.names[1] else [f"{name} {i}" for name, i in
                                                                  zip(self.names, (1, 2), strict=True)]

    def check(self) -> Check:
        """Whether terms add up, and whether the comparison is fair."""
        rows = []
        for row in self.rows:
            if row.metric == "completeness":
                for name, found in zip(self.columns, row.values, strict=True):
                    if not math.isnan(found.mean):
                        rows.append(CheckRow(f"completeness, {name}", "pass" if found.mean <= EXACT else "fail",
                                             found.mean, EXACT, f"The terms of {row.slot} leave {found.mean:.1e} of "
                                                                "their sizes over.".replace("e-", "e−")))
            if row.metric == "cancellation":
                for name, found in zip(self.columns, row.values, strict=True):
                    if not math.isnan(found.mean):
                        rows.append(CheckRow(f"cancellation, {name}", "pass" if found.mean <= LIMIT else "warn",
                                             found.mean, LIMIT, f"κ of {row.slot} is {found.mean:.4g}; beyond "
                                                                f"{LIMIT:g} no share is given as a percentage."))
        for rule in self.rules:
            rows.append(CheckRow(rule["rule"], "pass" if rule["held"] == HELD else "warn", None, None,
                                 f"{rule['held']}: {rule['found']}."))
        return Check(tuple(rows))

    def unfair(self) -> list[str]:
        """The rules that do not hold."""
        return [rule["rule"] for rule in self.rules if rule["held"] == NOT_HELD]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
