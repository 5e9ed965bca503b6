"""The drawing of an ensemble: what was measured beside what was predicted, or where its seeds ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..decomposition.stochastic.ensemble import Ensemble
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Of more pairs of query and output as many are drawn, spread over all sizes.
MOST = 60

#: How many letters a title has in one line.
WIDTH = 62


@drawing(Ensemble)
def draw_ensemble(result: Ensemble, ax: Axes, theme: Theme, *, level: float = 0.95,
                  controlled: bool | None = None) -> None:
    """Draws each pair of query and output: measured minus predicted with its interval, or else its seeds.

    Where it is kept, the martingale is taken off each seed, unless ``controlled`` says otherwise.
    """
    controlled = "martingale" in result.terms if controlled is None else controlled
    if result.terms:
        _draw_biases(result, ax, theme, level, controlled)
    else:
        _draw_seeds(result, ax, theme)
    ax.grid(True, axis="y", color=theme.rule, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines["left"].set_visible(False)


def _draw_biases(result: Ensemble, ax: Axes, theme: Theme, level: float, controlled: bool) -> None:
    reach = result.quantile(level)
    path, path_error = (t.flatten() for t in result.bias("path", controlled))
    whole, whole_error = (t.flatten() for t in result.bias("noise", controlled))
    order = _spread(path.argsort())
    places = torch.arange(len(order)).double()
    for values, error, color, name, shift in ((path, path_error, theme.down, "path alone", -0.14),
                                              (whole, whole_error, theme.up, "with curvature and noise", 0.14)):
        ax.errorbar((places + shift).tolist(), values[order].tolist(), (reach * error[order]).tolist(), fmt="o",
                    color=color, markersize=2.8, elinewidth=1.0, label=name)
    ax.axhline(0, color=theme.ink, linewidth=0.9)
    ax.set_xticks([])
    ax.set_xlabel(f"{_pairs(result, len(order))}, by the error of the path alone")
    ax.set_ylabel("measured − predicted")
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=2, bbox_to_anchor=(0.0, 1.0))
    low, high = ax.get_ylim()
    # Room for the words above what they name.
    ax.set_ylim(low, high + 0.18 * (high - low))
    alone, together = (float(b.abs().mean()) for b in (path, whole))
    held = result.covered("noise", controlled, level)
    said = (f"Curvature and noise: the mean’s error falls from {alone:.2g} to {together:.2g}; {held:.0%} of "
            f"{level:.0%} intervals hold 0")
    ax.set_title(in_lines(said, "; ", WIDTH), parse_math=False)


def _draw_seeds(result: Ensemble, ax: Axes, theme: Theme) -> None:
    outputs, recorded = result.outputs.flatten(1), result.recorded.flatten()
    order = _spread(result.mean.flatten().argsort())
    # Seeds of one pair lie beside each other, evenly, in the order they came in.
    beside = torch.linspace(-0.32, 0.32, len(outputs))[torch.randperm(len(outputs), generator=torch.Generator()
                                                                      .manual_seed(0))]
    for place, pair in enumerate(order.tolist()):
        ax.plot((place + beside).tolist(), outputs[:, pair].tolist(), ".", color=theme.data, markersize=2.2, alpha=0.5,
                markeredgewidth=0, label="seeds" if place == 0 else None)
    ax.plot(range(len(order)), recorded[order].tolist(), "_", color=theme.ink, markersize=9, markeredgewidth=1.6,
            label="the recorded run")
    ax.set_xticks([])
    ax.set_xlabel(f"{_pairs(result, len(order))}, by their mean")
    ax.set_ylabel("final output")
    ax.legend(frameon=False, fontsize="small", loc="upper left", markerscale=1.6)
    spread, between = float(result.std.median()), float(result.mean.std()) if result.mean.numel() > 1 else 0.0
    beyond = f", and the outputs differ by {between:.2g}" if between else ""
    said = f"An output varies by {spread:.2g} over {len(result)} seeds (standard deviation){beyond}"
    ax.set_title(in_lines(said, ", ", WIDTH), parse_math=False)


def _spread(order: torch.Tensor) -> torch.Tensor:
    if len(order) <= MOST:
        return order
    return order[torch.linspace(0, len(order) - 1, MOST).round().long()]


def _pairs(result: Ensemble, drawn: int) -> str:
    count = result.recorded.numel()
    some = f"{drawn} of {count}" if drawn < count else f"{count}"
    return f"{some} pairs of query and output"
