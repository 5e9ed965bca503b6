"""The drawings of coverage, and of how well scores tell known from unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..arguments import as_choice
from ..diagnostics.coverage.result import BAND_NAMES, LEVEL, Coverage
from ..diagnostics.separation import Separation
from ..diagnostics.winners import any_separates, measured, verdict, winners
from ..text import with_minus
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What may be shown of coverage.
SHOWN = ("queries", "profile")

#: How many bars a histogram has.
BARS = 40

#: How opaque the bands of a profile are, from the largest eigenvalues to the smallest.
SHADES = (1.0, 0.8, 0.62, 0.46, 0.32, 0.2)

#: What the drawing of a separation says of its measures.
AXES = {"auroc": "AUROC, known against unknown", "fpr95": "share of unknown points that pass with 95 % of the known",
        "right": "AUROC, right against wrong predictions"}


@drawing(Coverage)
def draw_coverage(result: Coverage, ax: Axes, theme: Theme, *, show: str = "queries") -> None:
    """Draws the coverage of queries beside that of training samples by the others, or the profile by eigenvalues."""
    as_choice(show, "show", SHOWN)
    (_draw_queries if show == "queries" else _draw_profile)(result, ax, theme)
    ax.set_title(in_lines(conclusion(result, show), "; ", 72), parse_math=False)


def _draw_queries(result: Coverage, ax: Axes, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter

    both = torch.cat([result.coverage, result.left_out])
    low = float(both.min())
    edges = torch.linspace(low, max(float(both.max()), low + 1e-6), BARS + 1).tolist()
    highest = 0.0
    for values, colour, filled in ((result.left_out, theme.muted, False), (result.coverage, theme.data, True)):
        if not len(values):
            continue
        counts = torch.histc(values, BARS, edges[0], edges[-1]) / len(values)
        highest = max(highest, float(counts.max()))
        ax.stairs(counts.tolist(), edges, color=colour, fill=filled, alpha=0.55 if filled else 1, linewidth=1.5)
    ax.axvline(result.threshold, color=theme.down, linewidth=1.2)
    ax.set_ylim(0, 1.25 * highest or 1.0)
    for place, (words, colour) in enumerate((("queries", theme.data), ("training samples, by the others", theme.muted),
                                             (f"{LEVEL:.0%} of these are below", theme.down))):
        ax.text(0.01, 0.97 - 0.09 * place, words, color=colour, transform=ax.transAxes, va="top")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    ax.set_xlabel("coverage")
    ax.set_ylabel("share of points")


def _draw_profile(result: Coverage, ax: Axes, theme: Theme) -> None:
    """A stacked column for each query, in the order of coverage."""
    order = result.coverage.argsort(descending=True)
    rows = result.profile[order]
    # Columns finer than a pixel would only make the file large.
    parts = [part.mean(0) for part in rows.split(max(1, -(-len(rows) // 240)))]
    heights = torch.stack(parts).T.tolist() if parts else [[] for _ in BAND_NAMES]
    edges = [i * len(rows) / max(len(parts), 1) for i in range(len(parts) + 1)]
    base = [0.0] * len(parts)
    for i, (values, name) in enumerate(zip(heights, BAND_NAMES, strict=True)):
        top = [a + b for a, b in zip(base, values, strict=True)]
        outside = i == len(BAND_NAMES) - 1
        ax.stairs(top, edges, baseline=base, fill=True, color=theme.down if outside else theme.data,
                  alpha=0.75 if outside else SHADES[i], linewidth=0)
        if parts and values[-1] > 0.05:
            ax.annotate(name, (edges[-1], (base[-1] + top[-1]) / 2), xytext=(6, 0), textcoords="offset points",
                        va="center", color=theme.down if outside else theme.ink, fontsize="small",
                        annotation_clip=False)
        base = top
    ax.set_xlim(0, max(len(rows), 1) * 1.22)
    ax.set_xticks([0, len(rows)])
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("queries, the best covered first; eigenvalues by their mean")
    ax.set_ylabel("share of the feature")


def conclusion(result: Coverage, show: str) -> str:
    """What the drawing shows, in words."""
    if not len(result):
        return "No query was asked for"
    if show == "profile":
        mean = result.profile.mean(0)
        first = int(mean[:-1].argmax())
        whose = "the query’s feature" if len(result) == 1 else "the queries’ features"
        return (f"Eigenvalues {BAND_NAMES[first]} times their mean hold {float(mean[first]):.0%} of {whose}; "
                f"{float(mean[-1]):.1%} is outside the span")
    count, outside = len(result), int((~result.inside).sum())
    usual = f"less covered than {1 - LEVEL:.0%} of training samples"
    if count == 1:
        return (f"The query is {'' if outside else 'not '}{usual}; its coverage is {float(result.coverage[0]):.3g}, "
                f"and the limit {result.threshold:.3g}")
    said = f"{outside:,} of {count:,} queries ({outside / count:.0%}) {'is' if outside == 1 else 'are'} {usual}"
    return f"{said}; half of the queries have a coverage of at least {float(result.coverage.median()):.3g}"


@drawing(Separation)
def draw_separation(result: Separation, ax: Axes, theme: Theme, *, show: str = "auroc") -> None:
    """Draws each score with its 95 % interval, the best on top, and the null as a line."""
    as_choice(show, "show", AXES)
    found = measured(result, show)
    names = sorted(found, key=lambda name: found[name].mean, reverse=show == "fpr95")
    for place, name in enumerate(names):
        value = found[name]
        colour = theme.down if name == result.null else theme.data if name.startswith("coverage") else theme.muted
        if value.low == value.low:
            ax.plot([value.low, value.high], [place, place], color=colour, linewidth=2)
        ax.plot([value.mean], [place], marker="o", color=colour, markersize=5)
        ax.annotate(f"{value.mean:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour,
                    fontsize="small", annotation_clip=False)
    if result.null is not None and result.null in found:
        ax.axvline(found[result.null].mean, color=theme.down, linewidth=0.8)
    ax.set_yticks(range(len(names)), [plain(f"{name} (null)" if name == result.null else name) for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel(AXES[show])
    ax.grid(True, axis="x", color=theme.rule, linewidth=0.6)
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        # A row for each score, whatever their number.
        figure.set_figheight(max(float(figure.get_figheight()), 1.1 + 0.22 * len(names)))
    ax.set_title(in_lines(said(result, show), "; ", 56), parse_math=False)


def said(result: Separation, show: str) -> str:
    """What the drawing shows, in words."""
    named, best = measured(result, show), winners(result, show)
    if not named:
        return "Nothing was compared"
    text = verdict(result, show, lambda found: f"{found.mean:.4f}", short=True)
    other = "coverage" if "coverage" not in best else result.null
    if other in named and other not in best and any_separates(result, show):
        text = f"{text}, {other} has {named[other].mean:.4f}"
    return with_minus(f"{text[0].upper()}{text[1:]}")
