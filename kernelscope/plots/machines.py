"""The drawings of a machine: the centers that make a value, and how the machine was fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_count
from ..decomposition.wording import signed
from ..machine.contributions import Contributions
from ..machine.fitting import Fitting
from . import drawing
from .bars import draw_bars
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme


@drawing(Contributions)
def draw_contributions(result: Contributions, ax: Axes, theme: Theme, *, query: int = 0, output: int = 0,
                       k: int = 8) -> None:
    """Draws the k largest terms of one value, the sum of the others, and the intercept, so that they add up to it."""
    top = result.top(as_count(k, "k", 1), query, output)
    terms, value = result.terms[query, output], float(result.outputs[query, output])
    values, names = top.contribution.tolist(), [f"center {center}" for center in top.center]
    if len(terms) > len(values):
        values.append(float(terms.sum()) - sum(values))
        names.append(f"{len(terms) - len(top):,} others")
    if float(result.intercept[output]):
        values.append(float(result.intercept[output]))
        names.append("intercept")
    draw_bars(ax, theme, values, names)
    ax.set_xlabel(f"term in output {output} at point {query}")
    ax.set_title(plain(f"The value {signed(value)} at point {query}: {names[0]} adds most, {signed(values[0])}", 90),
                 parse_math=False)


@drawing(Fitting)
def draw_fitting(result: Fitting, ax: Axes, theme: Theme) -> None:
    """Draws the validation error of each ridge where several were fitted, else the residual after each pass."""
    if result.validation is not None and len(result.ridges) > 1:
        pairs = sorted(zip(result.ridges, result.validation.tolist(), strict=True))
        # A logarithm has no place for nought.
        least = min((ridge for ridge in result.ridges if ridge), default=1.0)
        ax.plot([ridge or least / 10 for ridge, _ in pairs], [error for _, error in pairs], "o-", color=theme.data)
        ax.set_xscale("log")
        ax.set_xlabel("ridge")
        ax.set_ylabel("validation error")
        error = float(result.validation[result.chosen])
        ax.set_title(f"The ridge {result.ridge:g} was taken; its validation error is {error:.4g}")
        return
    passes, residuals = ([one[name] or 0.0 for one in result.history] for name in ("passes", "residual"))
    ax.plot(passes, residuals, "o-", color=theme.data)
    if any(residual > 0 for residual in residuals):
        ax.set_yscale("log")
    ax.set_xlabel("pass over all points")
    ax.set_ylabel("residual, relative to the start")
    last = f"the residual fell to {residuals[-1]:.1e}" if len(residuals) > 1 else "solved at once"
    ax.set_title(f"{result.passes:.3g} passes: {last}" if result.passes != 1 else f"One pass: {last}")
