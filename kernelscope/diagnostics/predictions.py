r"""Whether what was foretold is met: pairs of a prediction and a measurement, and how well they agree in rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_seed, what_came
from ..errors import DataError, NonFiniteError
from ..ranks import spearman
from ..result import Check, CheckRow, Result, as_float64
from ..text import with_minus

if TYPE_CHECKING:
    import pandas as pd

#: How often pairs are drawn again for the interval.
DRAWS = 2000

#: How many pairs a rank correlation needs.
LEAST = 3


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Result):
    """Pairs of a prediction and a measurement.

    Attributes:
        predicted: What was foretold, with shape (n,).
        measured: What was measured, with shape (n,).
        groups: The group of each pair, by its name.
        names: A word for each pair.
        spearman: The rank correlation of all pairs.
        interval: Its 95 % interval, by drawing pairs anew.
        by_group: The rank correlation within each group, with its interval.
        what: What is foretold, and what is measured, in words.
    """

    predicted: Tensor
    measured: Tensor
    groups: list[str]
    names: list[str]
    spearman: float
    interval: list[float]
    by_group: dict[str, list[float]]
    what: list[str]
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.predicted)

    def said(self) -> str:
        """The correlation, in words."""
        low, high = (with_minus(f"{end:.2f}") for end in self.interval)
        each = "".join(f"; {name} {with_minus(f'{rho:.3f}')} ({with_minus(f'{a:.2f}')} to {with_minus(f'{b:.2f}')}, "
                       f"{int(n)} pairs)" for name, (rho, a, b, n) in self.by_group.items()) if (
                           len(self.by_group) > 1) else ""
        return (f"{self.what[1]} against {self.what[0]}: Spearman {with_minus(f'{self.spearman:.3f}')} "
                f"(95 % interval {low} to {high}) over {len(self)} pairs{each}")

    def summary(self) -> str:
        return f"Predictions({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each pair."""
        import pandas as pd

        return pd.DataFrame({"name": self.names, "group": self.groups, self.what[0]: self.predicted.tolist(),
                             self.what[1]: self.measured.tolist()})

    def check(self) -> Check:
        """Whether ranks agree at all, and in every group alike."""
        low = self.interval[0]
        rows = [CheckRow("rank", "pass" if low > 0 else "warn", self.spearman, 0.0,
                         f"The interval of the rank correlation is {'above' if low > 0 else 'not above'} 0.")]
        if len(self.by_group) > 1:
            worst = min(self.by_group, key=lambda name: self.by_group[name][0])
            value = self.by_group[worst][0]
            rows.append(CheckRow("groups", "pass" if value > 0 else "warn", value, 0.0,
                                 f"It is least in {worst}: {with_minus(f'{value:.2f}')}."))
        return Check(tuple(rows))


def predictions(predicted: Any, measured: Any, *, names: Sequence[str] | None = None,
                groups: Sequence[str] | None = None, what: Sequence[str] = ("predicted", "measured"),
                seed: int = 0) -> Predictions:
    r"""Compares predictions with measurements by their ranks.

    The correlation is Spearman's; its interval is that of 2,000 draws of the pairs with replacement.

    Args:
        predicted: What was foretold, one number for each pair.
        measured: What was measured.
        names: A word for each pair.
        groups: A group for each pair; pairs of all groups go into one correlation, and each group has its own.
        what: What is foretold and what is measured, in words.
        seed: Of the draws.

    Raises:
        DataError: If there are fewer than 3 pairs, or they do not fit together.
        NonFiniteError: If a number is NaN or infinite.

    Example:
        >>> round(predictions([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]).spearman, 12)
        1.0
    """
    a, b = _numbers(predicted, "predicted"), _numbers(measured, "measured")
    if len(a) != len(b) or len(a) < LEAST:
        raise DataError(f"A comparison of ranks needs {LEAST} pairs or more; {len(a)} predictions and {len(b)} "
                        "measurements came. Pass one of each for each pair.")
    named = [str(i) for i in range(len(a))] if names is None else _words(names, "names")
    grouped = [""] * len(a) if groups is None else _words(groups, "groups")
    if len(named) != len(a) or len(grouped) != len(a):
        raise DataError(f"There are {len(a)} pairs, and {len(named)} names and {len(grouped)} groups came. Pass one "
                        "for each pair, or none.")
    words = [] if isinstance(what, str | Mapping) or not isinstance(what, Iterable) else [str(word) for word in what]
    if len(words) != 2:
        raise DataError(f"what says what is foretold and what is measured, two words; {what_came(what)} came. Pass for "
                        'example what=("predicted", "measured").')
    generator = torch.Generator().manual_seed(as_seed(seed))
    low, high = _interval(a, b, generator)
    within = {}
    for group in dict.fromkeys(grouped):
        places = torch.tensor([i for i, word in enumerate(grouped) if word == group])
        if len(places) >= LEAST:
            ends = _interval(a[places], b[places], generator)
            within[group] = [float(spearman(a[places], b[places])), *ends, float(len(places))]
    return Predictions(a, b, grouped, named, float(spearman(a, b)), [low, high], within, words)


def _interval(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[float, float]:
    drawn = torch.randint(len(a), (DRAWS, len(a)), generator=generator)
    low, high = spearman(a[drawn], b[drawn]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _words(values: Any, name: str) -> list[str]:
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise DataError(f"{name} must be a list with a word for each pair; {what_came(values)} came.")
    return [str(word) for word in values]


def _numbers(values: Any, name: str) -> Tensor:
    try:
        found = as_float64(torch.as_tensor(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} must be a list of numbers; {what_came(values)} came.") from error
    if found.ndim != 1:
        raise DataError(f"{name} must hold a number for each pair; shape {tuple(found.shape)} came.")
    if not bool(found.isfinite().all()):
        raise NonFiniteError(f"{name} holds NaN or infinite values. Leave their pairs out.")
    return found
