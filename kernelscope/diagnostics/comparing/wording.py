"""What a comparison of runs says in words: each claim computed from its numbers, and told with its null."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from ...decomposition.wording import counted, number, shortened, signed
from .reading import AGAIN, CHANCE, COIN, COMMONEST, OTHERS, SHUFFLED, UNTRAINED, USUAL

if TYPE_CHECKING:
    from .result import Measure, RunComparison

#: The cancellation beyond which contributions are read in ranks alone.
LIMIT = 10.0

#: Below which CKA, and which rank correlation or overlap, two runs count as different where no other run is known.
ALIKE = 0.9

#: The part of a number below which a change of it may be that of round-off in float32.
ROUNDING = 1e-5

#: From which ratio on effective ranks count as different.
RATIO = 1.25


class Claim(NamedTuple):
    """A claim: what it is about, the sentence, what it stands beside, and whether it is of a difference."""

    topic: str
    text: str
    null: str
    differs: bool


def claims(result: RunComparison) -> list[Claim]:
    """The claims that the numbers of a comparison allow: differences first, in the order of the table."""
    makers = (_data, _answers, _right, _loss, _leaning, _kernels, _ranks, _coverage, _cancellation)
    made = [claim for make in makers if (claim := make(result)) is not None]
    return sorted(made, key=lambda claim: not claim.differs)


def printed(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number in the digits that are read, with its interval where there is one.

    Example:
        >>> printed(0.5), printed(0.93, 0.861, 0.97), printed(math.nan)
        ('0.50', '0.93 (0.86 to 0.97)', 'not known')
    """
    if math.isnan(value):
        return "not known"
    return number(value) if math.isnan(low) else f"{number(value)} ({number(low)} to {number(high)})"


def beside(measure: Measure, *names: str) -> str:
    """The nulls of a measure in words."""
    return "; ".join(f"{name} {number(measure.nulls[name])}" for name in names
                     if not math.isnan(measure.nulls.get(name, math.nan)))


def _known(*measures: Measure) -> bool:
    return not any(math.isnan(measure.value) for measure in measures)


def _below(measure: Measure, level: float) -> bool:
    """Whether two runs are less alike than two runs are anyway; or than a level, where no further run is known."""
    other = measure.nulls.get(AGAIN, math.nan)
    top = measure.value if math.isnan(measure.high) else measure.high
    return top < (level if math.isnan(other) else other)


def _apart(change: Measure, *sides: Measure) -> bool:
    """Whether the interval of a change leaves out 0, a further run of a changes less, and it is more than round-off."""
    other = change.nulls.get(AGAIN, math.nan)
    rounding = ROUNDING * max(abs(side.value) for side in sides)
    return (change.low > 0 or change.high < 0) and not abs(change.value) <= abs(other) and abs(change.value) > rounding


def _data(result: RunComparison) -> Claim:
    one, other = result.info["only"]
    ways = {"content": "by input and target, number for number", "input": "by input alone", "id": "by their ids"}
    text = f"They learned from other samples: {result.data}." if one + other else (
        f"They learned from the same samples: {result.data.removesuffix(', the same')}.")
    return Claim("data", text, f"samples are matched {ways[result.info['match']]}",
                 bool(one + other))


def _answers(result: RunComparison) -> Claim | None:
    agreement, outputs = result.measure("agreement"), result.measure("outputs_apart")
    if _known(agreement):
        count = len(result.differing())
        text = (f"They answer {count:,} of {len(result):,} probes differently: agreement {agreement}." if count
                else f"They answer all {len(result):,} probes alike: agreement {agreement}.")
        return Claim("answers", text, beside(agreement, CHANCE, UNTRAINED, AGAIN), _below(agreement, 1.0) or (
            count > 0 and math.isnan(agreement.nulls.get(AGAIN, math.nan))))
    if not _known(outputs):
        return None
    return Claim("answers", f"Their outputs are {outputs} of their spread apart.",
                 beside(outputs, OTHERS, UNTRAINED, AGAIN), outputs.low > outputs.nulls.get(AGAIN, 1 - ALIKE))


def _right(result: RunComparison) -> Claim | None:
    a, b, change = (result.measure(f"right_{of}") for of in ("a", "b", "change"))
    if not _known(a, b, change):
        return None
    one, other = result.columns
    counts = f"{one} {printed(a.value)}, {other} {printed(b.value)}, a change of {_signed(change)}"
    if _apart(change, a, b):
        text = f"{other if change.value > 0 else one} is right more often: {counts}."
    else:
        text = f"Neither is shown to be right more often: {counts}."
    return Claim("right", text, beside(b, COMMONEST, UNTRAINED) + _again(change), _apart(change, a, b))


