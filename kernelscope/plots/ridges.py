"""The drawings of a machine of features: its ridges, and what it says of samples without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..machine.left_out import LeaveOneOut
from ..machine.ridges import Ridges
from . import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How many samples are drawn.
MOST = 2000


@drawing(Ridges)
def draw_ridges(result: Ridges, ax: Axes, theme: Theme) -> None:
    """Draws the errors of all ridges, and marks the one that was taken."""
    order = sorted(range(len(result.ridges)), key=result.ridges.__getitem__)
    # A logarithm has no place for nought.
    least = min((ridge for ridge in result.ridges if ridge), default=1.0)
    places = [result.ridges[i] or least / 10 for i in order]
    lines = {"residual": (result.residual, theme.muted, "--"), "GCV": (result.gcv, theme.data, "-")}
    if result.validation is not None:
        lines["validation error"] = (result.validation, theme.up, "-")
    for name, (values, color, style) in lines.items():
        ax.plot(places, values[order].tolist(), style, marker="o", ms=3, color=color, label=name)
    ax.axvline(result.ridge or least / 10, color=theme.rule, zorder=0)
    ax.set_xscale("log")
    if all(bool((values[values.isfinite()] > 0).all()) for values, _, _ in lines.values()):
        ax.set_yscale("log")
    ax.set_xlabel("ridge")
    ax.set_ylabel("mean square")
    ax.legend(frameon=False)
    name = "GCV" if result.validation is None else "validation error"
    value = float((result.gcv if result.validation is None else result.validation)[result.chosen])
    ax.set_title(f"The ridge {result.ridge:g} was taken; its {name} is {value:.4g}")


@drawing(LeaveOneOut)
def draw_left_out(result: LeaveOneOut, ax: Axes, theme: Theme) -> None:
    """Draws how far each sample's value is off with and without the sample."""
    each = -(-len(result) // MOST)
    some = result[::each]
    within, without = ((some.targets - values).square().mean(1).sqrt().tolist()
                       for values in (some.fitted, some.values))
    ax.plot(within, without, "o", ms=3, alpha=0.6, color=theme.data)
    most = max(*within, *without)
    ax.plot([0, most], [0, most], color=theme.rule, zorder=0)
    thinned = f"; {len(some):,} of {len(result):,} samples are drawn" if each > 1 else ""
    ax.set_xlabel(f"off by, fitted with the sample{thinned}")
    ax.set_ylabel("off by, without it")
    fitted = float((result.targets - result.fitted).square().mean())
    ax.set_title(f"The mean square is {fitted:.3g} with each sample, and {result.error:.3g} without it")
