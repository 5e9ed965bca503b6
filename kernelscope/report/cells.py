"""The parts that the views of all results share: their checks, and their tables as text."""

from __future__ import annotations

from typing import Any

from ..result import Result
from ..text import with_minus
from .facts import STATUS, verdict


def checks(result: Result) -> dict[str, Any]:
    """What a result finds when it checks its own claims."""
    rows = result.check().rows
    return {
        "checks": [{"name": row.name, "status": STATUS[row.status], "sentence": row.sentence} for row in rows],
        "verdict": verdict(rows),
    }


def cells(table: Any) -> dict[str, Any]:
    """A table as text."""
    kinds = ["number" if dtype.kind in "biufc" else "" for dtype in table.dtypes]
    return {
        # Numbers stand at the right of their columns, words at the left.
        "kinds": kinds,
        "columns": [str(column) for column in table.columns],
        "rows": [[with_minus(f"{cell:.4g}") if isinstance(cell, float) else str(cell) for cell in row]
                 for row in table.itertuples(index=False)],
    }
