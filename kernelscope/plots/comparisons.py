"""The drawings of two generative models side by side: a dot for each in every row, with nulls; and their samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import as_choice
from ..diagnostics.winners import Interval
from ..errors import DataError
from ..generative.comparing.comparison import GenerativeComparison, Row
from ..generative.comparing.metrics import METRICS
from ..generative.comparing.readings import HELD_OUT, OPTIMAL, PIXELS, REAL, SHUFFLED, UNIFORM, UNTRAINED, WIENER
from ..pictures import picture_shape
from . import drawing
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Rows that are drawn, and by which null they are divided to be shares.
SHARES = {"coverage": "", "memorised": "", "stability": "", "matched_stability": "", "noise_locality": "",
          "time_locality": "", "class_alignment": "", "pixel_alignment": "", "space_radius": UNIFORM,
          "kernel_rank": "ceiling", "n_eff": UNIFORM, "gini": ""}

#: What of a row that is divided is told beside its name.
OVER = {"space_radius": "of that of all pixels alike", "kernel_rank": "of the most there is", "n_eff": "of all points"}

#: The hollow mark of each null.
MARKS = {WIENER: "^", OPTIMAL: "v", UNTRAINED: "o", REAL: "D", HELD_OUT: "D", PIXELS: "s", f"{SHUFFLED}, 95 %": "d"}

#: Pictures in a row, and rows of each kind.
ACROSS, DEEP = 16, 2


@drawing(GenerativeComparison)
def draw_comparison(result: GenerativeComparison, ax: Axes, theme: Theme, *, show: str = "table") -> None:
    """Draws the metrics that are shares as dots with their intervals, nulls hollow; or samples beside real points.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"table"`` or ``"samples"``.
    """
    as_choice(show, "show", ("table", "samples"))
    {"table": _table, "samples": _samples}[show](result, ax, theme)


def _table(result: GenerativeComparison, ax: Axes, theme: Theme) -> None:
    rows = [row for row in result.rows if row.metric in SHARES and not all(math.isnan(v.mean) for v in row.values)
            and (row.slot == "main" or row.metric == "noise_locality")]
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        figure.set_figheight(max(float(figure.get_figheight()), 1.7 + 0.34 * len(rows)))
    looks = ((theme.up, "o", -0.13), (theme.down, "s", 0.13))
    told: dict[str, None] = {}
    for place, row in enumerate(rows):
        ax.axhline(place, color=theme.rule, linewidth=0.6, zorder=0)
        for side, (colour, marker, off) in enumerate(looks):
            over = _over(row, side)
            for name, value in row.nulls[side].items():
                if name in MARKS and not math.isnan(value):
                    told[name] = None
                    ax.plot([value / over], [place + off], MARKS[name], markersize=4.5, markerfacecolor="none",
                            markeredgecolor=theme.muted, markeredgewidth=0.9, zorder=2)
            _dot(ax, row.values[side], over, place + off, colour, marker)
    for name, (colour, marker, _) in zip(result.columns, looks, strict=True):
        ax.plot([], [], marker, color=colour, markersize=6, label=plain(name, 24))
    for name in told:
        if name != HELD_OUT or REAL not in told:
            word = "real or held-out points" if {REAL, HELD_OUT} <= set(told) and name == REAL else name
            ax.plot([], [], MARKS[name], markerfacecolor="none", markeredgecolor=theme.muted, markersize=5, label=word)
    ax.set_yticks(range(len(rows)), [_name(row) for row in rows], color=theme.ink)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(min(-0.03, ax.get_xlim()[0]), max(1.03, ax.get_xlim()[1]))
    ax.set_xlabel("share, from none to all; hollow marks are nulls")
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, ncols=3, loc="upper left",
              bbox_to_anchor=(-0.35, -0.1 - 0.6 / max(len(rows), 1)))
    ax.set_title(in_lines(_said(result), ": ", 50), parse_math=False)


def _dot(ax: Axes, found: Interval, over: float, y: float, colour: str, marker: str) -> None:
    if math.isnan(found.mean):
        return
    if not math.isnan(found.low):
        ax.plot([found.low / over, found.high / over], [y, y], color=colour, linewidth=1.6, zorder=3)
    ax.plot([found.mean / over], [y], marker, color=colour, markersize=6, zorder=4)


def _over(row: Row, side: int) -> float:
    """What a row is divided by."""
    name = SHARES[row.metric]
    value = row.nulls[side].get(name, math.nan) if name else 1.0
    return value if value and not math.isnan(value) else 1.0


def _name(row: Row) -> str:
    label = METRICS[row.metric].label if row.metric != "noise_locality" else f"local in noise, {row.slot}"
    label = {"time_locality": "local in training time"}.get(row.metric, label)
    return f"{label},\n{OVER[row.metric]}" if row.metric in OVER else label


def _said(result: GenerativeComparison) -> str:
    """The conclusion of the claim on coverage, as the title."""
    claim = next((claim for claim in result.claims() if claim.topic == "coverage"), None)
    if claim is None:
        return f"{result.columns[0]} and {result.columns[1]}"
    first = claim.text.split(". ")[0].rstrip(".")
    return f"{first.split(' of ')[0]}: {first.partition(': ')[2]}"


def _samples(result: GenerativeComparison, ax: Axes, theme: Theme) -> None:
    shape = picture_shape(next(iter(result.samples.values())).shape[1:])
    if shape is None:
        raise DataError("These points are no pictures, so their samples cannot be drawn. Use show='table'.")
    rows = [*zip(result.columns, (result.samples["a"], result.samples["b"]), strict=True),
            ("real", result.samples["real"])]
    low, high = (float(f(result.samples["real"])) for f in (torch.min, torch.max))
    strips = [tiled(points, ACROSS, DEEP) for _, points in rows]
    height, width = strips[0].shape[-2:]
    gap = max(2, height // 12)
    figure = ax.get_figure(root=True)
    if figure is not None and len(figure.axes) == 1:
        figure.set_figheight(0.7 + 5.6 * len(rows) * (height + gap) / width)
    for i, strip in enumerate(strips):
        top = i * (height + gap)
        image = ((strip - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1,
                  extent=(0, width, top + height, top), interpolation="nearest")
    ax.set_xlim(0, width)
    ax.set_ylim(len(rows) * (height + gap) - gap, 0)
    ax.set_xticks([])
    ax.set_yticks([i * (height + gap) + height / 2 for i in range(len(rows))], [plain(name, 16) for name, _ in rows],
                  color=theme.ink)
    for spine in ax.spines.values():
        spine.set_visible(False)
    claim = next((claim for claim in result.claims() if claim.topic == "memorisation"), None)
    ax.set_title(in_lines(claim.text.split(":")[0] if claim else "What they make", "; ", 70), parse_math=False)


def tiled(points: Tensor, across: int, deep: int) -> Tensor:
    """Pictures in rows, with shape (channels, height, width); places that are left have the lowest value."""
    shape = picture_shape(points.shape[1:])
    if shape is None:
        raise DataError(f"Points of shape {tuple(points.shape[1:])} are no pictures.")
    channels, height, width = shape
    # A line of pixels between them, so that neighbours are told apart.
    height, width = height + 1, width + 1
    sheet = torch.full((across * deep, channels, height, width), float(points.min()), dtype=torch.float64)
    shown = points[: across * deep].double().reshape(-1, *shape)
    sheet[: len(shown), :, :-1, :-1] = shown
    return sheet.reshape(deep, across, channels, height, width).permute(2, 0, 3, 1, 4).reshape(
        channels, deep * height, across * width)
