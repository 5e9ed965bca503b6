"""The views of influence, alone and beside contribution; each in a table under its own name."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from .. import plots
from ..decomposition.influence.beside import DIFFERENCE, ContributionAndInfluence
from ..decomposition.influence.result import MEANING, Influence
from ..decomposition.wording import counted, shortened, signed
from .album import Album
from .cells import cells, checks
from .reasons import MOST_QUERIES

#: How many samples a table has.
ROWS = 10


def influence(result: Influence, album: Album, name: str) -> dict[str, Any]:
    """The view of influences: what they are, and one drawing and table for each output of a query."""
    q, c, n = result.influences.shape
    pairs = [(query, output) for query in range(q) for output in range(c)]
    cases = []
    for query, output in pairs[:MOST_QUERIES]:
        row = result.influences[query, output]
        cases.append({
            "headline": f"Query {query}, {shortened(result.output_names[output])}",
            "note": f"{float(result.values[query, output]):.4g} as it was trained; {int((row > 0).sum())} samples "
                    f"raise it, {int((row < 0).sum())} lower it",
            "drawing": Markup(plots.svg(result, query=query, output=output)),
            "caption": plots.title(result, query=query, output=output),
            **cells(result.top(ROWS, query, output)),
        })
    left = len(pairs) - len(cases)
    return checks(result) | {
        "sentence": f"{counted(q, 'input')}, {counted(n, 'training sample')}. {MEANING[result.method]}",
        "cases": cases,
        "left_out": f"Showing {len(cases)} of {len(pairs):,} outputs; {left:,} are not shown." if left else "",
    }


def both(result: ContributionAndInfluence, album: Album, name: str) -> dict[str, Any]:
    """The view of both, for each query a drawing and two tables."""
    q = len(result.influence)
    ranks = result.agreement
    cases = []
    for query in range(min(q, MOST_QUERIES)):
        of = f"Query {query}" if result.names is None else result.names[query]
        cases.append({
            "headline": of, "note": f"rank correlation {signed(float(ranks[query]))}",
            "drawing": Markup(plots.svg(result, query=query)), "caption": plots.title(result, query=query),
            "tables": [("Contribution: what training on it added, exactly", cells(
                            result.decomposition.top(ROWS, query).rename(columns={"share": "contribution"}))),
                       ("Influence: what its weight would do, to first order", cells(
                            result.influence.top(ROWS, query)))],
        })
    mean = float(ranks.mean()) if q else 0.0
    return checks(result) | {
        "sentence": f"{DIFFERENCE} Their ranks of the training samples correlate by {signed(mean)} on average here.",
        "method": MEANING[result.influence.method],
        "cases": cases,
        "left_out": f"Showing {MOST_QUERIES} of {q:,} inputs." if q > MOST_QUERIES else "",
    }
