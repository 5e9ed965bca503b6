"""Bars to either side of nought, each with its name before it and its value behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..decomposition.wording import signed
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


def draw_bars(ax: Axes, theme: Theme, values: Sequence[float], names: Sequence[str]) -> None:
    """Draws a bar for each value, the first one on top."""
    places = range(len(values))
    ax.barh(places, values, height=0.66, color=[theme.up if value > 0 else theme.down for value in values])
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    ax.set_yticks(places, [plain(name) for name in names], parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.invert_yaxis()
    for place, value in zip(places, values, strict=True):
        ax.annotate(f"{'▲' if value > 0 else '▼'} {signed(value)}", (value, place), (5 if value >= 0 else -5, 0),
                    textcoords="offset points", ha="left" if value >= 0 else "right", va="center", color=theme.ink)
    # Values stand beside their bars, between them and the names.
    reach = max((abs(value) for value in values), default=1.0)
    ax.set_xlim(min([0.0, *values]) - 0.4 * reach, max([0.0, *values]) + 0.4 * reach)
    ax.spines["left"].set_visible(False)
