"""What was tried, as a table for a reader and as data for a program."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .battery import BROKEN, SILENT, SURVIVED, TYPED, Battery

if TYPE_CHECKING:
    from .exactness import Exact

COLUMNS = ("id", "tried", "survived", "typed_error", "broken", "silent", "lost", "not_tried", "seconds")
MOST = 12
MORE = "Kills, full disks, damaged and hostile files, bad numbers: kernelscope selftest --faults (some minutes)."
#: So many trials are told one by one.
FEW = 3
WORDS = {SURVIVED: "survived", TYPED: "survived with a typed error"}


def battery(found: Battery) -> tuple[str, dict[str, Any]]:
    """The table, what went wrong, and why trials were not made."""
    rows = [row.numbers() for row in found.rows]
    total = {"id": "all", **found.total(), "seconds": round(found.seconds, 2)}
    lines = _table([{name: row[name] for name in COLUMNS} for row in (*rows, total)], [row["sentence"] for row in rows])
    for ending in found.endings(SILENT, BROKEN)[:MOST]:
        lines += ["", f"{ending.outcome}: {ending.row} --seed {ending.seed} ({ending.what}): {ending.message}"]
    every = [ending for row in found.rows for ending in row.endings]
    if len(every) <= FEW:
        lines += [line for ending in every if ending.outcome in (SURVIVED, TYPED) for line in
                  ("", f"{WORDS[ending.outcome]}: {ending.row} --seed {ending.seed} ({ending.what})"
                       f"{f': {ending.message}' if ending.message else ''}")]
    for reason, count in found.reasons().items():
        lines += ["", f"not tried: {count} of {reason}"]
    late = sum(row.size - len(row.endings) for row in found.rows)
    if late and len(every) > FEW:
        lines += ["", f"not tried: {late:,} for which there was no time, or nobody asked"]
    wrong = found.endings(SILENT, BROKEN)
    if wrong:
        lines += ["", f"Repeat one: kernelscope selftest --faults --only {wrong[0].row} --seed {wrong[0].seed}"]
    lines += ["", *filter(None, [found.stopped]), found.summary()]
    data = {"ok": found.ok, "stopped": found.stopped, "rows": rows, "total": total, "not_tried": found.reasons(),
            "wrong": [asdict(ending) for ending in wrong]}
    return "\n".join(lines), data


def exactness(found: Exact) -> tuple[str, dict[str, Any]]:
    """A line for each of the things that must be exact."""
    width = max(len(row.name) for row in found.rows)
    lines = [f"{'pass' if row.ok else 'fail'}  {row.name:{width}}  {row.sentence}" for row in found.rows]
    data = {"ok": found.ok, "seconds": found.seconds, "rows": [asdict(row) | {"ok": row.ok} for row in found.rows]}
    return "\n".join([*lines, "", found.summary(), MORE]), data


def _table(rows: list[dict[str, Any]], sentences: list[str]) -> list[str]:
    text = [[name.replace("_", " ") for name in COLUMNS],
            *([f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
               for value in row.values()] for row in rows)]
    widths = [max(len(row[place]) for row in text) for place in range(len(COLUMNS))]
    lines = ["  ".join(f"{cell:<{width}}" if place == 0 else f"{cell:>{width}}"
                       for place, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in text]
    return [f"{line}  {sentence}".rstrip() for line, sentence in zip(lines, ["", *sentences, ""], strict=True)]
