"""The rules of a fair comparison, each held, not held, or not known."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..measures import LEAST_SEEDS
from .sides import DIFFUSION, Side

__all__ = ["HELD", "NOT_HELD", "UNKNOWN", "Rule", "rules"]

HELD, NOT_HELD, UNKNOWN = "held", "not held", "unknown"

#: How far apart parameters and presentations may be, and coverage.
NEAR, MATCHED = 0.05, 0.05


@dataclass(frozen=True)
class Rule:
    """One rule: what it asks for, whether it holds, and what was found."""

    rule: str
    held: str
    found: str


def rules(a: list[Side], b: list[Side], names: tuple[str, str], coverage: tuple[float, float], held_out: bool,
          ) -> list[dict[str, str]]:
    """The rules, in plain data.

    Args:
        a: The runs of one side.
        b: Those of the other.
        names: What they are called.
        coverage: The mean coverage of each.
        held_out: Whether points were held out.
    """
    found = [
        Rule("same training points, same scale", HELD, "both runs hold the same points; others are refused"),
        Rule("points held out", HELD if held_out else NOT_HELD,
             "coverage is that of points no model was trained on" if held_out
             else "none were given, so coverage is that of the training points"),
        _near("parameters within 5 %", [_parameters(side[0]) for side in (a, b)],
              [_parameters_in_words(side[0]) for side in (a, b)], names),
        _near("as many training points shown", [side[0].presented() for side in (a, b)],
              [f"{side[0].presented():,}" for side in (a, b)], names),
        _seconds(a, b, names),
        Rule(f"{LEAST_SEEDS} seeds or more", HELD if min(len(a), len(b)) >= LEAST_SEEDS else NOT_HELD,
             f"{names[0]} has {len(a)}, {names[1]} {len(b)}" + (
                 "" if min(len(a), len(b)) >= LEAST_SEEDS else "; one run, no interval" if max(len(a), len(b)) == 1
                 else f"; no interval below {LEAST_SEEDS}")),
        Rule("same questions, same draws", HELD, "both are read at the same points, with the same seeds"),
        Rule("coverage within 0.05", HELD if abs(coverage[0] - coverage[1]) <= MATCHED else NOT_HELD,
             f"{names[0]} has {coverage[0]:.3f}, {names[1]} {coverage[1]:.3f}"),
        _plain(a, b, names),
    ]
    return [asdict(rule) for rule in found]


def _parameters(side: Side) -> int:
    return sum(run.parameter_count for run in side.runs)


def _parameters_in_words(side: Side) -> str:
    counts = [run.parameter_count for run in side.runs]
    if side.kind == DIFFUSION:
        return f"{counts[0]:,}"
    return f"{sum(counts):,} ({counts[0]:,} in the generator, {counts[1]:,} in the critic)"


def _near(rule: str, counts: list[int], told: list[str], names: tuple[str, str]) -> Rule:
    apart = abs(counts[0] - counts[1]) / max(*counts, 1)
    return Rule(rule, HELD if apart <= NEAR else NOT_HELD, f"{names[0]} has {told[0]}, {names[1]} {told[1]}")


def _seconds(a: list[Side], b: list[Side], names: tuple[str, str]) -> Rule:
    seconds = [seconds_of(side[0]) for side in (a, b)]
    told = ["not recorded" if value is None else f"{value:.1f} s" for value in seconds]
    held = UNKNOWN if None in seconds else HELD
    return Rule("processor seconds told", held, f"{names[0]}: {told[0]}; {names[1]}: {told[1]}")


def seconds_of(side: Side) -> float | None:
    """The processor seconds of recorded training, where a run says so; those of a game are the same in both runs."""
    cost = side.runs[0].meta.get("cost")
    return None if cost is None else cost["cpu_seconds"]


def _plain(a: list[Side], b: list[Side], names: tuple[str, str]) -> Rule:
    used = [sorted({name for run in side[0].runs for name in run.info()["rules"]}) for side in (a, b)]
    held = HELD if all(name == "SGD" for rules_ in used for name in rules_) else NOT_HELD
    return Rule("plain SGD behind shares of points", held, "; ".join(
        f"{name} was trained with {', '.join(rules_) or 'no optimizer'}"
        for name, rules_ in zip(names, used, strict=True)))
