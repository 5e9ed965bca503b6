"""The measures of two runs, each with its interval over probes and its nulls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...decomposition.result import Decomposition
from ..binomial import NORMAL, binomial
from ..coverage.result import Coverage
from ..spectrum import spectrum
from ..winners import Interval, over_seeds
from .leaning import by_chance, cancellation, overlaps, own_and_others, random_signs, rank_correlations
from .matching import Matching
from .metrics import METRICS, SIDES
from .sides import Side, same_answers
from .similarity import FEWEST, cka, debiased_cka, plain_cka, shuffled

#: What a number is held against.
CHANCE, OTHERS, UNTRAINED = "by chance", "other probes", "untrained"
AGAIN, COMMONEST, USUAL = "another run of a", "the commonest class", "training samples by the others"
SHUFFLED, COIN = "shuffled, 95 %", "coin signs"
SAME, NO_CHANGE, ONE_WAY, EVEN = "the same kernel", "no change", "all one way", "all alike"

#: All of them in their order: a folder does not keep that of a row.
NULLS = (NO_CHANGE, SAME, ONE_WAY, CHANCE, COMMONEST, OTHERS, UNTRAINED, SHUFFLED, COIN, USUAL, EVEN, AGAIN)

#: How often probes lose their places.
SHUFFLES = 100

#: Measures that a further run of a is read for too.
OF_PAIRS = ("agreement", "outputs_apart", "overlap", "pooled_overlap", "contribution_rank", "cka", "cka_plain",
            "feature_cka", "right_change", "loss_change", "rank_ratio", "coverage_change")

#: Why a number is not known.
NO_CLASSES = "the networks tell no classes apart"
OTHER_OUTPUTS = "the networks have other numbers of outputs"
NO_TARGETS = "no targets were given"
LEFT_OUT = "contributions were left out"
NOT_ASKED = "coverage was left out"
FEW = f"fewer than {FEWEST} probes"
FLAT = "a kernel is not told from a constant on these probes"
NO_FEATURES = "a last layer is not found, or not given a row for each probe"
OTHER_LOSSES = "the runs have other losses"
NONE_SHARED = "the runs have no sample in common"
FEW_SHARED = "the runs have fewer than three samples in common"
ALL_UNDONE = "contributions undo each other wholly, or there are none"


@dataclass(frozen=True)
class Reading:
    """A measure: its value, a 95 % interval over probes, its nulls, and why it is not known where it is NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan
    nulls: dict[str, float] = field(default_factory=dict)
    why: str = ""

    @classmethod
    def of(cls, found: Interval, nulls: dict[str, float] | None = None, why: str = "") -> Reading:
        """A reading of a mean with its interval."""
        return cls(found.mean, found.low, found.high, nulls or {}, why)


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that is known of one run.

    Attributes:
        side: The run and its answers.
        kernels: At the start and at the end, with shape (q, q).
        features: The same of last layers, or ``None``.
        ledger: Its contributions, or ``None`` if they were left out.
        coverage: Of the probes, or ``None``.
    """

    side: Side
    kernels: list[Tensor]
    features: list[Tensor] | None
    ledger: Decomposition | None
    coverage: Coverage | None


def unknown(why: str) -> Reading:
    """A measure that is not known."""
    return Reading(math.nan, why=why)


def readings(a: Gathered, b: Gathered, matching: Matching, k: int, draws: int, seed: int) -> dict[str, Reading]:
    """All measures by name, in their order."""
    found = (_answers(a.side, b.side, draws, seed) | _rights(a.side, b.side) | _losses(a.side, b.side)
             | _leaning(a, b, matching, k) | _kernels(a, b, draws, seed) | _covered(a.coverage, b.coverage))
    return {name: found[name] for name in METRICS}


def _answers(a: Side, b: Side, draws: int, seed: int) -> dict[str, Reading]:
    named = same_answers([a, b])
    agreement = unknown(NO_CLASSES)
    if named is not None:
        start, end = (torch.tensor([one == other for one, other in zip(named[0][i], named[1][i], strict=True)])
                      for i in (0, 1))
        words = set(named[0][1]) & set(named[1][1])
        chance = sum(named[0][1].count(word) * named[1][1].count(word) for word in words) / len(end) ** 2
        agreement = Reading.of(binomial(float(end.double().mean()), len(end)),
                               {CHANCE: chance, UNTRAINED: float(start.double().mean())})
    return {"agreement": agreement, "outputs_apart": _apart(a, b, draws, seed)}


def _apart(a: Side, b: Side, draws: int, seed: int) -> Reading:
    if a.outputs.shape != b.outputs.shape:
        return unknown(OTHER_OUTPUTS)
    one, other = a.outputs, b.outputs
    if a.softmax and b.softmax:
        one, other = (t - t.mean(2, keepdim=True) for t in (one, other))
    n = one.shape[1]
    generator = torch.Generator().manual_seed(seed)
    rows = [_weighted_apart(one[i], other[i], torch.ones(1, n, dtype=torch.float64)) for i in (0, 1)]
    value = float(rows[1])
    if not math.isfinite(value):
        return unknown("outputs are the same at all probes")
    # A root of a sum of means: repeats of a probe weigh more and do no other harm.
    places = torch.randint(n, (max(draws, 1), n), generator=generator)
    counts = torch.zeros(len(places), n, dtype=torch.float64)
    counts.scatter_add_(1, places, torch.ones_like(counts))
    drawn = _weighted_apart(one[1], other[1], counts)
    low, high = drawn[drawn.isfinite()].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    # All pairs of different probes, from means and squares alone.
    gaps = ((one[1].square().sum(1).sum() + other[1].square().sum(1).sum()) * n
            - 2 * (one[1].sum(0) @ other[1].sum(0))) - (one[1] - other[1]).square().sum()
    elsewhere = math.sqrt(max(float(gaps) / (n * (n - 1)), 0.0) / _spread(one[1], other[1])) if n > 1 else math.nan
    known = draws > 0 and n > 1
    return Reading(value, min(low, value) if known else math.nan, max(high, value) if known else math.nan,
                   {OTHERS: elsewhere, UNTRAINED: float(rows[0])})


def _spread(one: Tensor, other: Tensor) -> float:
    return sum(float(t.var(0, correction=0).sum()) for t in (one, other)) / 2


def _weighted_apart(one: Tensor, other: Tensor, counts: Tensor) -> Tensor:
    """The distance of outputs over their spread, for each row of weights, with shape (r,)."""
    shares = counts / counts.sum(1, keepdim=True)
    gap = shares @ (one - other).square().sum(1)
    spread = sum(shares @ t.square().sum(1) - (shares @ t).square().sum(1) for t in (one, other)) / 2
    return (gap / torch.as_tensor(spread)).sqrt()


def _rights(a: Side, b: Side) -> dict[str, Reading]:
    names = ("right_a", "right_b", "right_change")
    if a.answers is None or b.answers is None:
        return dict.fromkeys(names, unknown(NO_CLASSES))
    if a.truth is None or b.truth is None:
        return dict.fromkeys(names, unknown(NO_TARGETS))
    found, rows = {}, []
    for name, side in zip(names, (a, b), strict=False):
        assert side.answers is not None
        assert side.truth is not None
        start, end = (side.answers == side.truth).double()
        commonest = float(side.truth.bincount().max()) / len(side.truth)
        found[name] = Reading.of(binomial(float(end.mean()), len(end)),
                                 {COMMONEST: commonest, UNTRAINED: float(start.mean())})
        rows.append(end)
    return found | {"right_change": Reading.of(paired_shares(rows[1] - rows[0]), {NO_CHANGE: 0.0})}


def _losses(a: Side, b: Side) -> dict[str, Reading]:
    names = ("loss_a", "loss_b", "loss_change")
    if a.losses is None or b.losses is None:
        return dict.fromkeys(names, unknown(NO_TARGETS))
    found = {name: Reading.of(_paired(side.losses[1]), {UNTRAINED: float(side.losses[0].mean())})
             for name, side in zip(names, (a, b), strict=False) if side.losses is not None}
    same = (a.run.loss.name, a.run.loss.options) == (b.run.loss.name, b.run.loss.options) and a.run.loss.name
    change = Reading.of(_paired(b.losses[1] - a.losses[1]), {NO_CHANGE: 0.0}) if same else unknown(OTHER_LOSSES)
    return found | {"loss_change": change}


def paired_shares(change: Tensor) -> Interval:
    r"""The mean of differences of -1, 0 and 1 with the interval of Agresti and Min, which half a probe of each widens.

    .. math:: \frac{c - b}{n + 2} \pm z\,\frac{\sqrt{b + c + 1 - (c - b)^2 / (n + 2)}}{n + 2}

    References:
        Simple Improved Confidence Intervals for Comparing Matched Proportions (Agresti and Min, 2005).

    Example:
        >>> print(paired_shares(torch.zeros(98)))
        0.0000 (−0.0196 to 0.0196)
    """
    gained, lost, n = float((change > 0).sum()), float((change < 0).sum()), len(change) + 2
    middle = (gained - lost) / n
    off = NORMAL * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / n) / n
    value = float(change.mean())
    return Interval(value, min(value, middle - off), max(value, middle + off))


def _paired(values: Tensor) -> Interval:
    """A mean over probes with Student's interval."""
    return over_seeds(values, [str(i) for i in range(len(values))])


