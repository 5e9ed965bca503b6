"""Drawings of experiments of many trainings.

Scores beside a ceiling; where copies turn into new samples; what halves agree on; what a denoiser and a GAN cover.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_choice
from ..diagnostics.leaving_out.trial import SubsetTrial
from ..diagnostics.trade_offs import amount
from ..errors import DataError
from ..generative.trials.covering import DENOISER, GAN, LONGER, NULLS, OF_SAMPLES, CoverageTrial
from ..generative.trials.disjoint import HALVES, NEAREST, PAIRS, WIENER, DisjointHalves
from ..generative.trials.memorisation import COPIES, MEASURES, MemorisationTransition
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How each null is drawn.
DASHES = ("--", ":", "-.", (0, (1, 3)))


@drawing(SubsetTrial)
def draw_subset_trial(result: SubsetTrial, ax: Axes, theme: Theme) -> None:
    """Draws a bar for each score with its interval, the best on top, and the ceiling of noise as a line."""
    if result.refused():
        raise DataError(result.refused())
    colours = {"contribution": theme.data, "influence": theme.up, "baseline": theme.down, "null": theme.muted}
    order = result.order
    figure = ax.get_figure(root=True)
    # Alone on its figure it is as high as its rows.
    if figure is not None and len(figure.axes) == 1:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, max(height, 0.26 * len(order) + 1.4))
    reach = min(0.0, *(result.interval(name).low for name in order))
    for place, name in enumerate(order):
        found, role = result.interval(name), result.roles[result.names.index(name)]
        ax.barh(place, found.mean, height=0.62, color=colours[role], label=role)
        ax.plot([found.low, found.high], [place, place], color=theme.ink, linewidth=1.2)
        ax.annotate(f"{found.mean:.2f}".replace("-", "−"), (max(found.high, found.mean, 0.0), place), (5, 0),
                    textcoords="offset points", va="center", color=theme.ink, fontsize="small")
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    ax.axvline(result.ceiling, color=theme.ink, linewidth=1.0, linestyle="--")
    ax.annotate("ceiling of noise", (result.ceiling, 1.0), (-4, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="right", color=theme.muted, fontsize="small")
    ax.set_yticks(range(len(order)), [plain(name, 44) for name in order], parse_math=False)
    ax.tick_params(axis="y", labelcolor=theme.ink)
    ax.invert_yaxis()
    ax.set_xlim(1.1 * reach, max(1.08 * result.ceiling, max(result.interval(name).high for name in order) + 0.08))
    ax.set_xlabel("rank correlation with retraining (95 %)")
    handles = dict(zip(reversed(ax.get_legend_handles_labels()[1]), reversed(ax.get_legend_handles_labels()[0]),
                       strict=True))
    ax.legend([handles[role] for role in colours if role in handles], [role for role in colours if role in handles],
              frameon=False, fontsize="small", labelcolor=theme.ink, loc="lower right", bbox_to_anchor=(0.86, 0.0))
    ax.spines["left"].set_visible(False)
    # Names of scores take half of the width: the title begins above them.
    ax.set_title(in_lines(conclusion(result), "; ", 60), parse_math=False, pad=18, x=-0.66)


def conclusion(result: SubsetTrial) -> str:
    """Who foretells retraining best, in words."""
    best = result.order[0]
    text = f"{best} foretells best, {result.interval(best).mean:.2f} of at most {result.ceiling:.2f}"
    own = result.best_contribution
    if own is None or own == best or not result.trivial:
        return text
    return f"{text}; the best contribution {result.against_trivial(own)}"


@drawing(MemorisationTransition)
def draw_transition(result: MemorisationTransition, ax: Axes, theme: Theme, *, measure: str = "memorised") -> None:
    """Draws a measure over the number of training points, every seed as a point, and that of the nulls beside it."""
    as_choice(measure, "measure", MEASURES)
    place = MEASURES.index(measure)
    budgets = {int(steps): found[place] for steps, found in result.shorter.items()}
    budgets[int(result.info.get("steps", 0))] = result.values[measure]
    for i, (steps, values) in enumerate(sorted(budgets.items(), reverse=True)):
        told = f"network, {steps:,} steps" if len(budgets) > 1 else "network"
        faint = max(1.0 - 0.45 * i, 0.3)
        ax.plot(result.sizes, values.mean(0).tolist(), color=theme.up, alpha=faint, linewidth=1.8, label=told)
        for row in values:
            ax.plot(result.sizes, row.tolist(), color=theme.up, alpha=faint, marker="os^"[i % 3], markersize=3.5,
                    linestyle="none")
    colours = (theme.down, theme.data, theme.muted, theme.ink)
    for name, dashes, colour in zip(result.nulls, DASHES, colours, strict=False):
        found = result.null(name, measure)
        if bool(found.isfinite().any()):
            ax.plot(result.sizes, found.tolist(), color=colour, linestyle=dashes, linewidth=1.4,
                    marker="s", markersize=2.5, label=plain(name))
    ax.set_xscale("log")
    ax.set_xticks(result.sizes, [f"{size:,}" for size in result.sizes])
    ax.minorticks_off()
    ax.set_xlabel("training points")
    ax.set_ylabel({"memorised": "copies among samples", "coverage": "held-out points covered"}.get(measure, measure))
    if measure in ("memorised", "coverage"):
        ax.set_ylim(-0.03, 1.05)
    ax.grid(True, axis="y", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(in_lines(_turned(result, measure), ": ", 60), parse_math=False)


def _turned(result: MemorisationTransition, measure: str) -> str:
    if measure == "memorised":
        turn = result.turn
        if turn is None:
            return result.said().partition(":")[0]
        last = float(result.values["memorised"][:, -1].mean())
        if result.shorter:
            told = ", ".join(f"{'at no n here' if at is None else f'at n = {at:.0f}'} after {steps:,} steps"
                             for steps, at in result.turns.items())
            return f"Half of the samples are copies: {told}"
        beside = f", and {last:.2f} at {result.sizes[-1]:,}" if COPIES in result.nulls else ""
        return f"Half of the samples are copies at n = {turn:.0f}{beside}"
    one, last = (float(result.values[measure][:, i].mean()) for i in (0, -1))
    return f"{measure.capitalize()} goes from {one:.3g} at n = {result.sizes[0]} to {last:.3g} at {result.sizes[-1]:,}"


@drawing(DisjointHalves)
def draw_disjoint_halves(result: DisjointHalves, ax: Axes, theme: Theme) -> None:
    """Draws how alike samples of two halves are over the points of a half, with the nulls beside them."""
    colours = (theme.up, theme.down, theme.muted, theme.muted, theme.data, theme.ink)
    for i, pair in enumerate(PAIRS):
        found = result.values[pair]
        own = pair in (HALVES, NEAREST)
        ax.plot(result.sizes, found.mean(0).tolist(), color=colours[i % len(colours)],
                linestyle="-" if own else DASHES[i % len(DASHES)], linewidth=1.8 if own else 1.3, label=plain(pair))
        for row in found:
            ax.plot(result.sizes, row.tolist(), color=colours[i % len(colours)], marker="o" if own else "s",
                    markersize=3.5 if own else 2.5, linestyle="none")
    ax.set_xscale("log")
    ax.set_xticks(result.sizes, [f"{size:,}" for size in result.sizes])
    ax.minorticks_off()
    ax.set_xlabel("training points of a half")
    ax.set_ylabel("cosine of samples")
    ax.grid(True, axis="y", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    halves, closed = (float(result.values[pair][:, -1].mean()) for pair in (HALVES, WIENER))
    word = "more" if halves > closed else "no more"
    ax.set_title(in_lines(f"Networks of two halves agree, cosine {halves:.2f} at n = {result.sizes[-1]:,}; {word} than "
                          f"Wiener denoisers do, {closed:.2f}", "; ", 60), parse_math=False)


@drawing(CoverageTrial)
def draw_coverage_trial(result: CoverageTrial, ax: Axes, theme: Theme, *, measure: str = "coverage",
                        over: str = "CPU seconds") -> None:
    """Draws a measure along the trainings with 95 % intervals, over CPU seconds or presentations, and the nulls."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    as_choice(measure, "measure", OF_SAMPLES)
    as_choice(over, "over", ("CPU seconds", "presentations"))
    looks = {DENOISER: (theme.up, "-", "o"), LONGER: (theme.up, "--", "s"), GAN: (theme.down, "-", "o")}
    for name, (colour, dashes, marker) in looks.items():
        own = [i for i, course in enumerate(result.courses) if course == name and result.steps[i]]
        if not own:
            continue
        taken = [float(result.seconds[i]) if over == "CPU seconds" else float(result.steps[i] * result.info["batch"])
                 for i in own]
        found = [result.interval(measure, name, result.steps[i]) for i in own]
        ax.errorbar(taken, [one.mean for one in found],
                    yerr=[0.0 if one.low != one.low else one.mean - one.low for one in found], color=colour,
                    linestyle=dashes, marker=marker, markersize=3.5, linewidth=1.4, elinewidth=1.0, label=name)
    place = OF_SAMPLES.index(measure)
    for name, line in zip((name for name in NULLS if name in result.nulls), ("-", *DASHES), strict=False):
        ax.axhline(float(result.nulls[name][place]), color=theme.muted, linewidth=1.0, linestyle=line, zorder=0,
                   label=plain(name))
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("CPU seconds of a seed" if over == "CPU seconds" else "points shown in training")
    ax.set_ylabel({"coverage": "held-out points covered", "memorised": "copies among samples"}.get(measure, measure))
    ax.grid(True, axis="y", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(in_lines(_covered(result, measure, over), "; ", 60), parse_math=False)


def _covered(result: CoverageTrial, measure: str, over: str) -> str:
    """Who has more at the end, and whether this is more than seeds do, in words."""
    longer = over == "CPU seconds" and LONGER in result.courses
    one, other = result.place(LONGER if longer else DENOISER), result.place(GAN)
    found = result.difference(measure, one, other)
    means = [float(result.values[measure][i].mean()) for i in (one, other)]
    word = ("of too few seeds to tell" if found.low != found.low else
            "more than seeds do" if found.low > 0 or found.high < 0 else "no more than seeds do")
    return (f"{measure.capitalize()}: denoiser {means[0]:.2f}, GAN {means[1]:.2f} for as many {over}"
            f"; they differ by {found.mean:+.2f}, {word}".replace("-", "−"))
