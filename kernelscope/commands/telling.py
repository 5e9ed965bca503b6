"""Runs, explanations and checks in few lines of text, and as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..decomposition.explanation import Explanation
    from ..result import Check
    from ..run.run import Run

CHANNELS = {
    "initial": "before training", "decay": "weight decay", "momentum": "momentum at the start",
    "buffers": "normalisation statistics", "rounding": "rounding in training", "unattributed": "unattributed",
    "residual": "round-off", "final": "after training",
}  # fmt: skip


def size(count: float) -> str:
    """A number of bytes in words.

    Example:
        >>> size(2_773_712), size(812)
        ('2.8 MB', '812 bytes')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} bytes"


def near(path: str | Path) -> str:
    """A path as a reader in the current folder would write it."""
    whole = Path(path).absolute()
    return str(whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else path)


def run_line(run: Run) -> str:
    """A run in one line."""
    from ..decomposition.wording import counted

    about = run.info()
    where = near(about["path"]) if about["path"] else "In memory"
    return (
        f"{where}: {counted(about['steps'], 'step')} of {', '.join(about['rules']) or 'no optimizer'}, "
        f"{counted(about['samples'], 'sample')}, {counted(about['parameters'], 'parameter')}, {size(about['bytes'])}."
    )


def balance(why: Explanation, query: int = 0) -> list[str]:
    """A balance sheet that a reader can add up, one line of text for each entry; lines of zero are left out.

    The digits of all lines but the last add up to those of the last one, to its last digit.
    """
    from ..decomposition.wording import shortened
    from ..report.balance import sheet

    labelled = "samples labelled {}" if len(why.group_names()) > 1 else "{}"
    entries = [
        (labelled.format(shortened(name)) if kind == "group" else CHANNELS.get(name, name), kind, value)
        for name, kind, value in why.balance(query) if value != 0 or kind != "channel"
    ]
    lines = sheet(entries, float(why.decomposition.magnitude[query, 0])).lines
    digits = [f"{line.head}{line.rest}" for line in lines]
    width = max(map(len, digits))
    rows = [f"  {text:>{width}}  {line.name}" for text, line in zip(digits, lines, strict=True)]
    return [*rows[:-1], f"  {'─' * width}", rows[-1]]


def samples(why: Explanation, query: int = 0) -> list[str]:
    """The samples that pushed the most, in a line for each side."""
    from ..decomposition.wording import shortened, sides, signed

    ledger, both = why.decomposition, sides(why)
    width, lines = max(len(side.title) for side in both), []
    for side, sign in zip(both, (1, -1), strict=True):
        named = []
        for i in why.singled(query, sign):
            label = "" if ledger.labels is None else f" ({shortened(ledger.labels[i])})"
            named.append(f"{int(ledger.sample_ids[i])}{label} {signed(float(why.shares[query, i]))}")
        lines += [f"  {side.mark} {side.title:{width}}  {', '.join(named)}"] if named else []
    return lines


def explanation(why: Explanation, query: int = 0) -> dict[str, Any]:
    """One explanation as plain data."""
    answer, chances = why.answer(query), why.probabilities(query)
    ledger = why.decomposition
    side = lambda sign: [
        {"sample": int(ledger.sample_ids[i]), "label": None if ledger.labels is None else ledger.labels[i],
         "contribution": float(why.shares[query, i])}
        for i in why.ranked(query, why.k, sign)
    ]
    half, settled = why.learned(query)
    return {
        "sentence": why.sentence(query),
        "output": float(ledger.final[query, 0]),
        "unit": why.unit,
        "prediction": None if answer is None else why.class_name(answer[0]),
        "runner_up": None if answer is None else why.class_name(answer[1]),
        "probability": None if answer is None or chances is None else float(chances[answer[0], -1]),
        "target": None if why.targets is None else why.targets[query],
        "for": side(1),
        "against": side(-1),
        "balance": [{"name": name, "kind": kind, "value": value} for name, kind, value in why.balance(query)],
        "half_learned_by_step": half,
        "settled_by_step": settled,
    }


def check(found: Check) -> list[dict[str, Any]]:
    """The rows of a check as plain data."""
    return [{"name": row.name, "status": row.status, "value": row.value, "limit": row.limit, "sentence": row.sentence}
            for row in found.rows]


def check_lines(found: Check) -> list[str]:
    """The rows of a check in words."""
    return [f"{row.status:4}  {row.name:12}  {row.sentence}" for row in found.rows]
