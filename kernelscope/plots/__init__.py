r"""One drawing for each result.

A drawing is a function (result, axes, theme, options) that is registered for the result's class; :func:`draw` finds it.
Nothing here shows a window, keeps a figure open, or changes matplotlib's settings beyond its own drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..arguments import what_came
from ..errors import DataError
from ..result import Result
from . import style
from .pictures import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "drawing", "drawing_of", "svg", "title"]

Drawing = Callable[..., None]

_drawings: dict[type[Result], Drawing] = {}
_ROOMS = ("agreement", "bridge", "bundles", "comparisons", "conversions", "coverage", "curves", "denoisers",
          "diffusion", "ensemble", "evaluations", "evolution", "expected", "games", "gans", "influence", "ledger",
          "machines", "memory", "null_spaces", "orders", "path_kernels", "posteriors", "reasons", "ridges",
          "run_comparisons", "scaling", "scores", "spectra", "tokens", "trade_offs", "trials")


def drawing(kind: type[Result]) -> Callable[[Drawing], Drawing]:
    """Registers a function as the drawing of a class of results."""

    def register(function: Drawing) -> Drawing:
        _drawings[kind] = function
        return function

    return register


def drawing_of(result: Result) -> Drawing | None:
    """The drawing of a result's class, or of the nearest class above it; ``None`` if it has none."""
    for room in _ROOMS:
        import_module(f"{__name__}.{room}")
    return next((_drawings[kind] for kind in type(result).__mro__ if kind in _drawings), None)


def draw(result: Result, ax: Axes | None = None, *, theme: str | None = None, **options: Any) -> Axes:
    """Draws a result on ``ax``, or on a new figure, and returns the axes; its title says what the drawing shows.

    Args:
        result: What to draw.
        ax: Where to draw. Without it a figure is made that pyplot does not know: ``ax.figure`` of what is returned. A
            notebook shows it where the axes are the last line of a cell.
        theme: ``"light"`` or ``"dark"``; by default what can be read on ``ax``.
        options: What the drawing of this result accepts, such as ``query``.

    Raises:
        DataError: If no drawing is known for this result, or one of the options is not known.
    """
    from matplotlib.axes import Axes

    function = drawing_of(result)
    if function is None:
        raise DataError(
            f"No drawing is known for {type(result).__name__}. Use .to_frame() and draw the table, "
            "or register one with kernelscope.plots.drawing."
        )
    if theme is not None and not (isinstance(theme, str) and theme in style.THEMES):
        raise DataError(f"A drawing's theme is one of {', '.join(style.THEMES)}; got {what_came(theme)}.")
    if ax is not None and not isinstance(ax, Axes):
        raise DataError(
            f"A result is drawn on matplotlib axes, and {what_came(ax)} came. Pass ax=plt.figure().add_subplot(), one "
            "of what plt.subplots() gives, or no ax: a figure is made then."
        )
    known = [name for name, p in signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY]
    odd = next((name for name in options if name not in known), None)
    if odd is not None:
        raise DataError(f"The drawing of {type(result).__name__} has no option {odd!r}. It takes {', '.join(known)}.")
    if theme is not None:
        chosen = style.THEMES[theme]
    else:
        chosen = style.LIGHT if ax is None else style.theme_of(ax)
    with style.context(chosen):
        if ax is None:
            ax = style.figure().add_subplot(axes_class=picture())
        function(result, ax, chosen, **options)
    return ax


def svg(result: Result, *, theme: str = "page", **options: Any) -> str:
    """The drawing of a result as SVG text, the same bytes for the same result.

    With the theme ``page`` its colours are the variables of the page it is put into.
    """
    ax = draw(result, theme=theme, **options)
    text = style.save_svg(ax, style.THEMES[theme])
    return style.themed(text) if theme == "page" else text


def title(result: Result, **options: Any) -> str:
    """What the drawing of a result shows, in words: the title it carries."""
    return " ".join(draw(result, **options).get_title(loc="left").split())
