"""The kernel movie as a file: one picture after the other."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..storage import write_atomically
from ..text import with_minus
from .evolution import normalised
from .style import LIGHT, context, figure

if TYPE_CHECKING:
    from ..diagnostics.evolution.result import KernelEvolution


def write_movie(result: KernelEvolution, path: Path, seconds: float) -> Path:
    """Writes the pictures that a result keeps as a GIF."""
    # Pillow comes with matplotlib, which writes pictures by it.
    from PIL import Image

    assert result.movie is not None
    pictures = []
    with context(LIGHT):
        for frame, step in zip(normalised(result.movie), result.movie_times, strict=True):
            drawn = figure(3.6, 3.8)
            ax = drawn.add_subplot()
            ax.imshow(frame.numpy(), vmin=-1, vmax=1, cmap="RdBu", interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(with_minus(f"step {step:,}"), parse_math=False)
            file = io.BytesIO()
            drawn.savefig(file, format="png")
            pictures.append(Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE))
    file = io.BytesIO()
    pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], loop=0,
                     duration=round(1000 * seconds))
    write_atomically(path, file.getvalue())
    return path
