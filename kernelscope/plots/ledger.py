"""The drawing of a ledger: an output along the run, and what the data had added to it by each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..decomposition.result import Decomposition
from ..decomposition.wording import signed
from . import drawing
from .style import in_lines, plain
from .thinning import thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Letters of a line of the title.
TITLE = 72


@drawing(Decomposition)
def draw_decomposition(result: Decomposition, ax: Axes, theme: Theme, *, query: int = 0, output: int = 0) -> None:
    """Draws one output of one query along the run, beside its start plus the data share booked so far."""
    query, output = result.place(query), result.place_of_output(output)
    path = result.path[query, output]
    booked = result.initial[query, output] + torch.cat([torch.zeros(1), result.steps[query, output].cumsum(0)])
    moments = result.moments
    ax.axhline(0, color=theme.rule, linewidth=0.8)
    for values, colour, dashes in ((booked, theme.data, (0, (4, 2))), (path, theme.up, "solid")):
        kept = thinned(values, most=1000)
        ax.plot([moments[k] for k in kept], values[kept], color=colour, linewidth=1.5, linestyle=dashes)
    ax.set_xlabel("training step")
    ax.set_xlim(0, (moments[-1] + 1) * 1.22)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= moments[-1]])
    label_ends(ax, moments[-1], [(float(path[-1]), result.output_names[output], theme.up),
                                   (float(booked[-1]), "start + shares", theme.data)])
    ax.set_title(in_lines(conclusion(result, query, output), "; ", TITLE), parse_math=False)


def label_ends(ax: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Writes each line's name at its end, apart from each other."""
    low, high = ax.get_ylim()
    apart, above = 0.09 * (high - low), float("inf")
    for y, text, colour in sorted(ends, reverse=True):
        above = min(y, above - apart)
        ax.annotate(plain(text, 16), (x, above), xytext=(6, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False, parse_math=False)


def conclusion(result: Decomposition, query: int, output: int) -> str:
    """What the drawing shows, in words."""
    change = float(result.final[query, output] - result.initial[query, output])
    data = float(result.channels["data"][query, output])
    name = result.output_names[output]
    what = f"output {name}" if name.isdigit() else plain(name, 30)
    left = float(result.channels["unattributed"][query, output])
    missing = f", {signed(left)} is unattributed" if result.on_chords else ""
    return f"Training moved the {what} by {signed(change)}; the samples’ shares add up to {signed(data)}{missing}"
