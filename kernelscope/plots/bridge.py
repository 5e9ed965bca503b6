"""The drawings of the bridge between a critic and a denoiser, and of a critic's geometry along training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_choice
from ..generative.comparing.bridging import Bridge
from ..generative.games.geometry import CriticGeometry
from ..text import with_minus
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How wide a title may be, and how far names are apart as a share of the height.
WIDTH, APART = 76, 0.075

#: Dashes of what is a null.
NULL = (0, (2, 1.5))


@drawing(Bridge)
def draw_bridge(result: Bridge, ax: Axes, theme: Theme, *, show: str = "generated") -> None:
    """Draws cosines over noise levels with their 95 % intervals, and within what a random direction is.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"generated"`` for the cosines of two directions at generated points, ``"noisy"`` for those with the way
            back to the clean point at real points with noise.
    """
    as_choice(show, "show", ("generated", "noisy"))
    lines: list[tuple[str, str, str, Any]] = [
        ("denoiser, Wiener", "denoiser and Wiener denoiser", theme.up, "solid"),
        ("denoiser, nearest", "denoiser and nearest image", theme.up, (0, (5, 2))),
        ("critic, two denoisers", "critic and real − generated", theme.data, "solid"),
        ("critic, nearest", "critic and nearest image", theme.down, (0, (5, 2))),
        ("critic, denoiser", "critic and denoiser", theme.down, "solid"),
        ("untrained critic, denoiser", "untrained critic", theme.muted, NULL)]
    if show == "noisy":
        lines = [("denoiser", "denoiser", theme.up, "solid"), ("Wiener", "Wiener denoiser", theme.up, (0, (5, 2))),
                 ("untrained denoiser", "untrained denoiser", theme.muted, NULL),
                 ("critic", "critic", theme.down, "solid"),
                 ("witness", "witness function", theme.data, "solid"),
                 ("untrained critic", "untrained critic", theme.muted, (0, (1, 1)))]
    at, ends = result.levels.tolist(), []
    ax.axhspan(-result.chance(show), result.chance(show), color=theme.rule, linewidth=0)
    for name, label, colour, dashes in lines:
        mean, off = result.mean(name, show)
        ax.fill_between(at, (mean - off).tolist(), (mean + off).tolist(), color=colour, alpha=0.18, linewidth=0)
        ax.plot(at, mean.tolist(), color=colour, linestyle=dashes, linewidth=1.5)
        ends.append((float(mean[-1]), label, colour))
    ax.set_xscale("log")
    lowest = min(-0.05, *(float(result.mean(name, show)[0].min()) for name, *_ in lines))
    ax.set_ylim(lowest - 0.02, 1.02)
    ax.set_xlim(at[0], at[-1])
    _ticks(ax, at)
    _name(ax, at[-1], ends)
    ax.set_xlabel("noise level σ")
    ax.set_ylabel("cosine" if show == "generated" else "cosine with the way back")
    said = _ahead(result) if show == "generated" else _back(result)
    ax.set_title(in_lines(with_minus(said), ": ", WIDTH), parse_math=False)


@drawing(CriticGeometry)
def draw_geometry(result: CriticGeometry, ax: Axes, theme: Theme, *, show: str = "spectrum") -> None:
    """Draws the spectrum of the slopes' second moment along training; or slopes, or effective ranks, over steps.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"spectrum"``, ``"slopes"`` or ``"ranks"``.
    """
    as_choice(show, "show", ("spectrum", "slopes", "ranks"))
    {"spectrum": _spectrum, "slopes": _slopes, "ranks": _ranks}[show](result, ax, theme)


def _spectrum(result: CriticGeometry, ax: Axes, theme: Theme) -> None:
    shares, least = result.spectrum, 1e-6
    count = min(shares.shape[1], 40)
    at = list(range(1, count + 1))
    ends = []
    for i, k in enumerate(result.steps):
        strength = (i + 1) / len(result.steps)
        values = shares[i, :count].clamp(min=least)
        ax.plot(at, values.tolist(), color=theme.up, alpha=0.25 + 0.75 * strength, linewidth=1.0 + 0.8 * strength)
        if i in (0, len(result.steps) - 1):
            ends.append((float(values[-1]), f"step {k:,}", theme.up))
    null = result.untrained_spectrum[:count].clamp(min=least)
    ax.plot(at, null.tolist(), color=theme.muted, linestyle=NULL, linewidth=1.3)
    ends.append((float(null[-1]), "untrained, last points", theme.muted))
    ax.set_yscale("log")
    ax.set_ylim(least, 1.5)
    ax.set_xlim(1, count)
    _name(ax, count, ends, logarithmic=True)
    ax.set_xlabel("direction, the strongest first")
    ax.set_ylabel("share of the slopes")
    rank, null_rank = result.value("slope rank"), result.untrained["slope rank"]
    told = result.told("slope rank")
    verb = "span" if not told else "widen to" if rank > null_rank else "narrow to"
    beside = f"an untrained critic’s have {null_rank:.1f}" + ("" if told else ", and they are not told apart")
    ax.set_title(in_lines(f"The critic’s slopes {verb} {rank:.1f} of {shares.shape[1]} directions; {beside}", "; ",
                          WIDTH), parse_math=False)


def _slopes(result: CriticGeometry, ax: Axes, theme: Theme) -> None:
    colours = {"real": theme.up, "generated": theme.down, "between": theme.data}
    ends = []
    for place, quantiles in result.slopes.items():
        ax.fill_between(result.steps, quantiles[:, 1].tolist(), quantiles[:, 3].tolist(), color=colours[place],
                        alpha=0.18, linewidth=0)
        ax.plot(result.steps, quantiles[:, 2].tolist(), color=colours[place], linewidth=1.5)
        ends.append((float(quantiles[-1, 2]), {"between": "between both"}.get(place, f"at {place}"), colours[place]))
    ax.set_xlim(result.steps[0], result.steps[-1])
    ax.set_ylim(bottom=0)
    _name(ax, result.steps[-1], ends)
    ax.set_xlabel("step of the generator")
    ax.set_ylabel("length of the slope, quartiles")
    last = {place: float(quantiles[-1, 2]) for place, quantiles in result.slopes.items()}
    most = max(last, key=lambda place: last[place])
    where = {"real": "at real points", "generated": "at generated points",
             "between": "between real and generated points"}
    # A median is known up to 1.57 quartile ranges over the root of the number of points (McGill et al., 1978).
    sizes = {"real": result.info["real"], "generated": result.info["generated"]}
    sizes["between"] = min(sizes.values())
    off = {place: 1.57 * float(quantiles[-1, 3] - quantiles[-1, 1]) / sizes[place] ** 0.5
           for place, quantiles in result.slopes.items()}
    told = all(last[most] - off[most] > last[place] + off[place] for place in last if place != most)
    medians = ", ".join(f"{last[place]:.2g} {place if place == 'between' else f'at {place}'}" for place in last)
    ax.set_title(in_lines((f"The critic is steepest {where[most]}" if told else "The critic is not steepest anywhere")
                          + f": median {medians}", ": ", WIDTH), parse_math=False)


def _ranks(result: CriticGeometry, ax: Axes, theme: Theme) -> None:
    lines = (("slope rank", "slopes", theme.down), ("critic kernel rank", "critic’s kernel", theme.up),
             ("generator kernel rank", "generator’s kernel", theme.data), ("latent rank", "latents", theme.muted))
    ends = []
    for name, label, colour in lines:
        values = result.course[name]
        ax.plot(result.steps, values.tolist(), color=colour, linewidth=1.5)
        ends.append((float(values[-1]), label, colour))
    ax.set_xlim(result.steps[0], result.steps[-1])
    ax.set_ylim(bottom=0)
    _name(ax, result.steps[-1], ends)
    ax.set_xlabel("step of the generator")
    ax.set_ylabel("effective rank")
    change = {label: float(result.course[name][-1] / result.course[name][0].clamp(min=1e-12))
              for name, label, _ in lines}
    most = max(change, key=lambda label: change[label])
    least = min(change, key=lambda label: change[label])
    falls = f"that of the {least} falls to {change[least]:.2g} of it" if change[least] < 1 else (
        f"that of the {least} least, {change[least]:.1f} times")
    said = f"Along training the rank of the {most} grows most, {change[most]:.1f} times; {falls}"
    if all(abs(value - 1) < 0.1 for value in change.values()):
        said = "Along training no effective rank changes by a tenth"
    ax.set_title(in_lines(said, "; ", WIDTH), parse_math=False)


def _ahead(result: Bridge) -> str:
    """What the drawing of generated points shows, in words."""
    own, null, two = ("{:.2f} to {:.2f}".format(*result.range(name))
                      for name in ("critic, denoiser", "untrained critic, denoiser", "denoiser, Wiener"))
    return f"{result.verdict}: cosine {own}; untrained {null}; two denoisers {two}"


def _back(result: Bridge) -> str:
    """What the drawing of noisy real points shows, in words."""
    own, null, ours = (result.noisy[name] for name in ("critic", "untrained denoiser", "denoiser"))
    behind = int(result.above(ours - own).sum())
    levels = len(result.levels)
    if not bool(result.learned.any()):
        said = "The denoiser points back no better than an untrained one"
    elif behind:
        where = "every noise level" if behind == levels else f"{behind} of {levels} noise levels"
        said = f"The critic points back less than the denoiser at {where}"
    else:
        said = "The critic is not told from the denoiser by how it points back"
    most = [float(values.mean(1).max()) for values in (own, ours)]
    return (f"{said}: at most {most[0]:.2f} against {most[1]:.2f}; an untrained denoiser leads the critic at "
            f"{int(result.above(null - own).sum())} of {levels}")


def _ticks(ax: Axes, at: list[float]) -> None:
    from matplotlib.ticker import NullLocator

    shown = at[::2] if len(at) > 6 else at
    ax.set_xticks(shown, [f"{s:.2g}" for s in shown])
    ax.xaxis.set_minor_locator(NullLocator())


def _name(ax: Axes, x: float, ends: list[tuple[float, str, str]], logarithmic: bool = False) -> None:
    """Writes at the right of each line what it is, none over another."""
    limits = torch.tensor(ax.get_ylim(), dtype=torch.float64)
    scaled = lambda values: values.log() if logarithmic else values
    bottom, top = scaled(limits).tolist()
    ends = sorted(ends)
    places: Tensor = scaled(torch.tensor([value for value, *_ in ends], dtype=torch.float64)).clamp(bottom, top)
    apart = APART * (top - bottom)
    for i in range(1, len(places)):
        places[i] = max(float(places[i]), float(places[i - 1]) + apart)
    above = top + apart / 2
    for i in reversed(range(len(places))):
        places[i] = above = min(float(places[i]), above - apart)
    for place, (_, name, colour) in zip(places, ends, strict=True):
        y = float(place.exp()) if logarithmic else float(place)
        ax.annotate(name, (x, y), (8, 0), textcoords="offset points", va="center", color=colour, fontsize="small",
                    annotation_clip=False)
