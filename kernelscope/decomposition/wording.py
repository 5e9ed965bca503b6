r"""An explanation in words, where every clause is a number that was computed.

A clause is written only if the ledger supports it: percentages need shares that do not cancel, ranks of samples need a
quadrature finer than the shares, and a ledger that does not close, or holds a large unattributed channel, says so
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .result import COMPLETE

if TYPE_CHECKING:
    from .explanation import Explanation

#: Said with every explanation, because the numbers are easily taken for something else.
ACCOUNTING = (
    "This is accounting along one recorded run: it says where the answer came from, "
    "not what the network would have said if a sample had been left out."
)

#: Below this share of their absolute sum, the sum of all contributions is not divided into percentages: above it, none
#: of the two sides is more than one and a half times the sum.
CANCELLATION_LIMIT = 0.5

#: Below this share, contributions are said to nearly cancel.
NEARLY = 0.2

#: A channel other than data is mentioned when it is at least this share of all absolute terms of the ledger.
MENTIONED = 0.05

#: An unattributed or rounding channel beyond this share of the absolute terms weakens the wording.
WEAK = 0.01

CHANNEL_WORDS = {
    "decay": "weight decay",
    "momentum": "momentum already there at the start",
    "buffers": "running statistics of normalisation layers",
    "rounding": "rounding during training",
    "unattributed": "changes that the update rule does not explain",
}


def signed(value: float) -> str:
    """A number with its sign, to two decimals, or in two digits when it is small.

    Example:
        >>> signed(-12.3456), signed(0.2), signed(1e-17), signed(0.0)
        ('−12.35', '+0.20', '+1e−17', '0')
    """
    if value == 0:
        return "0"
    text = f"{value:+.2f}" if abs(value) >= 0.1 else f"{value:+.2g}"
    return text.replace("-", "−")


def small(value: float) -> str:
    """A ratio in two digits."""
    return f"{value:.2g}".replace("-", "−")


def chance(value: float) -> str:
    """A probability to two decimals, never rounded up to certainty.

    Example:
        >>> chance(0.914), chance(0.9999), chance(0.0001)
        ('0.91', '>0.99', '<0.01')
    """
    return ">0.99" if 0.995 <= value < 1 else "<0.01" if 0 < value < 0.005 else f"{value:.2f}"


def certainty(value: float) -> str:
    """A probability within a sentence.

    Example:
        >>> certainty(0.914), certainty(0.9999)
        ('with probability 0.91', 'with probability above 0.99')
    """
    return f"with probability {chance(value)}".replace(">", "above ").replace("<", "below ")


def clauses(why: Explanation, query: int) -> dict[str, str]:
    """The sentences of one explanation by their subject, in order; a subject with nothing to say is empty."""
    return {
        "caveat": _caveat(why, query),
        "answer": _answer(why, query),
        "movement": _movement(why, query),
        "groups": _groups(why, query),
        "samples": _samples(why, query),
        "cancellation": _cancellation(why, query),
        "time": _time(why, query),
        "channels": _channels(why, query),
        "accounting": ACCOUNTING,
    }


def weaknesses(why: Explanation, query: int) -> list[str]:
    """What keeps this ledger from supporting every word; empty when nothing does."""
    ledger = why.decomposition[query]
    found = []
    limit = COMPLETE[ledger.info.get("dtype", "float64")]
    if ledger.completeness() > limit:
        found.append(f"the ledger leaves {small(ledger.completeness())} of its terms unexplained")
    scale = float(ledger.magnitude[0, 0]) or 1.0
    for channel, words in (("unattributed", "came from changes that the update rule does not explain"),
                           ("rounding", "came from rounding during training")):
        share = abs(float(ledger.channels[channel][0, 0])) / scale
        if share > WEAK:
            found.append(f"{small(share)} of all movement {words}")
    return found


def rank_is_uncertain(why: Explanation, query: int) -> bool:
    """Whether the quadrature missed more than the strongest single share, so that samples cannot be ranked."""
    missed = float(why.decomposition.quadrature_error[query, 0].abs().sum())
    largest = float(why.shares[query].abs().max()) if why.shares.shape[1] else 0.0
    return missed > largest


def _caveat(why: Explanation, query: int) -> str:
    found = weaknesses(why, query)
    return f"Read this with care: {'; '.join(found)}." if found else ""


def _answer(why: Explanation, query: int) -> str:
    final = float(why.decomposition.final[query, 0])
    answer, chances = why.answer(query), why.probabilities(query)
    if answer is None or chances is None:
        name = why.decomposition.output_names[0]
        what = f"output {name}" if name.isdigit() else name
        return f"The network's {what} is {final:.4g}.".replace("-", "−")
    predicted, runner_up = (why.class_name(i) for i in answer)
    return (
        f"The network predicts {predicted} {certainty(float(chances[answer[0], -1]))}, "
        f"{final:.2f} logits ahead of {runner_up}."
    )


def _movement(why: Explanation, query: int) -> str:
    ledger = why.decomposition
    start, data = float(ledger.initial[query, 0]), float(why.shares[query].sum())
    what = "this lead" if why.kind == "margin" else "the output"
    roughly = "about " if weaknesses(why, query) else ""
    return (
        f"Before training {what} was {signed(start)}; "
        f"over {why.steps} steps the training samples added {roughly}{signed(data)}."
    )


def _percent(why: Explanation, query: int, share: float) -> str:
    if not why.divisible(query):
        return ""
    return f", {100 * share / float(why.shares[query].sum()):.0f} % of what was added".replace("-", "−")


def _groups(why: Explanation, query: int) -> str:
    names, shares = why.group_names(), why.group_shares(query)
    if len(names) < 2:
        return ""
    best, worst = int(shares.argmax()), int(shares.argmin())
    up, down = ("for it", "against it") if why.kind == "margin" else ("up", "down")
    parts = []
    if shares[best] > 0:
        share = float(shares[best])
        parts.append(f"the strongest push {up} came from the samples labelled {names[best]} ({signed(share)}"
                     f"{_percent(why, query, share)})")
    if shares[worst] < 0:
        share = float(shares[worst])
        parts.append(f"the strongest push {down} from those labelled {names[worst]} ({signed(share)}"
                     f"{_percent(why, query, share)})")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def _samples(why: Explanation, query: int) -> str:
    ledger, parts = why.decomposition, []
    up, down = ("for it", "against it") if why.kind == "margin" else ("up", "down")
    for sign, words in ((1, up), (-1, down)):
        for position in why.ranked(query, 1, sign):
            label = "" if ledger.labels is None else f" (labelled {ledger.labels[position]})"
            share = signed(float(why.shares[query, position]))
            parts.append(f"{share} {words} by sample {int(ledger.sample_ids[position])}{label}")
    if not parts:
        return ""
    if rank_is_uncertain(why, query):
        return ("The contributions of single samples are smaller than what the quadrature missed, "
                "so their order is uncertain and no sample is singled out.")
    return f"The largest single contributions were {' and '.join(parts)}."


def _cancellation(why: Explanation, query: int) -> str:
    if why.divisible(query):
        return ""
    shares, net = why.shares[query], why.net(query)
    how = "nearly cancel" if net < NEARLY else "cancel in part"
    up, down = float(shares.clamp_min(0).sum()), float(shares.clamp_max(0).sum())
    return (
        f"All samples together pushed {signed(up)} one way and {signed(down)} the other. These {how}: the net "
        f"is {small(net)} of the total, below {CANCELLATION_LIMIT}, so contributions are given in {why.unit} "
        "and not as percentages."
    )


def _time(why: Explanation, query: int) -> str:
    half, settled = why.learned(query)
    parts = []
    if half is not None:
        parts.append(f"half of what the samples added was there to stay by step {half} of {why.steps}")
    if settled is not None:
        parts.append("the prediction never changed" if settled == 0
                     else f"the prediction has not changed since step {settled}")
    text = ", and ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def _channels(why: Explanation, query: int) -> str:
    ledger = why.decomposition
    scale = float(ledger.magnitude[query, 0]) or 1.0
    change = abs(float(ledger.final[query, 0] - ledger.initial[query, 0])) or 1.0
    parts = []
    for name, words in CHANNEL_WORDS.items():
        value = float(ledger.channels[name][query, 0])
        if abs(value) > MENTIONED * scale or abs(value) > MENTIONED * change:
            parts.append(f"{words} {signed(value)}")
    return f"The rest: {', '.join(parts)}." if parts else ""
