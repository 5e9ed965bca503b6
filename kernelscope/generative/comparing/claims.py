"""What a comparison says in words: each claim computed from its numbers, and told with its null."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ...decomposition.wording import number
from ...diagnostics.binomial import binomial
from ...diagnostics.winners import Interval
from .readings import HELD_OUT, OPTIMAL, REAL, UNIFORM, UNTRAINED, WIENER
from .sides import GAN

if TYPE_CHECKING:
    from .comparison import GenerativeComparison, Row

__all__ = ["LIMIT", "Claim", "claims"]

#: The cancellation beyond which no share is told as a percentage.
LIMIT = 10.0

#: How far apart two shares of points are that are not told as level, where there are no intervals.
LEVEL = 0.05

#: What share of samples may be copies by chance.
CHANCE = 0.01


class Claim(NamedTuple):
    """A claim: what it is about, the sentence, and what it stands beside."""

    topic: str
    text: str
    null: str


def claims(result: GenerativeComparison) -> list[Claim]:
    """The claims that the numbers of a comparison allow, in the order of the page."""
    made = (_noise(result), _cancellation(result), _copies(result), _covered(result), _concentrated(result),
            _bridged(result))
    return [claim for claim in made if claim is not None]


def told(found: Interval) -> str:
    """A number in the digits that are read, with its interval where there is one."""
    if math.isnan(found.low):
        return number(found.mean)
    return f"{number(found.mean)} ({number(found.low)} to {number(found.high)})"


def _rows(result: GenerativeComparison, metric: str) -> list[Row]:
    return [row for row in result.rows if row.metric == metric]


def _row(result: GenerativeComparison, metric: str) -> Row | None:
    return next((row for row in _rows(result, metric) if row.slot == "main"), None)


def _known(value: float) -> bool:
    return not math.isnan(value)


def _noise(result: GenerativeComparison) -> Claim | None:
    """Where in noise corrections are local, and what a model without noise levels has in its place."""
    texts, nulls = [], []
    for side, name in enumerate(result.columns):
        rows = [row for row in _rows(result, "noise_locality") if _known(row.values[side].mean)]
        if rows:
            texts.append(_local_in_noise(name, [(row.slot, row.values[side], _stands_out(row, side)) for row in rows]))
            nulls.append(f"{name} with noise levels shuffled below " + _listed([
                number(_beyond(row, side)) for row in rows]) + " in 95 % of shuffles; untrained " + _listed([
                    number(row.nulls[side].get(UNTRAINED, math.nan)) for row in rows]))
        elif (row := _row(result, "time_locality")) and _known(row.values[side].mean):
            value, beyond = row.values[side], _beyond(row, side)
            said = (f"is {_degree(value.mean)} local" if _stands_out(row, side)
                    else "is no more local than with steps shuffled or before training")
            texts.append(f"{name} has no noise levels; in training time its kernel {said} ({told(value)}).")
            nulls.append(f"{name} with steps shuffled below {number(beyond)}")
    return Claim("noise", " ".join(texts), "; ".join(nulls)) if texts else None


def _beyond(row: Row, side: int) -> float:
    return row.nulls[side].get("shuffled, 95 %", math.nan)


def _stands_out(row: Row, side: int) -> bool:
    """Whether a locality is beyond that of shuffles and of the untrained network."""
    value, untrained = row.values[side], row.nulls[side].get(UNTRAINED, -math.inf)
    if math.isnan(value.low):
        return value.mean > _beyond(row, side) and not value.mean <= untrained + LEVEL
    return value.low > _beyond(row, side) and not value.low <= untrained


def _local_in_noise(name: str, found: list[tuple[str, Interval, bool]]) -> str:
    local = [(slot, value) for slot, value, stands_out in found if stands_out]
    spread = [f"{slot} ({told(value)})" for slot, value, stands_out in found if not stands_out]
    if not local:
        return (f"What {name} learns at one noise level acts at all alike: {_listed(spread)}, no more than "
                "with levels shuffled or before training.")
    parts = [f"{_degree(value.mean)} at {slot} ({told(value)})" for slot, value in local]
    text = (f"What {name} learns at one noise level stays near that level {_listed(parts)}, where 0 is not at all and "
            "1 wholly")
    return f"{text}; not at {_listed(spread)}." if spread else f"{text}."


def _degree(value: float) -> str:
    return next(word for least, word in ((0.5, "mostly"), (0.25, "partly"), (0.05, "a little"),
                                                  (-math.inf, "hardly")) if value >= least)


def _cancellation(result: GenerativeComparison) -> Claim | None:
    """How much terms undo each other, and which terms do."""
    row, real = _row(result, "cancellation"), _row(result, "from_real")
    if row is None:
        return None
    texts, kappas = [], []
    for side, name in enumerate(result.columns):
        value = row.values[side]
        if not _known(value.mean):
            continue
        kappas.append((value, name))
        reading = ("so its shares are no percentages and only ranks are read" if value.mean > LIMIT
                   else "so its shares may be read")
        texts.append(f"The terms behind {name} are {told(value)} times as large as what they add up to, {reading}.")
        part = real.values[side].mean if real is not None else math.nan
        if result.sides[side] == GAN and _known(part) and abs(part) > 1 + LEVEL:
            # Beyond the limit a multiple of what is left is a share of it as much as a percentage is.
            much, back = ((f"{number(abs(part))} times what it moved", f"{number(abs(part - 1))} times of it")
                          if value.mean <= LIMIT else ("far more than it moved", "most of it"))
            texts.append(f"Real points alone would have moved the critic’s score by {much}, and generated points and "
                         f"penalties took {back} back: what is left is a small difference of two large sums.")
    if not texts:
        return None
    if len(kappas) == 2 and _apart(kappas[0][0], kappas[1][0]):
        (most, name), (least, other) = sorted(kappas, key=lambda each: -each[0].mean)
        much = f"{number(most.mean / least.mean)} times as much as" if most.mean <= LIMIT else "more than"
        texts.append(f"Terms of {name} cancel {much} those of {other}.")
    return Claim("cancellation", " ".join(texts), f"terms that all pull one way have 1; percentages end at {LIMIT:g}")


def _copies(result: GenerativeComparison) -> Claim | None:
    """Who copies training points."""
    row = _row(result, "memorised")
    if row is None:
        return None
    parts, copying = [], []
    for side, name in enumerate(result.columns):
        value = _over_points(row.values[side], result.info["samples"])
        if not _known(value.mean):
            continue
        parts.append(f"{_percent(value)} of what {name} makes")
        nulls = row.nulls[side]
        copying += [name] if value.low > max(nulls.get(HELD_OUT, 0.0) + CHANCE, nulls.get(UNTRAINED, 0.0)) else []
    if not parts:
        return None
    who = (f"{_listed(copying)} {'copies' if len(copying) == 1 else 'copy'} training points" if copying
           else "No model is shown to copy training points")
    return Claim("memorisation", f"{who}: {_listed(parts)} {'is' if len(parts) == 1 else 'are'} three times nearer to "
                                 "one training point than to any other.",
                 _beside(row, (HELD_OUT, UNTRAINED, OPTIMAL, WIENER)) + _single(row, "samples"))


def _covered(result: GenerativeComparison) -> Claim | None:
    """Who covers more of what is real."""
    row = _row(result, "coverage")
    if row is None or not all(_known(value.mean) for value in row.values):
        return None
    count = min(result.info["samples"], result.info["reference points"])
    found = [_over_points(value, count) for value in row.values]
    parts = ", ".join(f"{name} {_percent(value)}" for name, value in zip(result.columns, found, strict=True))
    real = "points nobody was trained on" if result.info.get("held_out", True) else "the training points"
    best = int(found[1].mean > found[0].mean)
    # One run may differ from the next by more than its points tell.
    sure = _apart(*found) and (abs(found[0].mean - found[1].mean) > LEVEL or not _one_run(row))
    if sure and found[best].low > row.nulls[best].get(UNTRAINED, -math.inf):
        text = f"{result.columns[best]} covers more of {real}: {parts}."
    else:
        text = f"Neither is shown to cover more of {real}: {parts}."
    for null, word in ((UNTRAINED, "before training"), (WIENER, "a Gaussian fitted to the pixels")):
        low = [name for name, value, nulls in zip(result.columns, found, row.nulls, strict=True)
               if value.low <= nulls.get(null, -math.inf)]
        if low:
            who = f"{low[0]} is not" if len(low) == 1 else "Neither is"
            text += f" {who} shown to cover more than {word}."
    return Claim("coverage", text, _beside(row, (REAL, UNTRAINED, WIENER, OPTIMAL))
                 + _single(row, "samples or real points, the fewer"))


def _concentrated(result: GenerativeComparison) -> Claim | None:
    """On how many training points corrections rest."""
    row = _row(result, "n_eff")
    if row is None:
        return None
    parts = [(name, value, row.nulls[side].get(UNIFORM, math.nan))
             for side, (name, value) in enumerate(zip(result.columns, row.values, strict=True)) if _known(value.mean)]
    if not parts:
        return None
    few = [name for name, value, n in parts if (value.mean if math.isnan(value.high) else value.high) < n / 2]
    text = _listed([f"{name} on {told(value)} of {n:,.0f} training points" for name, value, n in parts])
    kind = ("Corrections rest on few points" if len(few) == len(parts) else "Corrections are spread widely" if not few
            else f"Corrections of {_listed(few)} rest on few points")
    return Claim("concentration", f"{kind}: {text}, once what all points add alike is taken off.",
                 _beside(row, (UNIFORM, OPTIMAL)))


def _bridged(result: GenerativeComparison) -> Claim | None:
    """Whether the critic's field and the denoiser's correction point the same way."""
    if result.bridge is None:
        return None
    untrained = result.bridge.range("untrained critic, denoiser")
    return Claim("bridge", f"{result.bridge.said()[0].upper()}{result.bridge.said()[1:]}.",
                 f"an untrained critic {number(untrained[0])} to {number(untrained[1])}; random directions within "
                 f"{number(result.bridge.chance())} in 95 of 100 cases")


def _apart(one: Interval, other: Interval) -> bool:
    """Whether two intervals do not meet; nothing is told where one is not known."""
    return one.low > other.high or other.low > one.high


def _over_points(found: Interval, count: int) -> Interval:
    """A share with its interval over seeds, or else over so many points."""
    return binomial(found.mean, count) if math.isnan(found.low) else found


def _one_run(row: Row) -> bool:
    """Whether a side has too few runs for an interval over seeds."""
    return any(math.isnan(value.low) for value in row.values)


def _single(row: Row, points: str) -> str:
    """What an interval is over, where it is not over seeds."""
    return f"; intervals are binomial, over {points}, and not over seeds" if _one_run(row) else ""


def _percent(found: Interval) -> str:
    if math.isnan(found.low):
        return f"{100 * found.mean:.1f} %"
    return f"{100 * found.mean:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})".replace("-", "−")


def _beside(row: Row, names: tuple[str, ...]) -> str:
    """The nulls of a row, once where both sides have the same."""
    parts = []
    for name in names:
        values = [side[name] for side in row.nulls if _known(side.get(name, math.nan))]
        if values:
            parts.append(f"{name} {' and '.join(dict.fromkeys(number(value) for value in values))}")
    return "; ".join(parts)


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
