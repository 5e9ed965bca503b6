"""The drawing of an explanation: how far groups of samples, or single ones, pushed one answer up or down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decomposition.explanation import Explanation
from ..decomposition.wording import counted, signed, subject
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: More bars than this are not drawn; the rest are summed in one.
MOST_BARS = 12

#: Letters of a bar's name, of a line as wide as the drawing, and of a name in the title.
NAME, TITLE, WORD = 20, 68, 12

#: Fewer bars than this stand as far apart as if there were so many.
FEWEST_BARS = 5


@drawing(Explanation)
def draw_explanation(result: Explanation, ax: Axes, theme: Theme, *, query: int = 0) -> None:
    """Draws one bar for each group of samples: to the right if it pushed the explained output up, else to the left.

    Where samples carry no labels, the bars are those of the strongest single samples.
    """
    query = result.decomposition.place(query)
    bars = strongest(result, query)
    names = [plain(name, NAME) for name, _ in bars]
    values = [value for _, value in bars]
    places = range(len(bars))
    colours = [theme.up if value > 0 else theme.down for value in values]
    if len(bars) > MOST_BARS:
        colours[-1] = theme.muted  # all the others: not one of them pushed so hard
    ax.barh(places, values, height=0.66, color=colours)
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    # Labels are the user's words: a dollar sign in them is not mathematics.
    ax.set_yticks(places, names, parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    spare = max(0.0, FEWEST_BARS - len(bars)) / 2
    ax.set_ylim(len(bars) - 0.5 + spare, -0.5 - spare)
    for place, value in zip(places, values, strict=True):
        mark = "▲" if value > 0 else "▼" if value < 0 else "·"
        ax.annotate(f"{mark} {signed(value)}", (value, place), (5 if value >= 0 else -5, 0), textcoords="offset points",
                    ha="left" if value >= 0 else "right", va="center", color=theme.ink)
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    # A bar's number stands beyond its end, and needs about a quarter of the width.
    ax.set_xlim(low - (0.26 if low < 0 else 0.03) * span, high + (0.26 if high > 0 else 0.03) * span)
    ax.spines["left"].set_visible(False)
    who = "each group of training samples" if grouped(result) else "single training samples"
    ax.set_xlabel(f"contribution of {who} to {subject(result)}, in {result.unit}")
    room = TITLE - max(map(len, names), default=0)
    ax.set_title(in_lines(conclusion(result, query), ": ", room), parse_math=False)


def grouped(result: Explanation) -> bool:
    """Whether there is more than one group to set against each other."""
    return len(result.group_names()) > 1


def strongest(result: Explanation, query: int) -> list[tuple[str, float]]:
    """The largest contributions, from the strongest push up down; the others as one line."""
    if grouped(result):
        pairs = list(zip(result.group_names(), result.group_shares(query).tolist(), strict=True))
    else:
        ids = result.decomposition.sample_ids.tolist()
        pairs = [(f"#{i}", share) for i, share in zip(ids, result.shares[query].tolist(), strict=True) if share]
    pairs.sort(key=lambda pair: -abs(pair[1]))
    kept = sorted(pairs[:MOST_BARS], key=lambda pair: -pair[1])
    rest = pairs[MOST_BARS:]
    return [*kept, (counted(len(rest), "other"), sum(value for _, value in rest))] if rest else kept


def conclusion(result: Explanation, query: int) -> str:
    """What the drawing shows, in words."""
    answer = result.answer(query)
    if answer is None:
        name = result.decomposition.output_names[0]
        named = f"output {name}" if name.isdigit() else "the output" if name == "output" else plain(name, WORD)
        what = f"Why {named} is {signed(float(result.decomposition.final[query, 0]))}"
    else:
        what = f"Why {plain(result.class_name(answer[0]), WORD)} and not {plain(result.class_name(answer[1]), WORD)}"
    bars = [bar for bar in strongest(result, query)[:MOST_BARS] if bar[1]]
    if not bars:
        return f"{what}: no sample moved it"
    name, value = max(bars, key=lambda bar: abs(bar[1]))
    who = f"samples labelled {plain(name, WORD)}" if grouped(result) else f"sample {name}"
    return f"{what}: {who} pushed hardest, {signed(value)}"
