"""The drawing of what more centers and more data bring: a line for each number of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..diagnostics.scaling import Scaling
from . import drawing
from .style import plain

#: How far names are apart, as a share of the height; and by how much values differ that have few ticks.
APART, SPREAD = 0.06, 4.0

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


@drawing(Scaling)
def draw_scaling(result: Scaling, ax: Axes, theme: Theme, *, against: str = "centers", show: str = "errors") -> None:
    """Draws the test error, or the seconds of the fits, against one size, with a line for each of the other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    across = against == "centers"
    values = getattr(result, show) if across else getattr(result, show).T
    sizes, others = (result.centers, result.samples) if across else (result.samples, result.centers)
    other = "samples" if across else "centers"
    ends: list[tuple[float, int, str]] = []
    for i, size in enumerate(others):
        there = (~torch.isnan(values[i])).nonzero().flatten().tolist()
        # From faint to strong, as the other size grows.
        alpha = 0.35 + 0.65 * (i + 1) / len(others)
        ax.plot([sizes[j] for j in there], [float(values[i, j]) for j in there], color=theme.data, alpha=alpha,
                marker="o", markersize=3.5, linewidth=1.4)
        if there:
            ends.append((float(values[i, there[-1]]), sizes[there[-1]], f"{size:,}"))
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.22)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bottom, top = ax.get_ylim()
    # Where the values span less than a few ticks, the ticks between are told too.
    ax.yaxis.set_minor_locator(LogLocator(subs=(1.5, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0)) if top / bottom < SPREAD else
                               NullLocator())
    ax.set_xlabel(against)
    ax.set_ylabel("test error" if show == "errors" else show)
    _name(ax, ends, other, theme)
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.set_title(plain(conclusion(result, against, show), 90), parse_math=False)


def _name(ax: Axes, ends: list[tuple[float, int, str]], other: str, theme: Theme) -> None:
    """Writes at the end of each line what it stands for, none over another."""
    bottom, top = ax.get_ylim()
    least = (top / bottom) ** APART
    place = 0.0
    for value, size, name in sorted(ends):
        place = max(value, place * least)
        ax.annotate(f"{name} {other}", (size, place), (7, 0), textcoords="offset points", va="center", color=theme.ink,
                    fontsize="small")


def conclusion(result: Scaling, against: str, show: str) -> str:
    """What the drawing shows, in words."""
    other = "samples" if against == "centers" else "centers"
    fixed = (result.samples if other == "samples" else result.centers)[-1]
    if show == "errors":
        low, high, share = result.gain(against)
        way = "lower" if share >= 0 else "raise"
        return (f"{high / low:.3g} times the {against} {way} the error by {abs(share):.0%}, with {fixed:,} {other}"
                if high > low else f"The error with {high:,} {against} and {fixed:,} {other}")
    row = result.seconds[-1] if against == "centers" else result.seconds[:, -1]
    sizes = result.centers if against == "centers" else result.samples
    there = (~row.isnan()).nonzero().flatten().tolist()
    longer = float(row[there[-1]] / row[there[0]])
    larger = sizes[there[-1]] / sizes[there[0]]
    return f"{larger:.3g} times the {against} take {float(f'{longer:.2g}'):,g} times as long, with {fixed:,} {other}"
