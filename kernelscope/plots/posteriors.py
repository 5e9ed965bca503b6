"""The drawing of a posterior: test points by their means, each with what is not known of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..arguments import as_place
from ..gaussian.result import Posterior
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Of more test points as many are drawn, spread over all.
MOST = 80

#: How many standard deviations an interval reaches, and what it holds.
REACH, HELD = 1.96, "95 %"

#: How many letters a title has in one line.
WIDTH = 62


@drawing(Posterior)
def draw_posterior(result: Posterior, ax: Axes, theme: Theme, *, output: int = 0, time: int = -1) -> None:
    """Draws the mean of one output at each test point with its 95 % interval, at one of several times."""
    mean = result.mean.reshape(-1, *result.mean.shape[-2:])
    place = as_place(time, "time", len(mean), "times")
    mean = mean[place][:, as_place(output, "output", mean.shape[-1], "outputs")]
    order = mean.argsort()
    order = order[torch.linspace(0, len(order) - 1, min(len(order), MOST)).round().long()]
    places = range(len(order))
    before = REACH * result.prior[order].clamp(min=0.0).sqrt()
    ax.fill_between(places, (-before).tolist(), before.tolist(), color=theme.rule, alpha=0.5, linewidth=0,
                    label=f"{HELD} before training")
    if result.covariance is None:
        ax.plot(places, mean[order].tolist(), "o", color=theme.data, markersize=3, label="mean")
    else:
        std = result.std.reshape(-1, len(result.prior))[place]
        ax.errorbar(places, mean[order].tolist(), (REACH * std[order]).tolist(), fmt="o", color=theme.data,
                    markersize=3, elinewidth=1.0, label=f"mean, and {HELD} after")
    ax.set_xticks([])
    some = f"{len(order)} of {len(mean):,}" if len(order) < len(mean) else f"{len(mean):,}"
    ax.set_xlabel(f"{some} test points, by their mean")
    ax.set_ylabel("output" if result.mean.shape[-1] == 1 else f"output {output}")
    ax.grid(True, axis="y", color=theme.rule, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    low, high = ax.get_ylim()
    # Room for the words above what they name.
    ax.set_ylim(low, high + 0.25 * (high - low))
    ax.set_title(in_lines(_conclusion(result, place), ", ", WIDTH), parse_math=False)


def _conclusion(result: Posterior, place: int) -> str:
    when = float(result.times[place])
    at = "At the end of training" if math.isinf(when) else f"At time {when:g}"
    if result.covariance is None:
        return f"{at}, the means of {result.mean.shape[-2]:,} test points"
    median, share = result.spread(place)
    return f"{at}, outputs are known up to {median:.3g}, {share:.0%} of what it was before"
