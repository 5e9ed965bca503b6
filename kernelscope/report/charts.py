"""Bars and lines as numbers in a drawing 1000 units wide: no style, no colour, only where things are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..decomposition.wording import number
from ..plots.thinning import thinned


def scale(values: Sequence[float]) -> tuple[float, float]:
    """Where zero is on a bar that must hold all values, and how long one unit is."""
    low, high = min(0.0, *values), max(0.0, *values)
    reach = (high - low) or 1.0
    return round(-low / reach * 1000, 1), 1000 / reach


def bar(value: float, zero: float, unit: float) -> dict[str, float]:
    """A bar from zero to the value."""
    length = abs(value) * unit
    return {"x": round(zero - length if value < 0 else zero, 1), "width": round(length, 1), "zero": zero}


def chart(
    lines: Sequence[tuple[str, str, Tensor]], mark: tuple[str, int | None], conclusion: str, *, low: float, high: float,
    moments: Sequence[int],
) -> dict[str, Any]:
    """Lines (name, class, values by entry) between two limits, with a mark (name, entry), each at its moment."""
    reach = (high - low) or 1.0
    steps = max(1, moments[-1])

    def y(value: float) -> float:
        return round(100 * (high - value) / reach, 2)

    return {
        "lines": [
            {"name": name, "class": kind,
             "points": " ".join(f"{1000 * moments[k] / steps:.4g},{y(float(values[k])):g}" for k in thinned(values))}
            for name, kind, values in lines
        ],
        "zero": y(0.0) if low < 0 < high else None,
        "mark": f"{1000 * moments[mark[1]] / steps:.4g}" if mark[1] else "",
        "mark_name": f"step {moments[mark[1] or 0]}: {mark[0]}",
        "low": _tick(low),
        "high": _tick(high),
        "steps": steps,
        "conclusion": conclusion,
    }


def _tick(value: float) -> str:
    return f"{value:.0f}" if value in (0, 1) else number(value)


def moments(steps: int, count: int = 21) -> list[int]:
    """Steps at which training is shown: more of them early, when most happens; the first and the last always."""
    return sorted({round(steps * (i / (count - 1)) ** 1.5) for i in range(count)})
