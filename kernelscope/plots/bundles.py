"""The drawing of a bundled network: how far each block is from what it replaced, and what a linear map would be off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..nn.bundles.bundle_report import BundleReport
from ..text import with_minus
from . import drawing
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: The height of a bar, of which two stand at each place.
HEIGHT = 0.36

#: How many letters a title has in one line.
WIDTH = 62

#: Of more blocks as many are drawn.
MOST = 24


@drawing(BundleReport)
def draw_bundle(result: BundleReport, ax: Axes, theme: Theme) -> None:
    """Draws two bars for each block, its error and that of a linear map; for a network fitted to labels its scores."""
    names, pairs, what = _bars(result)
    places = range(len(names))
    for k, (label, colour) in enumerate(((what[0], theme.data), (what[1], theme.rule))):
        values = [pair[k] for pair in pairs]
        ax.barh([place + (k - 0.5) * HEIGHT for place in places], values, height=HEIGHT, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            ax.annotate(f"{value:.3g}", (value, place + (k - 0.5) * HEIGHT), (4, 0), textcoords="offset points",
                        va="center", color=theme.ink, fontsize="small")
    ax.set_yticks(places, [plain(name, 32) for name in names], parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.invert_yaxis()
    ends = [value for pair in pairs for value in pair if math.isfinite(value)]
    if what[2].startswith(("accuracy", "R²")):
        # Beyond 1 there is room for a number, and nothing to be reached.
        left = 1.2 * min([0.0, *ends])
        ax.set_xlim(left, 1.15)
        ax.set_xticks([tick for tick in ax.get_xticks() if left <= tick <= 1.0])
        ax.spines["bottom"].set_bounds(left, 1.0)
    else:
        ax.set_xlim(0, 1.25 * max(ends, default=1.0))
    ax.set_xlabel(plain(what[2], 90), parse_math=False)
    ax.legend(frameon=False, fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 0.0))
    ax.set_title(_lines(plain(conclusion(result), 200)), parse_math=False)


def _bars(result: BundleReport) -> tuple[list[str], list[tuple[float, float]], tuple[str, str, str]]:
    """The names of bars, their values in pairs, and what the two of a pair and the axis are called."""
    errors = list(zip(result.errors.tolist(), result.linear.tolist(), strict=True))
    if any(math.isfinite(error) for error, _ in errors) or result.score_after is None:
        return result.blocks[:MOST], errors[:MOST], ("features", "linear map",
                                                     f"error relative to the spread, on {result.measured_on}")
    linear = float("nan") if result.score_linear is None else result.score_linear
    return result.blocks, [(result.score_after, linear)], ("features", "linear map",
                                                           f"{result.score} on {result.measured_on}")


def _lines(title: str) -> str:
    """A title in as many lines as it needs, each of which ends with a part of it."""
    lines = [""]
    for words in title.split("; "):
        if lines[-1] and len(lines[-1]) + len(words) + 2 > WIDTH:
            lines.append("")
        lines[-1] += f"{'; ' if lines[-1] else ''}{words}"
    return ";\n".join(lines)


def conclusion(result: BundleReport) -> str:
    """What the drawing shows, in words."""
    more = f", {MOST} of {len(result.blocks)} blocks" if len(result.blocks) > MOST else ""
    # What the linear map reaches is seen.
    return with_minus(f"{result.said().partition(', of a linear map')[0]}{more}")
