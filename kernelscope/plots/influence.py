"""The drawings of influence: the samples whose weight matters most, and influence against contribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..decomposition.influence.beside import ContributionAndInfluence
from ..decomposition.influence.result import Influence
from . import drawing
from .bars import draw_bars
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


@drawing(Influence)
def draw_influence(result: Influence, ax: Axes, theme: Theme, *, query: int = 0, output: int = 0, k: int = 5) -> None:
    """Draws a bar for each of the k samples whose weight raises one output of a query most, and lowers it most."""
    bars = strongest(result, query, output, k)
    draw_bars(ax, theme, [value for _, value in bars], [named(result, place) for place, _ in bars])
    ax.set_xlabel("influence: change of the output by the weight of the sample")
    ax.set_title(plain(conclusion(result, query, output, bars), 64), parse_math=False)


def strongest(result: Influence, query: int, output: int, k: int) -> list[tuple[int, float]]:
    """The samples of most positive and most negative influence, from the largest down, by their places."""
    row = result.influences[result.place(query), result.place_of_output(output)]
    order = row.argsort(descending=True, stable=True).tolist()
    chosen = sorted({*order[:k], *order[-k:]}, key=order.index)
    return [(place, float(row[place])) for place in chosen if float(row[place]) != 0]


def named(result: Influence, place: int) -> str:
    """A training sample in words: its class, if it has one, and its id."""
    label = "" if result.labels is None else result.labels[place]
    name = f"sample {int(result.sample_ids[place])}"
    return f"{label} ({name})" if label else name


def conclusion(result: Influence, query: int, output: int, bars: list[tuple[int, float]]) -> str:
    """What the drawing shows, in words."""
    what = result.output_names[result.place_of_output(output)]
    what = f"output {what}" if what.isdigit() else what
    if not bars:
        return f"No sample's weight moves the {what}"
    place, value = max(bars, key=lambda bar: abs(bar[1]))
    way = "lower" if value > 0 else "higher"
    return f"Without {named(result, place)} the {what} would be about {abs(value):.2g} {way}"


@drawing(ContributionAndInfluence)
def draw_both(result: ContributionAndInfluence, ax: Axes, theme: Theme, *, query: int = 0) -> None:
    """Draws a point for each sample: its contribution to the right, its influence upwards."""
    query = result.influence.place(query)
    shares = result.decomposition.contributions[query, 0]
    moves = result.influence.influences[query, 0]
    ax.axhline(0, color=theme.muted, linewidth=0.8)
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    alike = (shares * moves) >= 0
    for which, color, word in ((alike, theme.up, "same sign"), (~alike, theme.down, "opposite signs")):
        if bool(which.any()):
            ax.scatter(shares[which], moves[which], s=14, color=color, alpha=0.7, linewidths=0,
                       label=f"{word}: {int(which.sum())}", zorder=3)
    strong = int(moves.abs().argmax()) if len(moves) else 0
    if len(moves) and bool(moves[strong] != 0):
        left = float(shares[strong]) > float((shares.min() + shares.max()) / 2)
        ax.annotate(plain(named(result.influence, strong)), (float(shares[strong]), float(moves[strong])),
                    (-7 if left else 7, 0), textcoords="offset points", ha="right" if left else "left", va="center",
                    color=theme.ink, parse_math=False)
    ax.set_xlabel("contribution: what the sample added along this run")
    ax.set_ylabel("influence: change by its weight")
    ax.legend(loc="best", frameon=False)
    ranks = float(result.agreement[query])
    mean = float(alike.double().mean()) if len(alike) else 0.0
    ax.set_title(plain(f"Ranks correlate by {ranks:.2f}, and {mean:.0%} of signs agree", 64), parse_math=False)
