"""The drawings of the kernel of a run along its training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_choice
from ..diagnostics.evolution.between import KernelDistances
from ..diagnostics.evolution.result import KernelEvolution
from ..diagnostics.evolution.words import SAME, is_known, moved_when, number
from ..errors import DataError
from ..text import with_minus
from . import drawing
from .cells import SHADES, cuts_of, means, paint, shades_of
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: What may be shown.
SHOWN = ("course", "regression", "closeness", "cka", "movie", "spectrum")

#: The CKA that is white on a map, at most.
MAPPED = 0.9

#: How wide a title may be, and that of a map; how far names are apart as a share of the height.
WIDTH, WIDE, APART = 78, 60, 0.085

#: How many steps are told along a side of a map, and of up to how many cells every other one is.
TOLD, FEW = 6, 12


@drawing(KernelEvolution)
def draw_evolution(result: KernelEvolution, ax: Axes, theme: Theme, *, show: str = "course") -> None:
    """Draws the course of alignment, CKA and loss; scores of kernel regression; CKA between times; the movie; spectra.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"course"``, ``"regression"``, ``"closeness"``, ``"cka"``, ``"movie"`` or ``"spectrum"``.
    """
    as_choice(show, "show", SHOWN)
    {"course": _course, "regression": _regression, "closeness": _closeness, "cka": _cka, "movie": _movie,
     "spectrum": _spectrum}[show](result, ax, theme)


def shows(result: KernelEvolution) -> list[str]:
    """What of this there is to be drawn."""
    there = {"regression": _known(result.regression, "score"), "closeness": _known(result.regression, "carried"),
             "movie": result.movie is not None}
    return [name for name in SHOWN if there.get(name, True)]


def _known(series: dict[str, Tensor], name: str) -> bool:
    return name in series and is_known(series[name])


def _course(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    series = result.series
    loss = series["loss"] / (float(series["loss"].max()) or 1.0)
    lines: list[tuple[str, Tensor, str, Any]] = [
        ("CKA with the last", series["cka last"], theme.up, "solid"),
        ("CKA with the first", series["cka first"], theme.up, (0, (5, 2))),
        ("training loss / largest", loss, theme.down, "solid")]
    if _known(series, "alignment"):
        lines.append(("alignment", series["alignment"], theme.data, "solid"))
    if _known(series, "alignment x"):
        lines.append(("alignment, other points", series["alignment x"], theme.data, (0, (2, 1.5))))
    _lines(result, ax, theme, lines)
    ax.set_ylim(min(0.0, float(torch.stack([values.min() for _, values, *_ in lines]).min())), 1.05)
    said = moved_when(result.times, series["cka first"], series["cka last"])
    ax.set_title(in_lines(f"{said[0].upper()}{said[1:]}", ", ", WIDTH), parse_math=False)


def _regression(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    fits, series = result.regression, result.series
    if not _known(fits, "score"):
        raise DataError("No targets of points that differ were predicted, so there is no score to draw. Pass them: "
                        "ks.evolution(run, x, y).")
    lines: list[tuple[str, Tensor, str, Any]] = [
        (f"{result.task}, kernel regression", fits["score"], theme.data, "solid"),
        (f"{result.task}, network then", series["score x"], theme.ink, "solid")]
    if "agreement" in fits:
        lines.append(("same answers as the trained network", fits["agreement"], theme.up, "solid"))
    _lines(result, ax, theme, lines)
    last, first = (float(fits["score"][i]) for i in (-1, 0))
    said = (f"Kernel regression scores {last:.3f} with the last kernel, {first:.3f} with the first; the network "
            f"{float(series['score x'][-1]):.3f}")
    ax.set_title(in_lines(with_minus(said), "; ", WIDTH), parse_math=False)


def _closeness(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    fits = result.regression
    if not _known(fits, "carried"):
        raise DataError("No points were predicted on which the outputs of the network differ, so there is nothing "
                        "close to it. Pass them: ks.evolution(run, x, y).")
    lines = [("fit of its own outputs", fits["carried"], theme.down, "solid")]
    if _known(fits, "distance"):
        lines.append(("fit of the targets", fits["distance"], theme.data, "solid"))
    if "agreement" in fits and float(fits["agreement"].max()) < 1:
        lines.append(("other answers", 1 - fits["agreement"], theme.up, "solid"))
    ends = []
    for name, values, colour, dashes in lines:
        shown = torch.where(values > 0, values, torch.nan)
        ax.plot(result.times.tolist(), shown.tolist(), color=colour, linestyle=dashes, linewidth=1.5)
        there = (values > 0).nonzero().flatten()
        if len(there):
            ends.append((float(values[there[-1]]), name, colour))
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    _steps(result, ax)
    _name(ax, float(result.times[-1]), ends, True)
    ax.set_ylabel("distance from the network")
    near, far = (float(fits["carried"][i]) for i in (-1, 0))
    said = (f"Fitted to the network on samples, the last kernel misses {number(near)} and "
            f"the first {number(far)} of the variance of its outputs on other points")
    ax.set_title(in_lines(with_minus(said), " and ", WIDTH), parse_math=False)


def _spectrum(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    shares = result.values / result.series["trace"][:, None].clamp(min=torch.finfo(torch.float64).tiny)
    count = shares.shape[1]
    ends = []
    for j in range(count):
        values = shares[:, j].clamp(min=1e-12)
        ax.plot(result.times.tolist(), values.tolist(), color=theme.up, linewidth=1.3,
                alpha=1 - 0.7 * j / max(count - 1, 1))
        if j in (0, 1, count - 1):
            ends.append((float(values[-1]), f"eigenvalue {j + 1}", theme.up))
    ax.set_yscale("log")
    _name(ax, float(result.times[-1]), ends, True)
    _steps(result, ax)
    ax.set_ylabel("share of the trace")
    ranks = result.series["entropy rank"]
    first, last = float(ranks[0]), float(ranks[-1])
    verb = "rises" if last > 1.05 * first else "falls" if last < first / 1.05 else "stays"
    said = f"from {first:.3g} to {last:.3g}" if verb != "stays" else f"at about {last:.3g}"
    ax.set_title(f"The effective rank of the kernel (by entropy) {verb} {said}", parse_math=False)


def _cka(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    k, least = int(result.cka.diagonal(1).argmin()), float(result.cka.min())
    said = (f"CKA between times falls to {number(least)}; the largest turn is from step "
            f"{int(result.times[k])} to {int(result.times[k + 1])}")
    if 1 - least < SAME:
        said = f"CKA between times is never below {math.floor(1000 * least) / 1000:.3f}"
    _map(ax, theme, result.cka, (result.times, result.times), ("step", "step"), in_lines(said, "; ", WIDE))


@drawing(KernelDistances)
def draw_distances(result: KernelDistances, ax: Axes, theme: Theme) -> None:
    """Draws CKA between the times of two runs as a map."""
    said = result.said()
    _map(ax, theme, result.cka, (result.first, result.second), ("step of the first run", "step of the second run"),
         in_lines(f"{said[0].upper()}{said[1:]}", ": ", WIDE))


def _map(ax: Axes, theme: Theme, values: Tensor, steps: tuple[Tensor, Tensor], names: tuple[str, str],
         title: str) -> None:
    # What hardly differs shall not look as if it did.
    low = min(float(values.min()), MAPPED)
    scaled = (values - low) / ((1 - low) or 1.0)
    cuts = [cuts_of(len(each)) for each in steps]
    colours = shades_of(theme, False)
    paint(ax, means(scaled, *cuts).clamp(0, 1), cuts, colours, False)
    ax.set_xlim(0, len(steps[1]))
    ax.set_ylim(len(steps[0]), 0)
    ax.set_aspect(len(steps[1]) / len(steps[0]), anchor="W")
    for axis, each, name in ((ax.yaxis, steps[0], names[0]), (ax.xaxis, steps[1], names[1])):
        places = _evenly_told(len(each))
        axis.set_ticks([i + 0.5 for i in places], [f"{int(each[i]):,}" for i in places])
        axis.set_label_text(name)
    _bar(ax, theme, low, 1.0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(title, parse_math=False)


def _evenly_told(count: int) -> list[int]:
    """The places of a few cells, evenly spaced, whose steps are told: all of a few, the first and mostly the last.

    Example:
        >>> _evenly_told(5), _evenly_told(8), _evenly_told(21)
        ([0, 1, 2, 3, 4], [0, 2, 4, 6], [0, 4, 8, 12, 16, 20])
    """
    if count <= TOLD:
        return list(range(count))
    parts = next((parts for parts in range(TOLD - 1, 2, -1) if (count - 1) % parts == 0), None)
    if parts is None and count <= FEW:
        return list(range(0, count, 2))
    # Among many cells half of one is not seen.
    return [round(i * (count - 1) / (parts or 4)) for i in range((parts or 4) + 1)]


def _movie(result: KernelEvolution, ax: Axes, theme: Theme) -> None:
    if result.movie is None:
        raise DataError("No picture of the kernel was kept. Ask for them: ks.evolution(run, movie=6).")
    frames = normalised(result.movie)
    count = result.movie.shape[1]
    wide = len(frames) if len(frames) <= 3 else -(-len(frames) // 2)
    gap, below = 0.1 * count, 0.24 * count
    signed = bool((frames < -0.5 / SHADES).any())
    cuts = [cuts_of(count)] * 2
    for i, (frame, step) in enumerate(zip(frames, result.movie_times, strict=True)):
        left, top = i % wide * (count + gap), i // wide * (count + below)
        paint(ax, means(frame, *cuts), cuts, shades_of(theme, signed), signed, (left, top))
        ax.annotate(f"step {step:,}", (left + count / 2, top + count), (0, -3), textcoords="offset points", ha="center",
                    va="top", color=theme.muted, fontsize="small", annotation_clip=False)
    ax.set_xlim(0, wide * (count + gap) - gap)
    ax.set_ylim(-(-len(frames) // wide) * (count + below) - below / 2, 0)
    ax.set_aspect("equal", anchor="W")
    ax.set_xticks([])
    ax.set_yticks([])
    _bar(ax, theme, -1.0 if signed else 0.0, 1.0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(in_lines(said_of_movie(result, frames), "; ", WIDTH), parse_math=False)


def normalised(movie: Tensor) -> Tensor:
    """The kernels as cosines between samples, so that all pictures have one scale."""
    sizes = movie.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(movie.dtype).tiny).sqrt()
    return (movie / sizes[:, :, None] / sizes[:, None, :]).clamp(-1, 1)


def said_of_movie(result: KernelEvolution, frames: Tensor) -> str:
    """What the movie shows, in words."""
    if result.movie_classes is None or len(set(result.movie_classes)) < 2:
        first, last = (float(frames[i].mean()) for i in (0, -1))
        return with_minus(f"Cosines of tangent features have the mean {first:.2f} at first and {last:.2f} at last")
    classes = torch.tensor(result.movie_classes)
    same = classes == classes[:, None]
    pairs = same & ~torch.eye(len(same), dtype=torch.bool)
    gaps = [(float(frame[pairs].mean()), float(frame[~same].mean())) for frame in (frames[0], frames[-1])]
    (a, b), (c, d) = gaps
    return with_minus(f"Mean cosine within a class and between: {a:.2f} and {b:.2f} at first; {c:.2f} and {d:.2f} at "
                      "last")


def _lines(result: KernelEvolution, ax: Axes, theme: Theme, lines: list[tuple[str, Tensor, str, Any]]) -> None:
    steps, ends = result.times.tolist(), []
    for name, values, colour, dashes in lines:
        ax.plot(steps, values.tolist(), color=colour, linestyle=dashes, linewidth=1.5)
        ends.append((float(values[-1]), name, colour))
    _steps(result, ax)
    ax.set_ylim(0, 1.05)
    _name(ax, steps[-1], ends, False)


def _steps(result: KernelEvolution, ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = float(result.times[0]), float(result.times[-1])
    ax.set_xlim(first, last + 0.42 * (last - first))
    ticks = [t for t in MaxNLocator(5, integer=True).tick_values(first, last) if first <= t <= last]
    ax.set_xticks(ticks, [f"{int(t):,}" for t in ticks])
    ax.set_xlabel("step")


def _name(ax: Axes, x: float, ends: list[tuple[float, str, str]], logarithmic: bool) -> None:
    """Writes at the end of each line what it is, none over another."""
    bottom, top = ax.get_ylim()
    height = lambda y: math.log(y / bottom) / math.log(top / bottom) if logarithmic else (y - bottom) / (top - bottom)
    ordered = sorted(ends)
    places = [height(y) for y, *_ in ordered]
    # From the lowest up each at least so far above the one before, and then from the top down.
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + APART)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], 1.0 if i == len(places) - 1 else places[i + 1] - APART)
    for place, (_, name, colour) in zip(places, ordered, strict=True):
        y = bottom * (top / bottom) ** place if logarithmic else bottom + place * (top - bottom)
        ax.annotate(name, (x, y), xytext=(6, 0), textcoords="offset points", color=colour, va="center",
                    fontsize="small", annotation_clip=False)


def _bar(ax: Axes, theme: Theme, low: float, high: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    beside = ax.inset_axes((1.02, 0.0, 0.02, 1.0))
    ticks = [low, 0, high] if low < 0 < high else [low, high]
    bar = ax.figure.colorbar(ScalarMappable(Normalize(low, high), shades_of(theme, low < 0)), cax=beside, ticks=ticks)
    bar.ax.set_yticklabels([with_minus(f"{value:.2g}") for value in ticks])
    bar.outline.set_edgecolor(theme.rule)
