"""The drawings of how well expected outputs are foretold, over learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_choice
from ..diagnostics.agreement import Agreement
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What may be shown.
SHOWN = ("covered", "variance", "guesses")

#: How far names are apart, as a share of the height.
APART = 0.085


@drawing(Agreement)
def draw_agreement(result: Agreement, ax: Axes, theme: Theme, *, show: str = "covered") -> None:
    """Draws the share of intervals that hold 0, the ratio of variances, or how far off the guesses of runs are."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    as_choice(show, "show", SHOWN)
    colours = (theme.down, theme.muted, theme.data)
    rates, ends = result.rates.tolist(), []
    for i, (name, values, dashes) in enumerate(_lines(result, show)):
        colour = colours[i % 3] if show != "variance" else colours[2 * i]
        ax.plot(rates, values, color=colour, linewidth=1.5, linestyle=dashes, marker="o", markersize=3.5)
        if name:
            ends.append((values[-1], name, colour))
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(rates[0] * 0.92, rates[-1] * max(1.6, (rates[-1] / rates[0]) ** 0.45))
    if show == "covered":
        ax.set_ylim(0, 1.04)
        ax.axhline(0.95, color=theme.rule, linewidth=1)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        ax.set_ylabel("95 % intervals that hold 0")
    else:
        ax.set_yscale("log")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if show == "variance":
            ax.axhline(1.0, color=theme.rule, linewidth=1)
        ax.set_ylabel("predicted / measured variance" if show == "variance" else "off by, root mean square")
    _name(ax, rates[-1], ends, show != "covered")
    ax.set_xlabel("learning rate")
    ax.set_title(in_lines(conclusion(result, show), "; ", 72), parse_math=False)


def _lines(result: Agreement, show: str) -> list[tuple[str, list[float], object]]:
    """The name, the values and the dashes of each line; a line without a name goes with the one three before it."""
    short = (0, (2, 1.5))
    if show == "covered":
        names = ("path", "+ curvature", "+ noise")
        found = [(name, values.tolist(), "solid")
                 for name, values in zip(names, result.covered.values(), strict=True)]
        return found + [("", values.tolist(), short) for values in result.controlled.values()]
    if show == "variance":
        return [(name, result.variance[name].tolist(), "solid") for name in ("rows", "carried")]
    return [(name, values.tolist(), "solid") for name, values in result.guesses.items()] + [
        ("", values.tolist(), short) for values in result.foretold.values()]


def _name(ax: Axes, x: float, ends: list[tuple[float, str, str]], logarithmic: bool) -> None:
    bottom, top = ax.get_ylim()
    above = float("inf")
    for y, name, colour in sorted(ends, reverse=True):
        above = min(y, above / (top / bottom) ** APART if logarithmic else above - APART * (top - bottom))
        ax.annotate(name, (x, above), xytext=(7, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False)


def conclusion(result: Agreement, show: str) -> str:
    """What the drawing shows, in words."""
    at = result.largest
    rate = float(result.rates[at])
    if show == "covered":
        both = [float(result.covered[name][at]) for name in ("path", "noise")]
        return (f"At rate {rate:g} {both[1]:.0%} of intervals hold 0 with all terms, {both[0]:.0%} with the path; "
                "dashed: the martingale taken off each seed")
    if show == "variance":
        both = [float(result.variance[name][at]) for name in ("carried", "rows")]
        return (f"Pushes carried to the end foretell {both[0]:.2f} of the variance at rate {rate:g}; contribution rows "
                f"{both[1]:.3g} of it")
    adjusted, final = (float(result.guesses[name][at]) for name in ("adjusted", "final"))
    return (f"One run tells the mean to {adjusted:.2g} at rate {rate:g}, its own end to {final:.2g}; dashed: how far "
            "off the run says they are")
