"""The drawings of denoisers: which closed form a network is at which noise, and what its Jacobian is like there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import as_choice
from ..generative.denoising.fits import DenoiserFit
from ..generative.denoising.jacobians import MEASURES, NULLS, JacobianGeometry
from ..text import with_minus
from . import drawing
from .curves import LOOKS
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Letters of a line of the title.
TITLE = 78

#: What each measure is called on its axis.
AXES = {"trace": "degrees of freedom, trace of J", "participation": "participation ratio of the singular values",
        "asymmetry": "asymmetry, |J − Jᵀ| / |J + Jᵀ|", "radius": "spatial radius of J, pixels"}


@drawing(DenoiserFit)
def draw_fit(result: DenoiserFit, ax: Axes, theme: Theme, *, show: str = "r2") -> None:
    """Draws for each closed form how near it is to the denoiser, or its loss beside the denoiser's own."""
    as_choice(show, "show", ("r2", "loss"))
    values = result.r2 if show == "r2" else result.loss
    families = [result.names[i].split()[0] for i in result.forms]
    for i, name in enumerate(result.names):
        family = name.split()[0]
        # One colour for all windows of a kind, told apart by their dashes.
        place = None if i not in result.forms else (
            list(dict.fromkeys(families)).index(family) + 4 * families[: result.forms.index(i)].count(family))
        _line(ax, theme, result.levels, values[i], name, place, result.r2_error[i] if show == "r2" else None)
    if show == "r2":
        # What is farther from the denoiser than its mean is has no place in the picture.
        ax.set_ylim(min(0.0, float(result.r2[result.forms].max(0).values.min())) - 0.02, 1.02)
        ax.set_ylabel("r² with the denoiser")
    else:
        ax.plot(result.levels.tolist(), result.own_loss.tolist(), color=theme.ink, linewidth=3.0, label="the denoiser")
        ax.set_yscale("log")
        ax.set_ylim(float(result.own_loss.min()) / 1.5, float(result.loss[result.forms].max()) * 1.5)
        ax.set_ylabel("mean square at the clean points")
    _dressed(ax, theme, result.levels)
    ax.set_title(in_lines(conclusion(result, show), ", ", TITLE), parse_math=False)


def conclusion(result: DenoiserFit, show: str = "r2") -> str:
    """What the drawing shows, in words."""
    if show == "loss":
        least = result.loss[result.forms].min(0).values
        worse = [f"{sigma:.3g}" for sigma, own, best in zip(result.levels.tolist(), result.own_loss, least, strict=True)
                 if own > best]
        if not worse:
            return "No closed form denoises better than the network"
        where = {1: worse[0], 2: " and ".join(worse)}.get(len(worse), f"{worse[0]} to {worse[-1]}")
        return f"A closed form denoises better than the network at noise {where}"
    parts = []
    for name, first, last in result.stretches():
        low, high = float(result.levels[first]), float(result.levels[last])
        parts.append(f"{name} at {low:.3g}" + (f" to {high:.3g}" if last > first else ""))
    return f"By noise level the denoiser is nearest to {', '.join(parts)}"


@drawing(JacobianGeometry)
def draw_geometry(result: JacobianGeometry, ax: Axes, theme: Theme, *, show: str = "trace") -> None:
    """Draws one measure of each denoiser over the noise level, with its standard error; nulls are dashed."""
    as_choice(show, "show", MEASURES)
    for i, name in enumerate(result.names):
        place = result.asked.index(name) if name in result.asked else None
        _line(ax, theme, result.levels, result.means[show][i], name, place, result.errors[show][i],
              NULLS.index(name) if place is None else 0)
    if show in ("trace", "participation"):
        from matplotlib.ticker import FuncFormatter, NullFormatter

        ax.set_yscale("log")
        drawn = result.means[show][torch.isfinite(result.means[show]) & (result.means[show] > 0.05)]
        ax.set_ylim(float(drawn.min()) / 1.4 if len(drawn) else 0.05, float(drawn.max()) * 1.4 if len(drawn) else 1.0)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(AXES[show])
    _dressed(ax, theme, result.levels)
    ax.set_title(in_lines(course(result, show), "; ", TITLE), parse_math=False)


def course(result: JacobianGeometry, show: str) -> str:
    """What the drawing shows, in words."""
    what = {"trace": "passes", "participation": "spreads over", "asymmetry": "is asymmetric by",
            "radius": "reaches"}[show]
    unit = {"trace": " directions", "participation": " directions", "asymmetry": "", "radius": " pixels"}[show]
    parts = []
    for name in result.asked[:2]:
        row = result.of(name, show)
        parts.append(f"{plain(name, 16)} {what} {float(row[0]):.3g} to {float(row[-1]):.3g}{unit}")
    if "Wiener" in result.names and not math.isnan(float(result.of("Wiener", show)[0])):
        row = result.of("Wiener", show)
        parts.append(f"Wiener {float(row[0]):.3g} to {float(row[-1]):.3g}" if float(row.max()) > 1e-9 else "Wiener 0")
    low, high = float(result.levels[0]), float(result.levels[-1])
    return with_minus(f"From noise {low:.3g} to {high:.3g} {'; '.join(parts)}")


def _line(ax: Axes, theme: Theme, levels: Tensor, values: Tensor, name: str, place: int | None,
          errors: Tensor | None, null: int = 0) -> None:
    """One line; without a place it is a null, thin and dashed."""
    colours = (theme.up, theme.down, theme.data, theme.ink)
    dashes, marker = LOOKS[(place or 0) // len(colours) % len(LOOKS)]
    colour, width = colours[(place or 0) % len(colours)], 1.5
    if place is None:
        colour, width, marker = theme.muted, 1.0, ""
        dashes = ((0, (4, 2)), (0, (1, 2)), (0, (6, 2, 1, 2)))[2 if name == "untrained" else null % 2]
    there = torch.isfinite(values).nonzero().flatten().tolist()
    if not there:
        return
    offs = None if errors is None or place is None else errors[there].nan_to_num(0.0).tolist()
    ax.errorbar(levels[there].tolist(), values[there].tolist(), yerr=offs, color=colour, linestyle=dashes,
                marker=marker, markersize=3.5, linewidth=width, elinewidth=1.0, label=plain(name, 24))


def _dressed(ax: Axes, theme: Theme, levels: Tensor) -> None:
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    ax.set_xticks(levels.tolist(), [f"{level:.3g}" for level in levels.tolist()])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("noise level σ")
    ax.grid(True, which="major", color=theme.rule, linewidth=0.6)
    ax.legend(frameon=False, fontsize="small", labelcolor=theme.ink, loc="center left", bbox_to_anchor=(1.0, 0.5))