def _leaning(a: Gathered, b: Gathered, matching: Matching, k: int) -> dict[str, Reading]:
    apart = Reading(float(sum(matching.only)))
    names = ("overlap", "pooled_overlap", "contribution_rank", "kappa_a", "kappa_b")
    if a.ledger is None or b.ledger is None:
        return {"samples_apart": apart} | dict.fromkeys(names, unknown(LEFT_OUT))
    rows = [side.pooled(ledger.contributions.flatten(0, 1)) for side, ledger in
            ((matching.a, a.ledger), (matching.b, b.ledger))]
    found = {"samples_apart": apart}
    for name, values in zip(("kappa_a", "kappa_b"), rows, strict=True):
        middle = float(cancellation(values).nanmedian())
        found[name] = Reading(middle, nulls={ONE_WAY: 1.0, COIN: float(random_signs(values).nanmedian())}
                              ) if math.isfinite(middle) else unknown(ALL_UNDONE)
    return found | shared_leaning(rows[0], rows[1], matching.pairs, len(a.ledger), k)


def shared_leaning(a: Tensor, b: Tensor, pairs: Tensor, probes: int, k: int) -> dict[str, Reading]:
    """How far the samples that answers lean on are the same, from contributions with shapes (r, n_a) and (r, n_b)."""
    if not len(pairs):
        return {name: unknown(NONE_SHARED) for name in ("overlap", "pooled_overlap", "contribution_rank")}
    k = min(k, a.shape[1], b.shape[1])
    chance = by_chance(a.shape[1], b.shape[1], len(pairs), k)
    own, others = own_and_others(overlaps(a, b, pairs, k), probes)
    pooled = overlaps(a.abs().sum(0)[None], b.abs().sum(0)[None], pairs, k)
    found = {"overlap": Reading.of(_paired(own), {CHANCE: chance, OTHERS: others}),
             "pooled_overlap": Reading(float(pooled), nulls={CHANCE: chance})}
    if len(pairs) < 3:
        return found | {"contribution_rank": unknown(FEW_SHARED)}
    own, others = own_and_others(rank_correlations(a, b, pairs), probes)
    if bool(own.isnan().all()):
        return found | {"contribution_rank": unknown(ALL_UNDONE)}
    return found | {"contribution_rank": Reading.of(_paired(own), {CHANCE: 0.0, OTHERS: others})}


