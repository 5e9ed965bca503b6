"""The drawings of a game: how the critic's score came about, and the real images behind a generated point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_place
from ..generative.games.result import GANExplanation
from ..generative.games.witnessing import PERCENT_LIMIT, Witness
from ..pictures import picture_shape
from . import drawing
from .bars import draw_bars
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Letters of a line of a title.
TITLE = 76


@drawing(Witness)
def draw_witness(result: Witness, ax: Axes, theme: Theme, *, query: int | None = None) -> None:
    """Draws what real points, penalties and generated points made of the score up to each step, and their sum.

    By default on the mean over all points.
    """
    steps = result.by_step.mean(0) if query is None else result.by_step[as_place(query, "query", len(result), "points")]
    courses = steps.cumsum(1)
    time = torch.arange(1, courses.shape[1] + 1)
    drawn = [("real points", courses[0], theme.up, "-"), ("generated points", courses[2], theme.down, "--")]
    if result.penalty.shape[1]:
        drawn.append(("penalties", courses[1], theme.data, ":"))
    drawn.append(("their sum", courses.sum(0), theme.ink, "-"))
    ax.axhline(0, color=theme.rule, linewidth=0.8)
    for name, values, colour, dash in drawn:
        ax.plot(time, values, dash, color=colour, linewidth=2.2 if name == "their sum" else 1.6)
    _beside(ax, float(len(time)), [(name, float(values[-1]), colour) for name, values, colour, _ in drawn])
    ax.set_xlabel("step of the critic")
    ax.set_ylabel("contribution to the score")
    kappa = result.kappa if query is None else float(result.cancellation[query])
    of = "groups" if query is None else "samples"
    told = (f"{of} cancel {kappa:.2g} times over: a witness, not a list of shares" if kappa > PERCENT_LIMIT else
            f"{of} hardly cancel (kappa {kappa:.2g})")
    change = float((result.final - result.initial).mean() if query is None else
                   result.final[query] - result.initial[query])
    ax.set_title(in_lines(f"The score changed by {change:+.3g}: {told}", ": ", TITLE), parse_math=False)


@drawing(GANExplanation)
def draw_explanation(result: GANExplanation, ax: Axes, theme: Theme, *, show: str = "images", query: int = 0,
                     output: int = 0, k: int = 5) -> None:
    """Draws the real images with the largest centred contribution beside a generated point, or the mass of all.

    ``show="images"`` draws those of one point, small where they are pictures; ``show="mass"`` how the mass of real
    images is spread, apart for those with a generated point near and those without.
    """
    if as_choice(show, "show", ("images", "mass")) == "mass":
        _draw_mass(result, ax, theme)
        return
    place = as_place(query, "query", len(result), "points")
    column = as_place(output, "output", len(result.outputs), "outputs")
    best = result.top(as_count(k, "k", least=1), place, column)
    labels, values = best["label"].tolist(), best["centred"].tolist()
    names = [f"image {i}" if label is None else f"{label} (image {i})"
             for i, label in zip(best["real"].tolist(), labels, strict=True)]
    shape = picture_shape(result.points.shape[1:])
    if shape is None:
        draw_bars(ax, theme, values, names)
        ax.set_xlabel("contribution to the motion, beside the mean of all real points")
    else:
        _draw_pictures(result, ax, theme, shape, place, best["real"].tolist(), [
            f"{name}\n{value:+.2g}" for name, value in zip(names, values, strict=True)])
    ax.set_title(in_lines(_conclusion(result, place, column, labels), ": ", TITLE), parse_math=False)


def _conclusion(result: GANExplanation, query: int, output: int, labels: list[str | None]) -> str:
    """What the pictures show, in words."""
    way = "brought" if result.how == "path" else "pulls now"
    cancels = f"centred, since groups cancel {result.kappa:.2g} times over" if result.kappa > PERCENT_LIMIT else (
        f"groups cancel {result.kappa:.2g} times")
    # What no image made is told beside the images.
    cancels += (f"; the first critic alone made {float(result.first_critic[query, output]):+.2g} of "
                f"{float(result.total[query, output]):+.2g}")
    if labels[0] is None:
        return f"What {way} generated point {query}: {cancels}"
    most = max(dict.fromkeys(labels), key=labels.count)
    count = labels.count(most)
    told = (f"the first {len(labels)} are of as many classes" if count == 1 < len(labels) else
            f"{count} of the first {len(labels)} are of class {plain(str(most), 12)}")
    return f"What {way} generated point {query}: {told}; {cancels}"


def _draw_pictures(result: GANExplanation, ax: Axes, theme: Theme, shape: tuple[int, int, int], query: int,
                   which: list[int], words: list[str]) -> None:
    images: list[Tensor] = [result.points[query], *(result.witness.shown[i] for i in which)]
    known = result.witness.shown[result.witness.shown.flatten(1).isfinite().all(1)]
    low, high = float(known.min()), float(known.max())
    for column, (image, word) in enumerate(zip(images, ["generated", *words], strict=True)):
        left = column * 1.25 + (0.35 if column else 0.0)
        drawn: Any = (image.double().reshape(shape).nan_to_num(low) - low) / max(high - low, 1e-12)
        drawn = drawn.clamp(0, 1).permute(1, 2, 0).numpy()
        ax.imshow(drawn[:, :, 0] if shape[0] == 1 else drawn, cmap="gray", vmin=0, vmax=1, interpolation="nearest",
                  extent=(left, left + 1, 0, shape[1] / shape[2]))
        ax.text(left + 0.5, -0.08, plain(word.split("\n")[0], 18) + ("\n" + word.split("\n")[1] if column else ""),
                ha="center", va="top", color=theme.ink if column else theme.muted, parse_math=False)
    ax.set_xlim(-0.05, len(images) * 1.25 + 0.35)
    ax.set_ylim(-0.55, shape[1] / shape[2] + 0.05)
    ax.set_aspect("equal")
    ax.axis("off")


def _draw_mass(result: GANExplanation, ax: Axes, theme: Theme) -> None:
    shown = result.last >= 0
    share = result.mass[shown] * int(shown.sum())
    near = result.covered[shown]
    edges = torch.linspace(0, max(float(share.max()), 1e-12), 25).tolist()
    parts = [("a generated point near", share[near], theme.up), ("none near", share[~near], theme.down)]
    for name, values, colour in parts:
        if len(values):
            counts = torch.histogram(values, torch.tensor(edges, dtype=torch.float64)).hist
            ax.stairs((counts / len(values)).numpy(), edges, color=colour, linewidth=1.8,
                      linestyle="-" if colour == theme.up else "--", label=f"{name} ({len(values)})")
    ax.axvline(1, color=theme.muted, linewidth=0.8)
    ax.legend(frameon=False, labelcolor=theme.ink)
    ax.set_xlabel("mass of a real image (1: as much as all have on the mean)")
    ax.set_ylabel("share of images")
    found, m = result.concentration, result.modes
    inside = m["auroc_shuffled_low"] <= m["auroc"] <= m["auroc_shuffled_high"]
    told = "mass says nothing of what is covered" if inside else (
        f"covered ones have {'more' if m['auroc'] > 0.5 else 'less'} (AUROC {m['auroc']:.2f})")
    ax.set_title(in_lines(f"The mass is that of {float(found.n_eff):.0f} of {int(shown.sum())} images seen: {told}; "
                          f"{len(result.dropped)} dropped", ": ", TITLE), parse_math=False)


def _beside(ax: Axes, x: float, ends: list[tuple[str, float, str]]) -> None:
    """Names at the ends of lines, moved apart where they would lie on each other."""
    low, high = ax.get_ylim()
    least = 0.075 * (high - low)
    last = -float("inf")
    for name, value, colour in sorted(ends, key=lambda end: end[1]):
        last = max(value, last + least)
        ax.annotate(name, (x, last), (6, 0), textcoords="offset points", va="center", color=colour,
                    annotation_clip=False)
