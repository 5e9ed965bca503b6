"""The drawings of converted layers: errors between the floor and the baselines, and by the number of features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..nn.layers.comparing import ModeComparison
from ..nn.layers.report import MODE_WORDS, ConversionReport
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from .style import Theme

#: Errors that are not above it are no part of a drawing.
SMALLEST = 1e-5

#: How the floors and the baselines are drawn.
DASHES = {"linear map": (4, 2), "low rank": (1, 1.5), "narrower": (6, 1.5, 1, 1.5), "floor": (2, 1),
          "floor with linear skip": (1, 3)}


@drawing(ConversionReport)
def draw_conversion(result: ConversionReport, ax: Axes, theme: Theme) -> None:
    """Draws a bar for the error of the layer and of each baseline, and a line at the floor of its features."""
    bars = {name: value for name, value in result.errors().items() if not name.startswith("floor")}
    names = sorted(bars, key=lambda name: bars[name], reverse=True)
    for place, name in enumerate(names):
        ax.barh(place, bars[name], height=0.6, color=theme.data if name == "this layer" else theme.rule)
        ax.annotate(f"{bars[name]:.3g}", (bars[name], place), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(names)), names)
    ax.axvline(result.svd_floor, color=theme.down, linewidth=1.2)
    ax.margins(x=0.12)
    ax.set_xlim(left=0)
    ax.set_xlabel(plain(f"relative error on {result.held_out:,} held-out inputs; the line is the floor of "
                        f"{result.features} features, {result.svd_floor:.3g}", 90), parse_math=False)
    ax.set_title(plain(f"{result.features} features ({MODE_WORDS[result.mode]}) are off by {result.rel_frob:.3g}, a "
                       f"linear map by {result.linear_rel:.3g}", 90), parse_math=False)


@drawing(ModeComparison)
def draw_modes(result: ModeComparison, ax: Axes, theme: Theme) -> None:
    """Draws the error of each mode against the number of features, and dashed those of the baselines and floors."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    colours = (theme.data, theme.up, theme.down, theme.ink)
    lines: list[tuple[str, Tensor, str, tuple[float, ...] | None]] = [
        (mode, result.errors[i], colours[i % len(colours)], None) for i, mode in enumerate(result.modes)]
    lines += [(name, values, theme.muted, DASHES[name]) for name, values in result.baselines.items()]
    for name, values, colour, dashes in lines:
        # A logarithm has no place for nought, nor for the round-off that all neurons of a layer reach.
        there = ((values > SMALLEST) & torch.isfinite(values)).nonzero().flatten().tolist()
        if there:
            ax.plot([result.features[i] for i in there], [float(values[i]) for i in there], color=colour,
                    linewidth=1.1 if dashes else 1.6, marker=None if dashes else "o", markersize=3.5,
                    linestyle=(0, dashes) if dashes else "-", label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(result.features, [f"{count:,}" for count in result.features])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("features")
    ax.set_ylabel("relative error, held-out inputs")
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(in_lines(conclusion(result), "; ", 60), parse_math=False)


def conclusion(result: ModeComparison) -> str:
    """What a comparison shows: the best mode with the most features that do not make up the whole layer."""
    above = (result.baselines["floor"] > SMALLEST).nonzero().flatten().tolist()
    place = above[-1] if above else len(result.features) - 1
    errors = result.errors[:, place].nan_to_num(nan=float("inf"))
    best = int(errors.argmin())
    linear, floor = (float(result.baselines[name][place]) for name in ("linear map", "floor"))
    if not bool(errors[best].isfinite()):
        return f"with {result.features[place]:,} features every conversion is refused"
    return (f"with {result.features[place]:,} features {result.modes[best]} is off by {float(errors[best]):.3g}; a "
            f"linear map by {linear:.3g}, the floor is {floor:.3g}")
