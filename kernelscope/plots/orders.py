"""The drawing of errors against a step size, both in logarithms, where an order is a slope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..diagnostics.orders import Orders
from ..text import with_minus
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How lines are told apart, and how far their names are apart as a share of the height.
DASHES = ("solid", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
APART = 0.075


@drawing(Orders)
def draw_orders(result: Orders, ax: Axes, theme: Theme) -> None:
    """Draws a line for each error, with its measured order."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    colours = {order: colour for order, colour in
               zip(sorted(set(result.claimed.values())), (theme.down, theme.data, theme.up), strict=False)}
    sizes, ends, seen = result.sizes.tolist(), [], dict.fromkeys(colours, 0)
    for name, values in result.errors.items():
        claimed = result.claimed.get(name)
        colour = theme.muted if claimed is None else colours.get(claimed, theme.ink)
        dashes = DASHES[seen.get(claimed, 0) % len(DASHES)] if claimed is not None else DASHES[2]
        if claimed is not None:
            seen[claimed] += 1
        ax.plot(sizes, values.tolist(), color=colour, linestyle=dashes, linewidth=1.5, marker="o", markersize=3.5)
        ends.append((float(values[-1]), f"{name}: {result.order(name):.2f}", colour))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: with_minus(f"{value:.0e}").replace("e−0", "e−")))
    ax.set_xlim(sizes[0] * 0.9, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.75)
    bottom, top = ax.get_ylim()
    least, above = (top / bottom) ** APART, float("inf")
    for y, name, colour in sorted(ends, reverse=True):
        above = min(y, above / least)
        ax.annotate(plain(name, 44), (sizes[-1], above), xytext=(7, 0), textcoords="offset points", color=colour,
                    va="center", fontsize="small", annotation_clip=False, parse_math=False)
    ax.set_xlabel(result.size_name)
    ax.set_ylabel("error")
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.set_title(in_lines(conclusion(result), "; ", 72), parse_math=False)


def conclusion(result: Orders) -> str:
    """What the drawing shows, in words."""
    if not result.claimed:
        return f"Orders in the {result.size_name}: {result.said()}"
    met = sum(row.status == "pass" for row in result.check().rows)
    return f"{met} of {len(result.claimed)} errors fall with the {result.size_name} at the order that is claimed"
