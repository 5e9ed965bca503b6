"""The sections of games and of the bridge on a page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .. import plots
from ..generative.comparing.bridging import Bridge
from ..generative.games.geometry import CriticGeometry
from ..generative.games.spectra import GameSpectrum
from ..result import Result
from .album import Album
from .cells import cells, checks
from .learned import MOST_ROWS

#: What is drawn of each.
SHOWN = {Bridge: ("generated", "noisy"), CriticGeometry: ("spectrum", "slopes", "ranks"),
         GameSpectrum: ("spectrum", "chord")}


def game(result: Result, album: Album, name: str) -> dict[str, Any]:
    """The view of a game or of a bridge: its drawings, and its numbers to open."""
    table = result.to_frame()
    # The sentence stands in the brackets of its class.
    said = result.summary().partition("(")[2].removesuffix(")")
    return checks(result) | {
        "sentence": f"{said[0].upper()}{said[1:]}.",
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show))
                     for show in SHOWN[type(result)]],
        **cells(table.head(MOST_ROWS)),
        "left_out": f"Showing {MOST_ROWS} of {len(table):,} rows." if len(table) > MOST_ROWS else "",
    }
