"""The drawing of expected outputs: where runs end on average and how far they spread, beside the recorded one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decomposition.stochastic.result import Expected
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Rows that can be read on one drawing, and half the width of a 95 % interval in standard deviations.
MOST, WIDE = 24, 1.96


@drawing(Expected)
def draw_expected(result: Expected, ax: Axes, theme: Theme, *, query: int | None = None,
                  output: int | None = None) -> None:
    """Draws the outputs of one query, or one output of all queries, with the intervals in which runs end."""
    pairs = _pairs(result, query, output)
    for row, (q, c, _) in enumerate(pairs):
        center, spread = float(result.adjusted[q, c]), WIDE * float(result.std[q, c])
        ax.plot([center - spread, center + spread], [row, row], color=theme.data, linewidth=5, alpha=0.35,
                solid_capstyle="butt")
        ax.plot([center], [row], marker="|", markersize=11, markeredgewidth=2, color=theme.data)
        if result.ensemble is not None:
            mean, wide = float(result.ensemble.mean[q, c]), WIDE * float(result.ensemble.std[q, c])
            ax.plot([mean - wide, mean + wide], [row + 0.28, row + 0.28], color=theme.up, linewidth=1.2)
            ax.plot([mean], [row + 0.28], marker="|", markersize=6, markeredgewidth=1.5, color=theme.up)
        ax.plot([float(result.final[q, c])], [row], marker="o", markersize=4.5, color=theme.ink)
    ax.set_yticks(range(len(pairs)), [plain(name, 18) for _, _, name in pairs])
    ax.set_ylim(len(pairs) - 0.4, -0.9)
    ax.set_xlabel("dot: this run; band: where 95 % of runs end, by their noise"
                  + ("; thin line: the runs trained anew" if result.ensemble is not None else ""))
    figure = ax.get_figure(root=True)
    if len(pairs) > 8 and figure is not None and len(figure.axes) == 1:
        figure.set_figheight(max(figure.get_figheight(), 0.9 + 0.28 * len(pairs)))
    ax.set_title(in_lines(conclusion(result), "; ", 72), parse_math=False)


def _pairs(result: Expected, query: int | None, output: int | None) -> list[tuple[int, int, str]]:
    """The query, output and name of each row."""
    outputs = len(result.output_names)
    if output is not None or (query is None and outputs == 1):
        c = result.place_of_output(output or 0)
        return [(q, c, f"query {q}") for q in range(len(result))][:MOST]
    q = result.place(query or 0)
    return [(q, c, result.output_names[c]) for c in range(outputs)][:MOST]


def conclusion(result: Expected) -> str:
    """What the drawing shows, in words."""
    spread = float(result.std.square().mean().sqrt())
    if result.order == 1:
        return f"Runs with other batches end {spread:.2g} apart (one standard deviation)"
    second = float((result.upto("noise") - result.upto("path")).square().mean().sqrt())
    return (f"Runs with other batches end {spread:.2g} apart (one standard deviation); curvature and noise move the "
            f"mean by {second:.2g}")
