"""The views of what was learned: the kernel's course, what was out of reach, and which queries are inside."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .. import plots
from ..diagnostics.coverage.result import Coverage
from ..diagnostics.evolution.result import KernelEvolution
from ..diagnostics.null_space.result import NullSpace
from ..diagnostics.separation import Separation
from ..plots.evolution import shows as evolution_shows
from .album import Album
from .cells import cells, checks

#: How many rows of a table stand on a page.
MOST_ROWS = 20

#: How many modes of a null space are named.
MOST_MODES = 8

#: So many splits have a column each.
MOST_SPLITS = 12


def evolution(result: KernelEvolution, album: Album, name: str) -> dict[str, Any]:
    """The view of a kernel along a run: what it did, whether it did so silently, and a drawing of each side of it."""
    table = result.to_frame()
    said = result.said()
    return checks(result) | {
        "sentence": " ".join([f"{said[0].upper()}{said[1:]}.", result.silent_words(), *result.info.get("notes", [])]),
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show))
                     for show in evolution_shows(result)],
        **cells(table.iloc[:: max(1, -(-len(table) // MOST_ROWS))]),
        "left_out": f"Showing every {-(-len(table) // MOST_ROWS)}th of {len(table):,} times." if len(table) > MOST_ROWS
        else "",
    }


def null_space(result: NullSpace, album: Album, name: str) -> dict[str, Any]:
    """The view of what could not be learned: the bound, the expectation, and the modes of which most is left."""
    said = result.said()
    # Where nothing lay beyond the reach, what is expected is a part of what is said.
    expected = result.expected() if result.bound else ""
    drawn = [(Markup(plots.svg(result)), plots.title(result))]
    if result.reservoir is not None:
        drawn.append((Markup(plots.svg(result.reservoir)), plots.title(result.reservoir)))
    return checks(result) | {
        "sentence": " ".join([f"{text[0].upper()}{text[1:]}." for text in (said, expected) if text]
                             + result.info.get("notes", [])),
        "drawings": drawn,
        **cells(result.top(MOST_MODES)),
        "left_out": f"Showing the {MOST_MODES} modes of {len(result.values):,} of which most is left."
                    if len(result.values) > MOST_MODES else "",
    }


def covered(result: Coverage, album: Album, name: str) -> dict[str, Any]:
    """The view of coverage: queries beside training samples, the spectral profile, and the least covered queries."""
    table = result.to_frame().sort_values("coverage", kind="stable")
    said = result.said()
    least = "" if not len(result) else f" {result.sentence(int(result.coverage.argmin()))}"
    return checks(result) | {
        "sentence": " ".join([f"{said[0].upper()}{said[1:]}.{least}", *result.info.get("notes", [])]),
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show))
                     for show in ("queries", "profile")] if len(result) else [],
        **cells(table.head(MOST_ROWS)),
        "left_out": "" if len(table) <= MOST_ROWS else
        f"Showing the {MOST_ROWS} least covered of {len(table):,} queries.",
    }


def separated(result: Separation, album: Album, name: str) -> dict[str, Any]:
    """The view of scores compared: a drawing of each measure, and the table, by split where there are a few."""
    measures = [show for show in ("auroc", "fpr95", "right") if bool(getattr(result, show).isfinite().any())]
    by_split = result.by_split()
    few = 1 < len(by_split) <= MOST_SPLITS
    table = by_split.T.reset_index(names="AUROC") if few else result.to_frame()
    said = result.said()
    right = result.said_of_right()
    return checks(result) | {
        "sentence": f"{result.extent()}: {said}.{f' {right[0].upper()}{right[1:]}.' if right else ''}",
        "drawings": [(Markup(plots.svg(result, show=show)), plots.title(result, show=show)) for show in measures],
        **cells(table), "left_out": "",
    }
