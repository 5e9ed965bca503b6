"""The drawings of denoisers: a sample's stages by training noise, the coupling of noise levels, what is local in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..generative.measures import centred
from ..generative.stages.localisation import NoiseLocalisation
from ..generative.stages.noise_kernels import NoiseKernel
from ..generative.stages.optimal_result import OptimalExplanation
from ..generative.stages.result import DiffusionExplanation
from ..generative.stages.sampler_result import SamplerExplanation
from ..pictures import limits, picture_shape
from ..text import with_minus
from . import drawing
from .cells import paint, shades_of
from .style import in_lines, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: Pictures in a filmstrip, at most, and training images beside it.
FRAMES, IMAGES = 9, 4

#: How many characters stand below a square map, with a space after each word.
ROOM = 30


@drawing(DiffusionExplanation)
def draw_explanation(result: DiffusionExplanation, ax: Axes, theme: Theme, *, query: int = 0) -> None:
    """Draws what each bin of training noise added at each stage, over the film of the sample as it is denoised.

    Frames mark the bin of each stage's own noise. On the right stand the training images that added most.
    """
    query = result.place(query)
    own = torch.bucketize(result.levels, result.edges)
    bins = len(result.edges) + 1
    ends = ["0", *(f"{edge:.2g}" for edge in result.edges.tolist()), "∞"]
    _map(ax, theme, centred(result.toward("bin"))[query].T.flip(0),
         [f"{ends[b]} to {ends[b + 1]}" for b in reversed(range(bins))], _words(result.levels),
         frames=[(bins - 1 - int(b), k) for k, b in enumerate(own.tolist())], bar=False)
    ax.set_xlabel("noise of the stage")
    ax.set_ylabel("training noise")
    shape = picture_shape(result.final.shape[1:])
    if shape is not None:
        low, high = limits(result.clean)
        width = 1 / len(result.levels)
        for k in range(len(result.levels) - 1, -1, -math.ceil(len(result.levels) / FRAMES)):
            film = ax.inset_axes(((k + 0.5) * width - 0.055, 1.02, 0.11, 0.24))
            _picture(film, theme, result.denoised[query, k], shape, low, high)
        top = result.top(IMAGES, query)
        for i, (name, word) in enumerate(zip(top["group"], top["label"], strict=True)):
            beside = ax.inset_axes((1.03, 0.77 - 0.26 * i, 0.12, 0.2))
            _picture(beside, theme, result.clean[int(name.split()[1])], shape, low, high)
            beside.set_title(plain(name.split()[1] if word is None else f"{name.split()[1]}: {word}", 12),
                             fontsize="xx-small", fontweight="normal", color=theme.muted, pad=2, loc="center",
                             parse_math=False)
    ax.set_title(in_lines(conclusion(result, query), "; ", 78), parse_math=False, pad=62 if shape else 10)


def conclusion(result: DiffusionExplanation, query: int) -> str:
    """What the drawing shows, in words."""
    what = "memorised" if result.memorised(query) else "composed"
    mass, even = result.near_own_noise(query)
    null = f"evenly: {even:.0%}"
    if result.shuffled is not None:
        null = "shuffled: {:.0%} ± {:.0%}".format(*result.near_shuffled(query))
    way = ", through the sampler," if isinstance(result, SamplerExplanation) else ""
    return (f"{_capital(result.names[query])}{way} is {what} (d1/d2 {float(result.ratios[query]):.2f}); {mass:.0%} of "
            f"its corrections act near their own noise ({null})")


@drawing(OptimalExplanation)
def draw_optimal(result: OptimalExplanation, ax: Axes, theme: Theme) -> None:
    """Draws how many training images the optimal denoiser mixes at each noise level, the median over samples."""
    found = result.concentration().n_eff
    levels = result.levels.tolist()
    ax.fill_between(levels, found.quantile(0.25, 0).tolist(), found.quantile(0.75, 0).tolist(), color=theme.up,
                    alpha=0.2, linewidth=0)
    ax.plot(levels, found.median(0).values.tolist(), color=theme.up)
    low, high = result.middle()
    ax.axvspan(low, high, color=theme.muted, alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.invert_xaxis()
    ax.set_xlabel("noise (shaded: half of all change of weights)")
    ax.set_ylabel("training images mixed")
    eff = found.median(0).values
    ax.set_title(f"The optimal denoiser goes from {float(eff[0]):.0f} images to {float(eff[-1]):.2g}; half of the "
                 f"change\nhappens between noise {high:.2g} and {low:.2g}", parse_math=False)


@drawing(NoiseKernel)
def draw_noise_kernel(result: NoiseKernel, ax: Axes, theme: Theme) -> None:
    """Draws the cosines of the kernels of each two noise levels."""
    words = _words(result.levels)
    _map(ax, theme, result.cosine, words, words, square=True, most=1.0)
    ax.set_xlabel("noise")
    ax.set_ylabel("noise")
    s, within, across = result.split()
    apart = "fall into two blocks" if within - across > 0.5 else "are not clearly in blocks"
    ax.set_title(with_minus(f"Noise levels {apart}: cosine {within:.2f} within,\n{across:.2f} across noise "
                            f"{float(result.levels[s]):.2g}; index {float(result.index @ result.weights):.2f}"
                            + _null(result)), parse_math=False)


def _null(result: NoiseKernel) -> str:
    null = result.index_untrained
    return "" if null is None else f" (untrained {float(null @ result.weights):.2f})"


@drawing(NoiseLocalisation)
def draw_localisation(result: NoiseLocalisation, ax: Axes, theme: Theme, *, normalised: bool = False) -> None:
    """Draws the centred share of each bin of training noise in what was learned at each level.

    With ``normalised`` each draw counts alike, whatever the length of its gradient. Frames mark a level's own bin.
    """
    shares = result.shares if not normalised or result.normalised is None else result.normalised.mean(0)
    own = torch.bucketize(result.levels, result.edges).tolist()
    _map(ax, theme, centred(shares), _words(result.levels), _words(result.centers), square=True,
         frames=list(enumerate(own)))
    ax.set_xlabel("training noise")
    ax.set_ylabel("noise at which it is asked")
    ax.set_title(with_minus(in_lines(_capital(result.said()), ": ", 60)), parse_math=False)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _words(levels: Tensor) -> list[str]:
    return [f"{level:.2g}" for level in levels.tolist()]


def _map(ax: Axes, theme: Theme, values: Tensor, rows: list[str], columns: list[str], *, square: bool = False,
         most: float | None = None, frames: list[tuple[int, int]] | None = None, bar: bool = True) -> None:
    """A cell for each value, named along both axes, with frames around some of them."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    most = most or float(values.abs().max()) or 1.0
    signed = bool((values < 0).any())
    colours = shades_of(theme, signed)
    cuts = [[slice(i, i + 1) for i in range(count)] for count in values.shape]
    paint(ax, values / most, cuts, colours, signed)
    for row, column in frames or []:
        ax.add_patch(Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, fill=False, edgecolor=theme.ink, linewidth=0.7))
    ax.set_xlim(0, values.shape[1])
    ax.set_ylim(values.shape[0], 0)
    if square:
        ax.set_aspect("equal", anchor="W")
    skip = -(-len(columns) // 9)
    if square:
        # As high as it is wide, it has room for fewer words.
        skip = max(skip, -(-len(columns) * (max(map(len, columns)) + 1) // ROOM))
    ax.xaxis.set_ticks([i + 0.5 for i in range(0, len(columns), skip)], columns[::skip], parse_math=False)
    ax.yaxis.set_ticks([i + 0.5 for i in range(len(rows))], rows, parse_math=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if bar:
        beside = ax.inset_axes((1.03, 0.0, 0.035, 1.0))
        norm = Normalize(-most if signed else 0.0, most)
        scale = ax.figure.colorbar(ScalarMappable(norm, colours), cax=beside,
                                   ticks=[-most, 0, most] if signed else [0, most])
        scale.ax.set_yticklabels([with_minus(f"{value:.2g}") for value in scale.get_ticks()])
        scale.outline.set_edgecolor(theme.rule)


def _picture(ax: Axes, theme: Theme, x: Tensor, shape: tuple[int, int, int], low: float, high: float) -> None:
    """One point as a small picture."""
    image = ((x.reshape(shape) - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).squeeze(-1)
    ax.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(theme.rule)
