"""The drawing of what optimizers remember: the weight of each step in the final parameters, a line for each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_count
from ..decomposition.stochastic.memory import MemoryWeights
from ..errors import DataError
from . import drawing
from .style import in_lines, plain
from .thinning import thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How the lines of several runs are told apart.
DASHES = ("solid", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))

#: How far names are apart, as a share of the height.
APART = 0.09


@drawing(MemoryWeights)
def draw_memory(result: MemoryWeights, ax: Axes, theme: Theme, *, last: int | None = None) -> None:
    """Draws the weights as shares of the median one; ``last`` shows so many of the last steps."""
    if last is not None:
        as_count(last, "last", least=2)
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not any(len(values) for values in result.weights.values()):
        raise DataError("These runs have no steps, so there is nothing to draw. Record a loop with at least one step.")
    colours, ends, longest = (theme.up, theme.data, theme.down, theme.muted), [], 0
    for i, name in enumerate(result.weights):
        values = result.relative(name)
        if not len(values):
            continue
        first = max(0, len(values) - last) if last else 0
        kept = [k for k in thinned(values, most=1000) if k >= first]
        colour = colours[i % len(colours)]
        ax.plot(kept, values[kept], color=colour, linewidth=1.5, linestyle=DASHES[i % len(DASHES)])
        ends.append((float(values[-1]), name, colour))
        longest = max(longest, len(values))
    low = max(0, longest - last) if last else 0
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlim(low, low + (longest - low) * 1.22)
    ax.set_xticks([tick for tick in ax.get_xticks() if low <= tick < longest])
    _name(ax, longest - 1, ends)
    ax.set_xlabel("training step")
    ax.set_ylabel("weight in the end, median = 1")
    ax.set_title(in_lines(conclusion(result), ": ", 72), parse_math=False)


def _name(ax: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Writes each line's name at its end, none over another."""
    bottom, top = ax.get_ylim()
    least, above = (top / bottom) ** APART, float("inf")
    for y, name, colour in sorted(ends, reverse=True):
        above = min(y, above / least)
        ax.annotate(plain(name, 16), (x, above), xytext=(6, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False, parse_math=False)


def conclusion(result: MemoryWeights) -> str:
    """What the drawing shows, in words."""
    return "Weight of the last gradient so far: " + ", ".join(f"{name} {result.last(name):.0%}"
                                                              for name in result.weights)
