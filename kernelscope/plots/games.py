"""The drawing of a game's spectrum: eigenvalues in the complex plane, and the motion along a chord of its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments import as_choice
from ..generative.games.spectra import TURNS, GameSpectrum
from ..text import with_minus
from . import drawing
from .style import in_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Theme

#: How wide a title may be.
WIDTH = 76


@drawing(GameSpectrum)
def draw_game(result: GameSpectrum, ax: Axes, theme: Theme, *, show: str = "spectrum") -> None:
    """Draws eigenvalues in the complex plane; or the cosine of the motion and the chord along it.

    Args:
        result: The result.
        ax: Where to.
        theme: The colours.
        show: ``"spectrum"`` or ``"chord"``.
    """
    as_choice(show, "show", ("spectrum", "chord"))
    {"spectrum": _spectrum, "chord": _chord}[show](result, ax, theme)


def _spectrum(result: GameSpectrum, ax: Axes, theme: Theme) -> None:
    real, imaginary = result.eigenvalues.unbind(1)
    turns = imaginary.abs() > TURNS * float(result.eigenvalues.norm(dim=1).max())
    ax.axhline(0, color=theme.rule, linewidth=0.8)
    ax.axvline(0, color=theme.muted, linewidth=0.8)
    for mask, colour, marker in ((turns, theme.down, "o"), (~turns, theme.up, "D")):
        ax.plot(real[mask].tolist(), imaginary[mask].tolist(), marker, color=colour, markersize=4, alpha=0.75,
                markeredgewidth=0)
    ax.margins(0.08)
    ax.set_xlabel("real part: left of the line it decays")
    ax.set_ylabel("imaginary part: it turns")
    which = "the eigenvalues" if result.info["dense"] else f"the {len(real)} largest eigenvalues"
    said = f"{_share(result.turning)} of {which} turn, {_share(result.null)} before training; "
    said += "all decay" if result.growth < 0 else f"{int((real > 0).sum())} grow, the fastest by {result.growth:.3g}"
    ax.set_title(in_lines(with_minus(said), "; ", WIDTH), parse_math=False)


def _chord(result: GameSpectrum, ax: Axes, theme: Theme) -> None:
    ax.axhline(0, color=theme.muted, linewidth=0.8)
    ax.axvline(1, color=theme.rule, linewidth=0.8)
    ax.plot(result.chord.tolist(), result.angles.tolist(), color=theme.down, linewidth=1.5)
    ax.set_xlim(float(result.chord[0]), float(result.chord[-1]))
    ax.set_xlabel(f"place on the chord: 0 is step {result.info['since']:,}, 1 is step {result.info['step']:,}")
    ax.set_ylabel("cosine of motion and chord")
    most = float(result.angles.abs().max())
    said = ("The motion points to the end of the chord from both sides" if result.passes
            else "The motion does not point to the end of the chord from both sides")
    said += f"; at most {most:.2f} of it is along the chord"
    ax.set_title(in_lines(with_minus(said), "; ", WIDTH), parse_math=False)


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