def _kernels(a: Gathered, b: Gathered, draws: int, seed: int) -> dict[str, Reading]:
    (a_start, a_end), (b_start, b_end) = a.kernels, b.kernels
    few = len(a_end) < FEWEST
    found = {"cka": _alike(a.kernels, b.kernels, draws, seed),
             "cka_plain": Reading(plain_cka(a_end, b_end), nulls={UNTRAINED: plain_cka(a_start, b_start)})
             if float(a_end.std()) and float(b_end.std()) else unknown(FLAT)}
    known = a.features is not None and b.features is not None
    found["feature_cka"] = _alike(a.features or [], b.features or [], draws, seed) if known else unknown(NO_FEATURES)
    ranks = []
    for side, one in zip(SIDES, (a, b), strict=True):
        start, end = one.kernels
        drift = 1 - float(debiased_cka(start, end))
        found[f"drift_{side}"] = unknown(FEW if few else FLAT) if math.isnan(drift) else Reading(
            drift, nulls={SAME: 0.0})
        here, before = (spectrum(matrix).entropy_rank()[0] for matrix in (end, start))
        ranks.append((here, before))
        found[f"rank_{side}"] = Reading(here, nulls={UNTRAINED: before, EVEN: float(len(end))})
    ratio, before = (ranks[1][i] / ranks[0][i] if ranks[0][i] else math.nan for i in (0, 1))
    found["rank_ratio"] = unknown(FLAT) if math.isnan(ratio) else Reading(ratio, nulls={UNTRAINED: before})
    return found


def _alike(a: list[Tensor], b: list[Tensor], draws: int, seed: int) -> Reading:
    """The debiased CKA at the end, with that at the start and that of shuffled probes beside it."""
    found = cka(a[1], b[1], draws, seed)
    if math.isnan(found.mean):
        return unknown(FEW if len(a[1]) < FEWEST else FLAT)
    other = shuffled(a[1], b[1], SHUFFLES, seed + 1)
    return Reading.of(found, {UNTRAINED: float(debiased_cka(a[0], b[0])), SHUFFLED: other[int(0.95 * len(other))]})


def _covered(a: Coverage | None, b: Coverage | None) -> dict[str, Reading]:
    names = ("coverage_a", "coverage_b", "coverage_change")
    if a is None or b is None:
        return dict.fromkeys(names, unknown(NOT_ASKED))
    found = {name: Reading.of(_paired(one.coverage), {USUAL: float(one.left_out.mean())})
             for name, one in zip(names, (a, b), strict=False)}
    return found | {"coverage_change": Reading.of(_paired(b.coverage - a.coverage), {NO_CHANGE: 0.0})}


def beside(found: dict[str, Reading], again: Callable[[], dict[str, Reading]] | None) -> dict[str, Reading]:
    """The measures with those of a and another run of it as a further null."""
    if again is None:
        return found
    other = again()
    return {name: Reading(one.value, one.low, one.high, one.nulls | {AGAIN: other[name].value}, one.why)
            if name in OF_PAIRS and not math.isnan(one.value) and not math.isnan(other[name].value) else one
            for name, one in found.items()}
