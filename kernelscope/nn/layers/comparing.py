"""All ways to convert a layer side by side, with the baselines, for several numbers of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count, what_came
from ...errors import ConversionRefused, DataError
from ...result import Check, CheckRow, Result
from .conversion import MODES, TAKES, convert
from .report import ConversionReport

if TYPE_CHECKING:
    import pandas as pd

#: What stands beside the modes.
BASELINES = ("linear map", "low rank", "narrower", "floor", "floor with linear skip")


@dataclass(frozen=True, eq=False, repr=False)
class ModeComparison(Result):
    """Relative errors on the same held-out inputs.

    Attributes:
        modes: The modes.
        features: The numbers of features.
        errors: Relative errors of the modes, NaN where a conversion was refused, with shape (modes, features).
        baselines: Relative errors of the baselines and the floors, by their names, each with shape (features,).
        refused: Why conversions were refused, by mode.
        info: Facts to print.
    """

    modes: list[str]
    features: list[int]
    errors: Tensor
    baselines: dict[str, Tensor]
    refused: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """The answer in one sentence."""
        of = self.info
        parts = []
        for i, count in enumerate(self.features):
            fitted = {mode: float(self.errors[j, i]) for j, mode in enumerate(self.modes)
                      if not bool(self.errors[j, i].isnan())}
            said = ", ".join(f"{mode} {error:.3g}" for mode, error in fitted.items()) or "all refused"
            parts.append(f"{count} features {said}, linear map {float(self.baselines['linear map'][i]):.3g}, floor "
                         f"{float(self.baselines['floor'][i]):.3g}")
        refused = f"; refused: {', '.join(self.refused)}" if self.refused else ""
        return (f"ModeComparison({of['inputs']} -> {of['outputs']} {of['activation'] or 'function'}, "
                f"{of['held_out']:,} held-out inputs: {'; '.join(parts)}{refused})")

    def to_frame(self) -> pd.DataFrame:
        """One row for each mode, baseline and floor, with a column for each number of features."""
        import pandas as pd

        rows = {mode: self.errors[i].tolist() for i, mode in enumerate(self.modes)}
        rows |= {name: values.tolist() for name, values in self.baselines.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=[f"m={count}" for count in self.features])
        return table.rename_axis("mode").reset_index()

    def check(self) -> Check:
        """Whether each mode beats a linear map with every number of features."""
        rows = []
        for i, mode in enumerate(self.modes):
            ratios = self.errors[i] / self.baselines["linear map"].clamp(min=1e-300)
            known = ratios[~ratios.isnan()]
            if len(known):
                worst = float(known.max())
                rows.append(CheckRow(mode, "pass" if worst < 1 else "warn", worst, 1.0,
                                     f"The error of {mode} is at most {worst:.2f} times that of a linear map."))
        rows += [CheckRow(mode, "warn", None, None, why) for mode, why in self.refused.items()]
        return Check(tuple(rows))


def compare_modes(linear: nn.Module, activation: Any, x: Tensor, features: Sequence[int] = (16, 32, 64, 128),
                  modes: Sequence[str] = ("ridge", "cur", "analytic"), **options: Any) -> ModeComparison:
    """Converts a layer in all ways and compares errors on the same held-out inputs.

    Args:
        linear: The linear map, see :func:`convert`.
        activation: The function after it.
        x: Inputs to the layer, with shape (*, d).
        features: The numbers of features; each is taken once.
        modes: Which ways; each is taken once.
        options: What else :func:`convert` takes; a mode gets those that it looks at.

    Returns:
        The :class:`ModeComparison`.

    Raises:
        DataError: If an argument is none that can be taken.

    Example:
        >>> compare_modes(nn.Linear(6, 40), "tanh", torch.randn(300, 6), features=[8]).to_frame().shape
        (8, 2)
    """
    counts = [as_count(count, "features", 1) for count in _several(features, "features", "[16, 32]")]
    names = [as_choice(mode, "modes", MODES) for mode in _several(modes, "modes", '["ridge", "cur"]')]
    counts, names = list(dict.fromkeys(counts)), list(dict.fromkeys(names))
    of_some = {name for taken in TAKES.values() for name in taken}
    for_mode = {mode: {key: value for key, value in options.items() if key not in of_some or key in TAKES[mode]}
                for mode in MODES}
    errors = torch.full((len(names), len(counts)), float("nan"), dtype=torch.float64)
    baselines = {name: torch.full((len(counts),), float("nan"), dtype=torch.float64) for name in BASELINES}
    refused: dict[str, str] = {}
    report: ConversionReport | None = None
    # The baselines come with any report; own neurons are the cheapest conversion, and are never refused.
    for i, count in enumerate(counts):
        for j, mode in enumerate(names):
            try:
                _, found = convert(linear, activation, x, count, mode, **for_mode[mode])
            except ConversionRefused as error:
                refused[mode] = str(error)
                continue
            errors[j, i], report = found.rel_frob, found
        if bool(errors[:, i].isnan().all()):
            _, report = convert(linear, activation, x, count, "cur", **for_mode["cur"])
        assert report is not None
        for name in BASELINES:
            baselines[name][i] = report.errors()[name]
    assert report is not None
    return ModeComparison(names, counts, errors, baselines, refused,
                          {"inputs": report.inputs, "outputs": report.outputs, "activation": report.activation,
                           "held_out": report.held_out, "fitted": report.fitted})


def _several(values: Any, name: str, such_as: str) -> Sequence[Any]:
    if not isinstance(values, list | tuple | range) or not values:
        raise DataError(f"{name} must be a list with something in it; {what_came(values)} came. Pass for example "
                        f"{name}={such_as}.")
    return values
