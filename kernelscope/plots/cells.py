"""Matrices as cells of a few shades, which a page can give its own colours."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap

    from .style import Theme

#: How many cells there are at most along an axis; of more points some neighbours share one.
MOST = 24

#: The shades between nought and the largest value.
SHADES = 12


def paint(ax: Axes, cells: Tensor, cuts: list[list[slice]], colours: ListedColormap, signed: bool,
          at: tuple[float, float] = (0.0, 0.0)) -> None:
    """Fills the cells, all of one shade by one path: a page gives paths its own colours, in light and in dark.

    Args:
        ax: Where to.
        cells: Values between -1 and 1.
        cuts: The rows and the columns of each cell.
        colours: One for each shade.
        signed: Whether there are values below 0.
        at: How far to the right and how far down all of it stands.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shades = (cells * SHADES).round().long() + (SHADES if signed else 0)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    for shade in shades.unique().tolist():
        corners: list[tuple[float, float]] = []
        for row, run, start in runs_of(shades, shade):
            top, bottom = at[1] + cuts[0][row].start, at[1] + cuts[0][row].stop
            left, end = at[0] + cuts[1][start].start, at[0] + cuts[1][start + run - 1].stop
            corners += [(left, top), (end, top), (end, bottom), (left, bottom), (left, top)]
        path = Path(corners, codes * (len(corners) // len(codes)))
        ax.add_patch(PathPatch(path, facecolor=colours(shade), edgecolor="none", antialiased=False))


def runs_of(shades: Tensor, shade: int) -> list[tuple[int, int, int]]:
    """The row, the length and the start of each stretch of cells of one shade."""
    found = []
    for row, line in enumerate(shades.tolist()):
        start = 0
        for value, some in itertools.groupby(line):
            length = len(list(some))
            if value == shade:
                found.append((row, length, start))
            start += length
    return found


def cuts_of(count: int, most: int = MOST) -> list[slice]:
    """Rows in as many neighbouring groups as there are cells."""
    cells = min(count, most)
    return [slice(i * count // cells, (i + 1) * count // cells) for i in range(cells)]


def means(values: Tensor, rows: list[slice], columns: list[slice]) -> Tensor:
    """The mean of the values of each cell."""
    return torch.stack([torch.stack([values[row, column].mean() for column in columns]) for row in rows])


def shades_of(theme: Theme, signed: bool) -> ListedColormap:
    """A colour for each shade, of which nought is none."""
    from matplotlib.colors import ListedColormap, to_rgb

    # What is faint lets the ground through, so that nought is the colour of the page.
    shade = lambda colour, i: (*to_rgb(colour), i / SHADES)
    below = [shade(theme.down, i) for i in range(SHADES, 0, -1)] if signed else []
    return ListedColormap([*below, *(shade(theme.up, i) for i in range(SHADES + 1))])
