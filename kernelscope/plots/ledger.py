"""The drawing of a ledger: an output along the run, and what the data had added to it by each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..decomposition.result import Decomposition
from . import drawing
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


@drawing(Decomposition)
def draw_decomposition(result: Decomposition, ax: Axes, theme: Theme, *, query: int = 0, output: int = 0) -> None:
    """Draws one output of one query along the run, beside its start plus the data share booked so far."""
    path = result.path[query, output]
    booked = result.initial[query, output] + torch.cat([torch.zeros(1), result.steps[query, output].cumsum(0)])
    steps = range(len(path))
    ax.axhline(0, color=theme.rule, linewidth=0.8)
    ax.plot(steps, booked, color=theme.data, linewidth=1.4, linestyle=(0, (4, 2)))
    ax.plot(steps, path, color=theme.up, linewidth=1.6)
    ax.set_xlabel("training step")
    ax.set_xlim(0, len(path) * 1.22)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick < len(path)])
    label_ends(ax, len(path) - 1, [(float(path[-1]), result.output_names[output], theme.up),
                                   (float(booked[-1]), "start + data", theme.data)])
    ax.set_title(plain(conclusion(result, query, output), 90), parse_math=False)


def label_ends(ax: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Writes each line's name at its end, apart from each other."""
    low, high = ax.get_ylim()
    apart, last = 0.09 * (high - low), float("-inf")
    for y, text, colour in sorted(ends):
        last = max(y, last + apart)
        ax.annotate(plain(text), (x, last), xytext=(6, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False, parse_math=False)


def conclusion(result: Decomposition, query: int, output: int) -> str:
    """What the drawing shows, in words."""
    change = float(result.final[query, output] - result.initial[query, output])
    data = float(result.channels["data"][query, output])
    return (
        f"Training moved the {result.output_names[output]} by {change:+.3g}; the samples' shares add up to {data:+.3g}"
    ).replace("-", "−")
