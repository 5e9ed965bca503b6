"""Checks and provenance in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..decomposition.result import Decomposition
from ..result import CheckRow

STATUS = {"pass": "✓ pass", "warn": "! note", "fail": "✗ fail"}

#: Facts that differ each time the same run is decomposed. A page of the same run must not differ: it leaves them out.
VOLATILE = frozenset({"seconds", "bytes", "peak_bytes", "date", "time", "host", "path"})


def verdict(rows: Iterable[CheckRow]) -> str:
    """The checks in a few words."""
    counts = {status: sum(row.status == status for row in rows) for status in STATUS}
    words = [f"{counts['pass']} passed"]
    words += [f"{counts['warn']} to note"] if counts["warn"] else []
    words += [f"{counts['fail']} failed"] if counts["fail"] else []
    return ", ".join(words)


def facts(ledger: Decomposition) -> list[tuple[str, str]]:
    """Provenance and cost of a ledger, in an order that does not depend on chance."""
    q, c, n = ledger.contributions.shape
    steps = ledger.steps.shape[-1]
    # A ledger that was saved and loaded has its facts in another order.
    rows = [(name.replace("_", " "), text) for name, value in sorted(ledger.info.items()) if name not in VOLATILE
            if (text := words(value))]
    work = f"{q * c:,} explained outputs, {steps:,} steps, {n:,} training samples: {q * c * n:,} shares"
    return [*rows, ("size of the work", work)]


def words(value: Any) -> str:
    """A fact as text; empty when there is nothing to say."""
    if isinstance(value, dict):
        known = {key: words(item) for key, item in sorted(value.items()) if key not in VOLATILE}
        return ", ".join(f"{key} {text}" for key, text in known.items() if text)
    if isinstance(value, list | tuple):
        return "; ".join(words(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
