"""Axes that a notebook shows as the picture they are on.

A notebook shows a figure by itself only if pyplot knows it, and what is drawn here pyplot does not know.
"""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Dots per inch in a notebook.
DPI = 110


@cache
def picture() -> type[Axes]:
    """The class of such axes.

    Example:
        >>> from matplotlib.figure import Figure
        >>> Figure().add_subplot(axes_class=picture())._repr_png_()[1:4]
        b'PNG'
    """
    from matplotlib.axes import Axes

    class Picture(Axes):
        """Axes that a notebook shows as the picture they are on."""

        def _repr_png_(self) -> bytes | None:
            drawn = self.get_figure(root=True)
            if drawn is None:
                return None
            held = io.BytesIO()
            drawn.savefig(held, format="png", dpi=DPI, facecolor=drawn.get_facecolor())
            return held.getvalue()

    Picture.__name__ = Picture.__qualname__ = "Axes"
    return Picture
