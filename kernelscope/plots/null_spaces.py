"""The drawings of what could not be learned: energy by mode, residuals left alone, and errors against predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..decomposition.wording import counted
from ..diagnostics.eigenlearning import Eigenlearning
from ..diagnostics.null_space.reservoir_result import KEPT, Reservoir
from ..diagnostics.null_space.result import NullSpace
from ..diagnostics.predictions import Predictions
from ..text import with_minus
from . import drawing
from .style import as_they_are, in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How many decades below the largest energy are shown.
DECADES = 8

#: How many decades the reach may add above the largest energy; what lies higher is told of at the top.
ABOVE = 6

#: How many modes get a stem each.
MOST_STEMS = 80

#: The markers of groups.
MARKERS = ("o", "s", "^", "D", "v", "P")

#: How far names are apart, as a share of the height.
APART = 0.085


@drawing(NullSpace)
def draw_null_space(result: NullSpace, ax: Axes, theme: Theme) -> None:
    """Draws for each mode the energy of the target, what was learned of it, and how far the run reached."""
    modes = torch.arange(1, len(result.values) + 1)
    target, learned, reach = result.aimed, result.learned.square().sum(1), result.reach.square()
    top = float(torch.cat([target, learned]).max()) or 1.0
    floor = top * 10.0**-DECADES
    size = max(2.0, min(5.0, 240 / max(len(modes), 1)))
    if len(modes) <= MOST_STEMS:
        ax.vlines(modes, floor, target.clamp(min=floor), color=theme.rule, linewidth=0.8)
    # What is below the scale is left out; a line goes along its foot.
    # The target is drawn over what was learned, and open, so that both are seen where they are one.
    for energies, filled, colour, marker, width in ((learned, theme.data, theme.data, "D", size * 0.7),
                                                    (target, "none", theme.down, "o", size * 1.4)):
        shown = energies > floor
        ax.plot(modes[shown], energies[shown], color=colour, linestyle="none", marker=marker, markersize=width,
                markerfacecolor=filled, markeredgewidth=0.9)
    above = max(top, 1e-300) * 10.0**ABOVE
    ceiling = 10 * min(max(top, float(reach.max()) if len(reach) else 0.0, 1e-300), above)
    clipped = reach > ceiling
    ax.plot(modes, reach.clamp(min=floor, max=ceiling), color=theme.ink, linewidth=1.4)
    _logarithmic(ax, floor, ceiling)
    span = len(modes)
    if bool(clipped.any()):
        last = int(modes[clipped].max())
        first = "mode 1 goes" if last == 1 else f"modes 1 to {last:,} go"
        ax.annotate(f"↑ the reach of {first} on to {_power(float(reach.max()))}", (1, ceiling), xytext=(4, -4),
                    textcoords="offset points", color=theme.ink, va="top", fontsize="small")
    ax.set_xlim(0.2, max(span * 1.02, span + 0.6) + 0.22 * span)
    ends = [(_typical(target[-3:], floor), "target", theme.down),
            (_typical(learned[-3:], floor), "learned", theme.data),
            (float(reach[-1].clamp(min=floor)), "reach", theme.ink)]
    _name(ax, span, ends)
    ax.set_xticks([tick for tick in ax.get_xticks() if 1 <= tick <= span and tick == int(tick)] or [1])
    ax.set_xlabel("mode of the path kernel, the largest eigenvalue first")
    ax.set_ylabel("energy")
    ax.set_title(in_lines(_of_null_space(result), "; ", 72), parse_math=False)


def _of_null_space(result: NullSpace) -> str:
    left = f"{result.share:.0%} of the target lay beyond the reach of this run"
    error, bound = (with_minus(f"{value:.2g}") for value in (result.error, result.bound))
    if result.bound:
        return f"At least {left}; error{result.when} at least {bound}, measured {error}"
    return (f"No part of the target lay beyond the reach of this run; error{result.when} {error}; a fixed kernel "
            f"trained on these points would have left {with_minus(f'{result.unlearnable:.2g}')}")


def _power(value: float) -> str:
    return with_minus(f"{value:.0e}").replace("e−0", "e−").replace("e+0", "e").replace("e+", "e")


@drawing(Reservoir)
def draw_reservoir(result: Reservoir, ax: Axes, theme: Theme) -> None:
    """Draws the dissipated share of each direction, and the residual and targets gathered up to it."""
    places = torch.arange(1, len(result.values) + 1)
    ax.plot(places, result.values, color=theme.ink, linewidth=1.5)
    ends = [(float(result.values[-1]), "dissipated", theme.ink)]
    for what, name, colour, width in ((result.initial, "residual, summed", theme.down, 3.5),
                                      (result.labels, "targets, summed", theme.data, 1.5)):
        whole = float(what.square().sum())
        parts = torch.einsum("nc,ncr->r", what, result.directions).square().cumsum(0) / (whole or 1.0)
        ax.plot(places, parts, color=colour, linewidth=width, linestyle=(0, (5, 2)))
        ends.append((float(parts[-1]), name, colour))
    ax.axhline(KEPT, color=theme.rule, linewidth=1)
    # Below 0 there is room for a name that lies at 0, as that of what was not dissipated at all.
    ax.set_ylim(min(-APART, float(result.values.min()) * 1.05), 1.05)
    span = len(places)
    ax.set_xlim(0.5, span * 1.3 + 0.5)
    bottom, top = ax.get_ylim()
    above = float("inf")
    for y, name, colour in sorted(ends, reverse=True):
        above = min(y, above - APART * (top - bottom))
        ax.annotate(name, (span, above), xytext=(7, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False)
    ax.set_xticks([tick for tick in ax.get_xticks() if 1 <= tick <= span and tick == int(tick)] or [1])
    ax.set_xlabel("direction of the residual, most dissipated first")
    ax.set_ylabel("share")
    ax.set_title(in_lines(_of_reservoir(result), "; ", 72), parse_math=False)


def _of_reservoir(result: Reservoir) -> str:
    return (f"{int(result.kept.sum()):,} of {len(result.values):,} directions were left in the reservoir; they hold "
            f"{result.held(result.initial):.0%} of the first residual, {result.held(result.labels):.0%} of the targets")


@drawing(Predictions)
def draw_predictions(result: Predictions, ax: Axes, theme: Theme) -> None:
    """Draws each measurement against its prediction; groups differ in marker and colour."""
    colours = (theme.up, theme.down, theme.data, theme.muted)
    positive = bool((result.predicted > 0).all() and (result.measured > 0).all())
    kinds = list(dict.fromkeys(result.groups))
    for i, kind in enumerate(kinds):
        chosen = torch.tensor([group == kind for group in result.groups])
        ax.plot(result.predicted[chosen], result.measured[chosen], linestyle="none", marker=MARKERS[i % len(MARKERS)],
                markersize=5, color=colours[i % len(colours)], alpha=0.85, label=plain(kind, 32) or None)
    both = torch.cat([result.predicted, result.measured])
    ends = [float(both.min()), float(both.max())]
    ax.plot(ends, ends, color=theme.rule, linewidth=1, zorder=0)
    if positive:
        ax.set_xscale("log")
        ax.set_yscale("log")
        _plain_ticks(ax)
    if len(kinds) > 1:
        ax.legend(frameon=False, fontsize="small", loc="upper left", labelcolor=theme.ink)
    ax.set_xlabel(plain(result.what[0], 60))
    ax.set_ylabel(plain(result.what[1], 60))
    as_they_are(ax)
    ax.set_title(in_lines(_of_predictions(result), "; ", 72), parse_math=False)


def _of_predictions(result: Predictions) -> str:
    if len(result.by_group) > 1:
        each = ", ".join(f"{name} {with_minus(f'{values[0]:.2f}')}" for name, values in result.by_group.items())
        return f"Spearman of {result.what[1]} and prediction by group; {each}"
    low, high = (with_minus(f"{end:.2f}") for end in result.interval)
    rho = with_minus(f"{result.spearman:.2f}")
    return (f"Ranks of {result.what[1]}, {len(result)} pairs, are foretold with Spearman {rho}; "
            f"95 % interval {low} to {high}")


@drawing(Eigenlearning)
def draw_eigenlearning(result: Eigenlearning, ax: Axes, theme: Theme) -> None:
    """Draws the expected error over the number of samples, or, of one number, what is learned of each mode."""
    if len(result.sizes) > 1:
        ax.plot(result.sizes, result.error, color=theme.up, linewidth=1.5, marker="o", markersize=4)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(result.sizes.tolist(), [f"{int(size):,}" for size in result.sizes])
        from matplotlib.ticker import NullLocator

        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("samples")
        ax.set_ylabel("expected mean squared error")
    else:
        ax.plot(torch.arange(1, len(result.values) + 1), result.learned[0], color=theme.up, linewidth=1.5)
        ax.set_xscale("log")
        ax.set_ylim(0, 1.05)
        ax.set_xlabel("mode, the largest eigenvalue first")
        ax.set_ylabel("share that is learned")
    ax.set_title(in_lines(_of_eigenlearning(result), "; ", 72), parse_math=False)


def _of_eigenlearning(result: Eigenlearning) -> str:
    error, learned = (with_minus(f"{float(value):{form}}") for value, form in (
        (result.error[-1], ".2g"), (result.learned[-1].sum(), ".3g")))
    return (f"Expected error {error} at {counted(int(result.sizes[-1]), 'sample')}; {learned} of "
            f"{counted(len(result.values), 'mode')} are learned")


def _typical(values: Tensor, floor: float) -> float:
    return float(values.clamp(min=floor).log().mean().exp())


def _logarithmic(ax: Axes, floor: float, top: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(floor, top)
    _plain_ticks(ax)


def _plain_ticks(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    form = FuncFormatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e4 else _power(value))
    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(form)
            axis.set_minor_locator(NullLocator())


def _name(ax: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Writes each line's name at its end, none over another."""
    bottom, top = ax.get_ylim()
    least, below = (top / bottom) ** APART, 0.0
    for y, name, colour in sorted(ends):
        below = max(y, below * least)
        ax.annotate(name, (x, below), xytext=(9, 0), textcoords="offset points", color=colour, va="center",
                    annotation_clip=False)
