"""The drawing of a kernel of a run: a cell for each pair of points, points of one class beside each other."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..decomposition.stochastic.kernel import NAMES, PathKernel
from ..errors import DataError
from ..text import with_minus
from . import drawing
from .cells import MOST, cuts_of, means, paint, shades_of
from .style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: The names of classes along an axis, at most.
WORDS = 12


@drawing(PathKernel)
def draw_path_kernel(result: PathKernel, ax: Axes, theme: Theme, *, output: int | None = None,
                     by_label: bool = True) -> None:
    """Draws the values as a map, of one output or summed over outputs, with points ordered by label if they have some.

    Of more than 24 points along an axis neighbours share a cell, which has the colour of their mean.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    values = result.traced() if output is None else _of_one(result, output)
    if not values.numel():
        raise DataError("This kernel has no entries, so there is nothing to draw. Compute it for at least one point.")
    orders = [_order(words if by_label else None, count) for words, count in
              zip((result.labels, result.column_labels), values.shape, strict=True)]
    cuts = [cuts_of(count) for count in values.shape]
    cells = means(values[orders[0]][:, orders[1]], *cuts)
    most = float(cells.abs().max()) or 1.0
    signed = bool((cells < 0).any())
    norm, colours = Normalize(-most if signed else 0.0, most), shades_of(theme, signed)
    paint(ax, cells / most, cuts, colours, signed)
    ax.set_xlim(0, values.shape[1])
    ax.set_ylim(values.shape[0], 0)
    if values.shape[0] == values.shape[1]:
        ax.set_aspect("equal", anchor="W")
    beside = ax.inset_axes((1.03, 0.0, 0.035, 1.0))
    bar = ax.figure.colorbar(ScalarMappable(norm, colours), cax=beside, ticks=[-most, 0, most] if signed else [0, most])
    bar.ax.set_yticklabels([with_minus(f"{value:.3g}") for value in bar.get_ticks()])
    bar.outline.set_edgecolor(theme.rule)
    columns = "training sample" if result.kind == "second" else "point"
    for axis, words, order, what in ((ax.yaxis, result.labels, orders[0], "point"),
                                     (ax.xaxis, result.column_labels, orders[1], columns)):
        named = words is not None and by_label
        places, names = _ticks([words[i] for i in order.tolist()] if words is not None and named else None, len(order))
        axis.set_ticks(places, names, parse_math=False)
        shared = f", {-(-len(order) // MOST)} to a cell" if len(order) > MOST else ""
        axis.set_label_text(f"{what}s by class{shared}" if named else f"{what}{shared}")
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(plain(conclusion(result, values if output is not None else None), 90), parse_math=False)


def conclusion(result: PathKernel, values: Tensor | None = None) -> str:
    """What the drawing shows, in words; ``values`` are those of one output."""
    values = result.traced() if values is None else values
    name = NAMES[result.kind]
    if result.kind == "second":
        return f"Second order makes up {result.info['correction']:.2%} of the second-order kernel’s norm"
    if result.kind == "step" and result.square:
        size = float(values.norm())
        apart = float((values - values.T).norm()) / size if size else 0.0
        return f"The kernel of step {result.info['step']} differs from its transpose by {apart:.1%} of its norm"
    alike = _likeness(result, values)
    if alike is not None:
        same, other = alike
        return with_minus(f"{name[0].upper()}{name[1:]}: mean cosine {same:.2f} within a class, {other:.2f} between")
    if result.square and result.definite:
        found = torch.linalg.eigvalsh((values + values.T) / 2)
        share = float(found[-1] / found.sum()) if float(found.sum()) else 0.0
        return f"One direction holds {share:.0%} of the {name} of {len(values):,} points"
    return f"The {name} is positive for {float((values > 0).double().mean()):.0%} of the pairs"


def _likeness(result: PathKernel, values: Tensor) -> tuple[float, float] | None:
    """The mean cosine of points of one class, and of two, where there are both."""
    if not (result.square and result.definite) or result.labels is None:
        return None
    size = values.diagonal().clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    cosine = values / size / size[:, None]
    words = sorted(set(result.labels))
    classes = torch.tensor([words.index(label) for label in result.labels])
    same = classes == classes[:, None]
    pairs = same & ~torch.eye(len(same), dtype=torch.bool)
    if not bool(pairs.any()) or bool(same.all()):
        return None
    return float(cosine[pairs].mean()), float(cosine[~same].mean())


def _of_one(result: PathKernel, output: int) -> Tensor:
    if result.outputs == "trace":
        raise DataError("Outputs were summed over, so none can be drawn by itself. Compute the kernel with "
                        'outputs="full".')
    c = len(result.output_names)
    if not isinstance(output, int) or not 0 <= output < c:
        raise DataError(f"The kernel has {c} outputs, so output {output!r} does not exist. Count from 0.")
    return result.matrix[:, output] if result.outputs == "each" else result.matrix[:, output, :, output]


def _order(words: list[str] | None, count: int) -> Tensor:
    return torch.tensor(sorted(range(count), key=lambda i: "" if words is None else words[i]), dtype=torch.long)


def _ticks(words: list[str] | None, count: int) -> tuple[list[float], list[str]]:
    """Where names stand along an axis of points in this order, and the names."""
    if words is not None:
        places, names, start = [], [], 0
        for word, some in itertools.groupby(words):
            length = len(list(some))
            places.append(start + length / 2)
            names.append(plain(word, 12))
            start += length
        step = -(-len(names) // WORDS)
        return places[::step], names[::step]
    step = max(1, -(-count // 8))
    return [i + 0.5 for i in range(0, count, step)], [str(i) for i in range(0, count, step)]
