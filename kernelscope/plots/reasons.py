"""The drawing of an explanation: how far each group of samples pushed one answer up or down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decomposition.explanation import Explanation
from ..decomposition.wording import signed
from . import drawing
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: More groups than this are not drawn; the rest are summed in one bar.
MOST_BARS = 12


@drawing(Explanation)
def draw_explanation(result: Explanation, ax: Axes, theme: Theme, *, query: int = 0) -> None:
    """Draws one bar for each group of samples: to the right if it pushed the explained output up, else to the left."""
    bars = strongest(result, query)
    names = [plain(name) for name, _ in bars]
    values = [value for _, value in bars]
    places = range(len(bars))
    ax.barh(places, values, height=0.66, color=[theme.up if value > 0 else theme.down for value in values])
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    # Labels are the user's words: a dollar sign in them is not mathematics.
    ax.set_yticks(places, names, parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.invert_yaxis()
    for place, value in zip(places, values, strict=True):
        mark = "▲" if value > 0 else "▼"
        ax.annotate(f"{mark} {signed(value)}", (value, place), (5 if value >= 0 else -5, 0), textcoords="offset points",
                    ha="left" if value >= 0 else "right", va="center", color=theme.ink)
    reach = max((abs(value) for value in values), default=1.0) or 1.0
    ax.set_xlim(min(0.0, *values) - 0.3 * reach, max(0.0, *values) + 0.3 * reach)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"contribution of each group of training samples, in {result.unit}")
    ax.set_title(plain(conclusion(result, query), 90), parse_math=False)


def strongest(result: Explanation, query: int) -> list[tuple[str, float]]:
    """The groups with the largest contributions, from the strongest push up down; the others as one line."""
    pairs = list(zip(result.group_names(), result.group_shares(query).tolist(), strict=True))
    pairs.sort(key=lambda pair: -abs(pair[1]))
    kept = sorted(pairs[:MOST_BARS], key=lambda pair: -pair[1])
    rest = pairs[MOST_BARS:]
    return [*kept, (f"{len(rest)} others", sum(value for _, value in rest))] if rest else kept


def conclusion(result: Explanation, query: int) -> str:
    """What the drawing shows, in words."""
    bars = strongest(result, query)
    answer = result.answer(query)
    what = result.decomposition.output_names[0] if answer is None else (
        f"{result.class_name(answer[0])} over {result.class_name(answer[1])}"
    )
    name, value = max(bars, key=lambda pair: abs(pair[1]), default=("nothing", 0.0))
    return f"{what}: samples labelled {name} pushed hardest, {signed(value)}"