def _again(change: Measure) -> str:
    other = change.nulls.get(AGAIN, math.nan)
    return "" if math.isnan(other) else f"; {AGAIN} changes by {signed(other)}"


def _signed(change: Measure) -> str:
    if math.isnan(change.low):
        return signed(change.value)
    return f"{signed(change.value)} ({signed(change.low)} to {signed(change.high)})"


def _loss(result: RunComparison) -> Claim | None:
    one, other, change = (result.measure(f"loss_{of}") for of in ("a", "b", "change"))
    if not _known(change) or _known(result.measure("right_change")):
        return None
    differs = _apart(change, one, other)
    how = "Their losses differ" if differs else "Their losses are not shown to differ"
    parts = ", ".join(f"{name} {printed(result.measure(f'loss_{side}').value)}" for name, side in
                      zip(result.columns, "ab", strict=True))
    return Claim("loss", f"{how}: {parts}, a change of {_signed(change)}.",
                 beside(other, UNTRAINED) + _again(change), differs)


def _leaning(result: RunComparison) -> Claim | None:
    overlap, ranks = result.measure("overlap"), result.measure("contribution_rank")
    if not _known(overlap):
        return None
    k = result.k
    differs = _below(overlap, ALIKE)
    text = (f"Of the {counted(k, 'sample')} that an answer leans on most, {number(k * overlap.value)} are the same in "
            f"both: overlap {overlap}.")
    chance = max(overlap.nulls.get(CHANCE, 0.0), overlap.nulls.get(OTHERS, 0.0))
    if not math.isnan(overlap.low) and overlap.low <= chance:
        text = text.rstrip(".") + ", not shown to be more than without any relation."
    if _known(ranks):
        text = text.rstrip(".") + f"; ranks of contributions correlate by {ranks}."
    return Claim("samples", text, beside(overlap, CHANCE, OTHERS, AGAIN), differs)


def _kernels(result: RunComparison) -> Claim | None:
    alike, plain = result.measure("cka"), result.measure("cka_plain")
    if not _known(alike):
        return None
    text = f"Their kernels are alike to a CKA of {alike}, debiased; plain it is {printed(plain.value)} on these probes."
    return Claim("kernels", text, beside(alike, UNTRAINED, SHUFFLED, AGAIN), _below(alike, ALIKE))


def _ranks(result: RunComparison) -> Claim | None:
    a, b, ratio = (result.measure(name) for name in ("rank_a", "rank_b", "rank_ratio"))
    if not _known(a, b, ratio):
        return None
    differs = not 1 / RATIO < ratio.value < RATIO
    other = ratio.nulls.get(AGAIN, math.nan)
    if not math.isnan(other) and other > 0:
        differs = differs and abs(math.log(ratio.value)) > abs(math.log(other))
    text = (f"The kernel of {result.columns[0]} spreads the probes over {printed(a.value)} directions, that of "
            f"{result.columns[1]} over {printed(b.value)} (effective rank).")
    nulls = [f"untrained {printed(a.nulls[UNTRAINED])} and {printed(b.nulls[UNTRAINED])}"]
    return Claim("spectra", text, nulls[0] + ("" if math.isnan(other) else f"; {AGAIN}, ratio {number(other)}"),
                 differs)


def _coverage(result: RunComparison) -> Claim | None:
    a, b, change = (result.measure(f"coverage_{of}") for of in ("a", "b", "change"))
    if not _known(a, b, change):
        return None
    how = "differently well" if _apart(change, a, b) else "about as well"
    text = (f"The probes are covered {how}: {printed(a.value)} in {result.columns[0]}, {printed(b.value)} in "
            f"{result.columns[1]}, a change of {_signed(change)}.")
    return Claim("coverage", text, f"{USUAL} {printed(a.nulls[USUAL])} and {printed(b.nulls[USUAL])}" + _again(change),
                 _apart(change, a, b))


def _cancellation(result: RunComparison) -> Claim | None:
    parts, beyond, coins = [], [], []
    for name, side in zip(result.columns, "ab", strict=True):
        kappa = result.measure(f"kappa_{side}")
        if not _known(kappa):
            continue
        parts.append(f"{number(kappa.value)} in {name}")
        beyond += [shortened(name)] if kappa.value > LIMIT else []
        coins.append(number(kappa.nulls[COIN]))
    if not parts:
        return None
    reading = (f"; beyond {LIMIT:g} shares mean nothing, so of {' and '.join(beyond)} only ranks are read" if beyond
               else "")
    return Claim("cancellation", f"Contributions are {' and '.join(parts)} times their sum in size{reading}.",
                 f"1 where all pull one way; with signs by a coin about {' and '.join(coins)}", False)
