"""The drawing of a spectrum: eigenvalues over their number, both in logarithms, with the residual of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..diagnostics.spectra import Spectrum
from ..text import with_minus
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What is drawn below the largest eigenvalue, relative to it.
LOWEST = 1e-16


@drawing(Spectrum)
def draw_spectrum(result: Spectrum, ax: Axes, theme: Theme) -> None:
    """Draws the eigenvalues, and below them how far each may be off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    numbers = torch.arange(1, len(result) + 1)
    floor = LOWEST * float(result.values.abs().max())
    values, residuals = result.values, result.residuals
    shown, off = values > floor, residuals > floor
    ax.plot(numbers[shown].tolist(), values[shown].tolist(), color=theme.up, marker="o", markersize=2.5, linewidth=1.2)
    ax.plot(numbers[off].tolist(), residuals[off].tolist(), color=theme.down, marker=".", markersize=3, linewidth=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    for where, series, name, colour in ((shown, values, "eigenvalues", theme.up),
                                        (off, residuals, "residuals", theme.down)):
        if bool(where.any()):
            place = int(where.nonzero()[-1])
            ax.annotate(name, (place + 1, float(series[place])), xytext=(7, 0), textcoords="offset points",
                        color=colour, va="center", annotation_clip=False)
    low, high = ax.get_xlim()
    ax.set_xlim(low, high * (high / low) ** 0.22)
    ax.set_xlabel(f"number of the eigenvalue, of {result.size:,}")
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.set_title(in_lines(conclusion(result), "; " if result.negative is None else ": ", 78), parse_math=False)


def _power(value: float) -> str:
    return with_minus(f"{value:.0e}").replace("e−0", "e−").replace("e+0", "e")


def conclusion(result: Spectrum) -> str:
    """What the drawing shows, in words."""
    if result.negative is not None:
        return with_minus(f"{result.negative[0].upper()}{result.negative[1:]}")
    slope = result.decay()
    law = "" if slope is None else f"; they fall about as j to the power {-slope:.2g}"
    top = float(result.values[0]) / result.trace if result.trace else 0.0
    return with_minus(f"The largest of {result.size:,} eigenvalues holds {top:.1%} of the trace{law}")
