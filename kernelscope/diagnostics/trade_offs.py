"""What it costs to be good: a measure of several methods against what each of them takes, over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_switch, what_came
from ..errors import DataError, NonFiniteError
from ..result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class TradeOffs(Result):
    """Points of methods, each with a cost and a measure over seeds.

    Attributes:
        methods: The method of each point.
        costs: What each point takes, with shape (k,).
        values: The measure for each seed, with shape (k, s); NaN where a method has fewer seeds.
        cost: What costs are, as "trainable parameters".
        measure: What values are, as "accuracy".
        higher: Whether higher is better.
        lines: Values that stand for themselves, by name, such as the chance level.
    """

    methods: list[str]
    costs: Tensor
    values: Tensor
    cost: str
    measure: str
    higher: bool
    lines: dict[str, float]

    @property
    def names(self) -> list[str]:
        """The methods, each once, in their order."""
        return list(dict.fromkeys(self.methods))

    @property
    def means(self) -> Tensor:
        """The mean over seeds, with shape (k,)."""
        return self.values.nanmean(1)

    @property
    def standard_errors(self) -> Tensor:
        """The standard error of the mean over seeds, with shape (k,); NaN for one seed."""
        count = (~self.values.isnan()).sum(1)
        spread = (self.values - self.means[:, None]).square().nansum(1) / (count - 1)
        return torch.where(count > 1, (spread / count).sqrt(), math.nan)

    @property
    def best(self) -> int:
        """The point with the best mean."""
        return int(self.means.argmax() if self.higher else self.means.argmin())

    @property
    def cheapest(self) -> int:
        """The point with the least cost among those within one standard error of the best mean, and the best itself."""
        off = self.standard_errors[self.best].nan_to_num(0.0)
        gap = (self.means - self.means[self.best]) * (-1 if self.higher else 1)
        level = (gap <= off).nonzero().flatten()
        cheap = int(level[self.costs[level].argmin()])
        return cheap if self.costs[cheap] < self.costs[self.best] else self.best

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """By how much one point is above another, seed by seed: the mean and its standard error."""
        gaps = self.values[one] - self.values[other]
        gaps = gaps[~gaps.isnan()]
        off = float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else math.nan
        return float(gaps.mean()), off

    def said(self) -> str:
        """Which point is best, and which of the cheaper ones is as good."""
        best, cheap = self.best, self.cheapest
        text = f"the best {self.measure}, {self._told(best)}, is that of {self.methods[best]} at {self._taken(best)}"
        if cheap == best:
            return text
        times = float(self.costs[best] / self.costs[cheap])
        return (f"{text}; {self.methods[cheap]} is within one standard error of it, {self._told(cheap)}, at "
                f"{self._taken(cheap)}, {times:.3g} times fewer")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"TradeOffs({self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each point."""
        import pandas as pd

        return pd.DataFrame({
            "method": self.methods, self.cost: self.costs.tolist(), self.measure: self.means.tolist(),
            "standard error": self.standard_errors.tolist(), "seeds": (~self.values.isnan()).sum(1).tolist(),
        })

    def check(self) -> Check:
        """Whether every point has several seeds."""
        least = int((~self.values.isnan()).sum(1).min())
        return Check((CheckRow("seeds", "pass" if least > 1 else "warn", least, 2,
                               f"Every mean is over {least} seed{'s' * (least > 1)} at least."),))

    def _told(self, place: int) -> str:
        off = float(self.standard_errors[place])
        return f"{float(self.means[place]):.4g}" + ("" if math.isnan(off) else f" ± {off:.2g}")

    def _taken(self, place: int) -> str:
        return f"{amount(float(self.costs[place]))} {self.cost}"


def amount(value: float) -> str:
    """A cost as it is read: whole from a thousand on."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def trade_offs(points: Sequence[tuple[str, float, float | Sequence[float]]], *, cost: str, measure: str,
               higher: bool = True, lines: Mapping[str, float] | None = None) -> TradeOffs:
    """Puts points of methods together.

    Args:
        points: For each point the method, what it takes, and its measure, for one seed or for each of several, as a
            list, a tensor or an array.
        cost: What costs are, in the plural.
        measure: What values are.
        higher: Whether higher is better.
        lines: Values to compare with, by name.

    Raises:
        DataError: If there are no points, or they are none of these, or a cost is not positive.
        NonFiniteError: If a number is NaN or infinite.

    Example:
        >>> found = trade_offs([("small", 10, [0.8, 0.9]), ("large", 100, [0.85, 0.87])], cost="parameters",
        ...                    measure="accuracy")
        >>> print(found.said())                                                         # doctest: +NORMALIZE_WHITESPACE
        the best accuracy, 0.86 ± 0.01, is that of large at 100 parameters; small is within one standard error of it,
        0.85 ± 0.05, at 10 parameters, 10 times fewer
    """
    rows = [_row(point) for point in _listed(points)]
    if not rows:
        raise DataError("Trade-offs are of at least one point, and none came. Pass for example "
                        '[("head alone", 130, 0.8)].')
    for name, taken, values in rows:
        if not values or not all(map(math.isfinite, [taken, *values])):
            raise NonFiniteError(f"{name} has a cost of {taken} and the values {values}: all of them must be finite, "
                                 "and at least one must be there. Leave the point out.")
        if taken <= 0:
            raise DataError(f"Costs are drawn in logarithms, so they are above nought; {name} has {what_came(taken)}.")
    most = max(len(values) for *_, values in rows)
    table = torch.tensor([[*values, *[math.nan] * (most - len(values))] for *_, values in rows], dtype=torch.float64)
    return TradeOffs([name for name, *_ in rows], torch.tensor([taken for _, taken, _ in rows], dtype=torch.float64),
                     table, cost, measure, as_switch(higher, "higher"),
                     {name: float(value) for name, value in (lines or {}).items()})


def _listed(points: Any) -> list[Any]:
    if isinstance(points, str | Mapping) or not isinstance(points, Iterable):
        raise DataError(f"points must be a list with a method, a cost and a measure for each; {what_came(points)} "
                        'came. Pass for example [("head alone", 130, 0.8)].')
    return list(points)


def _row(point: Any) -> tuple[str, float, list[float]]:
    """A point as plain numbers, whatever holds them."""
    if not isinstance(point, tuple | list) or len(point) != 3:
        came = f"one with {len(point)} entries" if isinstance(point, tuple | list) else what_came(point)
        raise DataError(f"Each point is a method, a cost and a measure; {came} came. Pass for example "
                        '("head alone", 130, 0.8), or [0.8, 0.9] as its last entry for several seeds.')
    name, taken, values = point
    if not isinstance(name, str):
        raise DataError(f'A method is named by a word; {what_came(name)} came. Pass for example "head alone".')
    plain = torch.as_tensor(values).flatten().tolist() if hasattr(values, "__array__") else values
    try:
        return name, float(taken), [float(value) for value in (plain if isinstance(plain, Sequence) else [plain])]
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} has a cost or a measure that is no number ({error}). Pass for example "
                        '("head alone", 130, [0.8, 0.9]).') from error
