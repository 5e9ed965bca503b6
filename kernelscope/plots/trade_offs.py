"""The drawing of what it costs to be good: a line of points for each method, with standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..diagnostics.trade_offs import TradeOffs, amount
from . import drawing
from .curves import LOOKS
from .style import as_they_are, in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: By how many times the range of the measure has to be wider than its least value to be drawn in logarithms.
WIDE = 20.0


@drawing(TradeOffs)
def draw_trade_offs(result: TradeOffs, ax: Axes, theme: Theme) -> None:
    """Draws the measure of each method over its cost in logarithms."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours = (theme.up, theme.down, theme.data, theme.muted)
    means, offs = result.means, result.standard_errors.nan_to_num(0.0)
    for i, name in enumerate(result.names):
        there = sorted((k for k, one in enumerate(result.methods) if one == name), key=lambda k: float(result.costs[k]))
        dashes, marker = LOOKS[i // len(colours) % len(LOOKS)]
        ax.errorbar(result.costs[there].tolist(), means[there].tolist(), yerr=offs[there].tolist(),
                    color=colours[i % len(colours)], linestyle=dashes, marker=marker, markersize=4, linewidth=1.2,
                    elinewidth=1.0, label=plain(name, 34))
    for name, value in result.lines.items():
        ax.axhline(value, color=theme.rule, linewidth=1.0, zorder=0)
        ax.annotate(plain(name, 40), (0.01, value), (0, 2), xycoords=("axes fraction", "data"),
                    textcoords="offset points", color=theme.muted, fontsize="x-small", parse_math=False)
    ax.set_xscale("log")
    amounts = FuncFormatter(lambda value, _: amount(value))
    ax.xaxis.set_major_formatter(amounts)
    # Within one power of ten there may be no other mark to read.
    ax.xaxis.set_minor_formatter(amounts if float(result.costs.max() / result.costs.min()) < 10 else NullFormatter())
    if float(means.min()) > 0 and float(means.max() / means.min()) > WIDE:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(plain(result.cost, 60))
    ax.set_ylabel(plain(result.measure, 60))
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink)
    as_they_are(ax)
    ax.set_title(in_lines(conclusion(result), "; ", 70), parse_math=False)


def conclusion(result: TradeOffs) -> str:
    """What the drawing shows, in words."""
    best, cheap = result.best, result.cheapest
    text = (f"{plain(result.methods[best], 34)} has the best {plain(result.measure, 24)}, "
            f"{float(result.means[best]):.3g}; it takes {amount(float(result.costs[best]))} {plain(result.cost, 30)}")
    if cheap == best:
        return text
    times = float(result.costs[best] / result.costs[cheap])
    return f"{text}; {plain(result.methods[cheap], 34)} is level with {times:.3g} times fewer"
