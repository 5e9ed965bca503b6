"""The drawing of learning curves: errors over the number of samples in logarithms, with the line that fits each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..arguments import as_choice
from ..diagnostics.curves.result import LearningCurves
from ..diagnostics.curves.wording import fastest
from ..text import with_minus
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How far names are apart, as a share of the height, where there is room; and by how much errors differ that have few
#: ticks.
APART, SPREAD = 0.075, 6.0

#: Lines differ by colour first, then by dashes and marker.
LOOKS = (("solid", "o"), ((0, (4, 2)), "s"), ((0, (1, 1.5)), "^"), ((0, (6, 2, 1, 2)), "D"))

#: By how many times the number of samples names are given room on the right.
ROOM = 0.45


@drawing(LearningCurves)
def draw_curves(result: LearningCurves, ax: Axes, theme: Theme, *, measure: str = "error") -> None:
    """Draws the mean error of each kernel with its standard error, and the power law that fits it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    as_choice(measure, "measure", result.errors)
    colours = (theme.up, theme.down, theme.data, theme.muted)
    means, offs = result.mean(measure), result.standard_error(measure)
    ends: list[tuple[float, str, str]] = []
    for i, name in enumerate(result.names):
        there = (means[i] > 0).nonzero().flatten().tolist()
        if not there:
            continue
        sizes = [result.samples[j] for j in there]
        colour, (dashes, marker) = colours[i % len(colours)], LOOKS[i // len(colours) % len(LOOKS)]
        label = plain(name, 26)
        # A standard error that reaches below nought has no end in logarithms.
        lower = [min(float(offs[i, j]), 0.9 * float(means[i, j])) for j in there]
        ax.errorbar(sizes, means[i, there].tolist(), yerr=[lower, offs[i, there].tolist()], color=colour,
                    marker=marker, markersize=3.5, linewidth=0, elinewidth=1.0)
        label = name
        if len(there) > 1:
            law = result.exponent(name, measure=measure)
            logs = torch.tensor(sizes, dtype=torch.float64).log()
            level = float((means[i, there].log() + law.value * logs).mean())
            ax.plot(sizes, [math.exp(level - law.value * float(log)) for log in logs], color=colour, linewidth=1.2,
                    linestyle=dashes)
            label = f"{plain(name, 26)} {with_minus(f'{-law.value:.2f}')}"
        ends.append((float(means[i, there[-1]]), label, colour))
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = result.samples[0], result.samples[-1]
    ax.set_xlim(low * 0.9, high * max(2.0, (high / low) ** ROOM))
    ax.set_xticks(result.samples, [f"{n:,}" for n in result.samples])
    ax.xaxis.set_minor_locator(NullLocator())
    bottom, top = ax.get_ylim()
    few = top / bottom < SPREAD
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if few else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("samples")
    ax.set_ylabel("error, share of the variance" if measure == "error" else "test points told wrong")
    _name(ax, high, ends)
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.set_title(in_lines(conclusion(result, measure), "; ", 66), parse_math=False)


def conclusion(result: LearningCurves, measure: str) -> str:
    """What the drawing shows, in words."""
    shared = result.shared(measure)
    best = result.best(measure, result.samples[shared])
    mean = float(result.mean(measure)[result.place(best[0]), shared])
    parts = [f"At n = {result.samples[shared]:,} {plain(best[0], 32)} misses least: {100 * mean:.3g} %"
             f"{_level(best[1:])}"]
    fast = fastest(result, measure)
    if fast:
        law = with_minus(f"{-result.exponent(fast[0], measure=measure).value:.2f}")
        parts.append(f"{plain(fast[0], 32)} falls fastest: n to {law}{_level(fast[1:])}")
    return "; ".join(parts)


def _level(names: list[str]) -> str:
    """That others are level, in few words."""
    return f", {len(names)} other{'s' * (len(names) > 1)} level" if names else ""


def _name(ax: Axes, x: int, ends: list[tuple[float, str, str]]) -> None:
    """Writes at the right of each line what it is and its exponent, none over another, and none beyond the frame."""
    bottom, top = (math.log(limit) for limit in ax.get_ylim())
    apart = min(APART, 1 / max(len(ends), 1)) * (top - bottom)
    ends = sorted(ends)
    places = [math.log(value) for value, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart)
    above = top + apart / 2
    for i in reversed(range(len(places))):
        above = places[i] = min(places[i], above - apart)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        ax.annotate(name, (x, math.exp(place)), (8, 0), textcoords="offset points", va="center", color=colour,
                    fontsize="small" if len(ends) < 12 else "x-small", annotation_clip=False)
