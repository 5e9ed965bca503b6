"""The drawing of an evaluation: how well each way to score samples foretells what leaving them out did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..diagnostics.leaving_out.evaluation import CONTRIBUTION, RANDOM, Evaluation
from ..text import with_minus
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What the colours stand for.
ROLES = {"contribution": "contribution: a share of this run", "influence": "influence: a counterfactual",
         "baseline": "baseline", "null": "null"}


@drawing(Evaluation)
def draw_evaluation(result: Evaluation, ax: Axes, theme: Theme) -> None:
    """Draws a bar for each way by networks of the same start, a diamond by the mean of seeds, and both ceilings."""
    colours = {"contribution": theme.data, "influence": theme.up, "baseline": theme.down, "null": theme.muted}
    figure = ax.get_figure(root=True)
    names = result.names
    # Alone on its figure it is as high as its rows.
    if figure is not None and len(figure.axes) == 1:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, max(height, 0.34 * len(names) + 1.7))
    reach, most, shown = 0.0, 0.0, set()
    for place, name in enumerate(names):
        role, found = result.own.role(name), result.own.interval(name)
        ax.barh(place, found.mean, height=0.6, color=colours[role], label="" if role in shown else ROLES[role])
        shown.add(role)
        ends = [found.low, found.high]
        ax.plot(ends, [place - 0.12] * 2, color=theme.ink, linewidth=1.2)
        if result.anew is not None:
            other = result.anew.interval(name)
            ax.plot([other.low, other.high], [place + 0.14] * 2, color=theme.ink, linewidth=0.9)
            ax.plot([other.mean], [place + 0.14], marker="D", markersize=4.5, color=theme.paper,
                    markeredgecolor=theme.ink, linestyle="none",
                    label="by the mean of other starts" if place == 0 else "")
            ends += [other.low, other.high]
        ax.annotate(with_minus(f"{found.mean:.2f}"), (max(*ends, 0.0), place), (5, 0), textcoords="offset points",
                    va="center", color=theme.ink, fontsize="small", zorder=3,
                    bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1.0})
        reach, most = min(reach, *ends), max(most, *ends)
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    for (start, trial), dashes in zip(result.trials.items(), ("-", "--"), strict=False):
        ax.axvline(trial.ceiling, color=theme.muted, linewidth=1.0, linestyle=dashes,
                   label=f"ceiling of noise, {start}, {trial.ceiling:.2f}")
        most = max(most, trial.ceiling)
    ax.set_yticks(range(len(names)), [plain(name, 40) for name in names], parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.invert_yaxis()
    ax.set_xlim(1.1 * reach, 1.04 * most)
    ax.set_xlabel("LDS: rank correlation of summed scores with retraining (95 %)")
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, loc="upper center", bbox_to_anchor=(0.3, -0.22),
              ncols=2)
    ax.spines["left"].set_visible(False)
    # Names of ways take a third of the width: the title begins above them.
    ax.set_title(in_lines(conclusion(result), "; ", 76), parse_math=False, pad=14,
                 x=-0.0135 * max(len(plain(name, 40)) for name in names))


def conclusion(result: Evaluation) -> str:
    """Who foretells retraining best and where the contribution stands, in words."""
    best = result.names[0]
    if best == RANDOM:
        return "No way foretells retraining better than random scores"
    told = with_minus(f"{result.lds(best):.2f} of {result.own.ceiling:.2f}")
    text = f"{best[0].upper()}{best[1:]} foretells retraining best, {told}"
    if best == CONTRIBUTION or CONTRIBUTION not in result.names:
        return text
    share = with_minus(f"{result.lds(CONTRIBUTION):.2f}")
    return f"{text}; the contribution, a share of this run, foretells it by {share}"
