r"""An explanation in words, where every clause is a number that was computed.

A clause is written only if the ledger supports it: percentages need shares that do not cancel, ranks of samples need a
quadrature finer than the shares, and a ledger that does not close, or holds a large unattributed channel, says so
first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..text import shown
from .result import COMPLETE

if TYPE_CHECKING:
    from .explanation import Explanation
    from .result import Decomposition

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

#: A path that spans more than this many times the way from its start to its end is said to have gone back and forth.
WANDERING = 2.0

#: Letters of a name within a sentence.
LONGEST = 48

CHANNEL_WORDS = {
    "decay": "weight decay",
    "momentum": "momentum already there at the start",
    "buffers": "running statistics of normalisation layers",
    "rounding": "rounding during training",
    "unattributed": "changes that the update rule does not explain",
}

#: What the unattributed channel of a ledger over chords is.
BETWEEN = "what is not known of the steps between the kept parameters"


def number(value: float) -> str:
    """A number in the digits a reader needs: two decimals, fewer when it is large, two digits when it is small.

    Example:
        >>> number(-12.3456), number(0.0251), number(152.336), number(48213.7), number(1.0e12), number(-1e-17)
        ('−12.35', '0.025', '152.3', '48,214', '1e+12', '−1e−17')
    """
    size = abs(value)
    if value == 0:
        return "0"
    text = (f"{value:.2g}" if size < 0.095 else f"{value:.2f}" if size < 99.95 else f"{value:.1f}" if size < 999.5
            else f"{value:,.0f}" if size < 1e9 else f"{value:.3g}")
    return text.replace("-", "−")


def signed(value: float) -> str:
    """A number with its sign.

    Example:
        >>> signed(-12.3456), signed(0.2), signed(1e-17), signed(0.0)
        ('−12.35', '+0.20', '+1e−17', '0')
    """
    return f"+{number(value)}" if value > 0 else number(value)


def places(*values: float) -> int:
    """How many decimals numbers need that stand in one column: three digits of the largest, but at least two decimals.

    Example:
        >>> places(44.06, -0.2), places(0.17, 0.025), places(2048.0, 3.0)
        (2, 3, 0)
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest >= 1000:
        return 0
    return max(2, 2 - math.floor(math.log10(largest))) if largest > 1e-12 else 2


def fixed(value: float, decimals: int) -> str:
    """A number with its sign and so many decimals; what is printed as nought has no sign.

    Example:
        >>> fixed(-0.1689, 3), fixed(2048.0, 0), fixed(-0.0001, 2)
        ('−0.169', '+2,048', '0.00')
    """
    text = f"{value:+,.{decimals}f}"
    return (text if float(text.replace(",", "")) else f"{0:.{decimals}f}").replace("-", "−")


def counted(count: int, noun: str, several: str = "") -> str:
    """A number of things, with the word for several of them where it is not made by an s.

    Example:
        >>> counted(1, "step"), counted(1437, "training sample"), counted(2, "query", "queries")
        ('1 step', '1,437 training samples', '2 queries')
    """
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def shortened(name: str, most: int = LONGEST) -> str:
    """A name as it fits into a sentence: nothing unseen, and the middle of a long one is left out.

    Example:
        >>> shortened("seven"), len(shortened("a" * 5000))
        ('seven', 48)
    """
    name = shown(name)
    return f"{name[:most - 16]}…{name[-15:]}" if is_long(name, most) else name


def is_long(name: str, most: int = LONGEST) -> bool:
    """Whether a name is cut where it stands in a sentence."""
    return len(name) > most


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


@dataclass(frozen=True)
class Side:
    """What it is called when samples push the explained number in one direction.

    Attributes:
        mark: A triangle in this direction.
        title: Over a list of samples that did it.
        short: In a table's head.
        push: After "the strongest push".
        most: After the sample that did it most.
    """

    mark: str
    title: str
    short: str
    push: str
    most: str


def sides(why: Explanation) -> tuple[Side, Side]:
    """The two directions in which a sample can push what is explained: up and down."""
    if why.kind == "margin":
        return (Side("▲", "for this answer", "for", "for it", "pushed hardest for it"),
                Side("▼", "against this answer", "against", "against it", "pushed hardest against it"))
    if why.kind == "logit":
        other, one = (shortened(why.class_name(i)) for i in (0, 1))
        return (Side("▲", f"towards {one}", f"to {one}", f"towards {one}", f"pushed hardest towards {one}"),
                Side("▼", f"towards {other}", f"to {other}", f"towards {other}", f"pushed hardest towards {other}"))
    return (Side("▲", "raised this output", "raised", "up", "raised it most"),
            Side("▼", "lowered this output", "lowered", "down", "lowered it most"))


def subject(why: Explanation) -> str:
    """What is explained, in two words."""
    return "the lead" if why.kind == "margin" else "the output"


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
            what = f"is {BETWEEN}" if ledger.on_chords and channel == "unattributed" else words
            found.append(f"{small(share)} of all movement {what}")
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
        what = f"output {name}" if name.isdigit() else shortened(name)
        return f"The network's {what} is {number(final)}."
    predicted, runner_up = (shortened(why.class_name(i)) for i in answer)
    how_sure = certainty(float(chances[answer[0], -1]))
    if why.kind == "logit":
        return (f"The network predicts {predicted} {how_sure}: its output, the logit of "
                f"{shortened(why.class_name(1))}, is {signed(final)}.")
    return f"The network predicts {predicted} {how_sure}, {number(final)} logits ahead of {runner_up}."


def beginning(ledger: Decomposition) -> str:
    """Where a ledger begins: before training, or at a step, of a part of a run and of checkpoints that begin later."""
    first = (ledger.info.get("points") or [ledger.info.get("first_step", 0)])[0]
    return f"at step {first:,}" if first else "before training"


def _movement(why: Explanation, query: int) -> str:
    ledger = why.decomposition
    start, data = float(ledger.initial[query, 0]), float(why.shares[query].sum())
    what = "this lead" if why.kind == "margin" else "the output"
    steps, then = counted(why.updates, "step"), beginning(ledger).capitalize()
    if why.unmoved(query):
        return f"{then} {what} was the same, {signed(start)}: {steps} moved nothing."
    roughly = "about " if weaknesses(why, query) else ""
    added = "nothing" if data == 0 else f"{roughly}{signed(data)}"
    who = "training sample" if why.shares.shape[1] == 1 else "training samples"
    return f"{then} {what} was {signed(start)}; over {steps} the {who} added {added}."


def _percent(why: Explanation, query: int, share: float) -> str:
    if not why.divisible(query):
        return ""
    return f", {100 * share / float(why.shares[query].sum()):.0f} % of what was added".replace("-", "−")


def _groups(why: Explanation, query: int) -> str:
    names, shares = why.group_names(), why.group_shares(query)
    if len(names) < 2:
        return ""
    best, worst = int(shares.argmax()), int(shares.argmin())
    up, down = sides(why)
    parts = []
    if shares[best] > 0:
        share = float(shares[best])
        parts.append(f"the strongest push {up.push} came from the samples labelled {shortened(names[best])} "
                     f"({signed(share)}{_percent(why, query, share)})")
    if shares[worst] < 0:
        share = float(shares[worst])
        whose = "those" if parts else "the samples"
        parts.append(f"the strongest push {down.push} {'' if parts else 'came '}from {whose} labelled "
                     f"{shortened(names[worst])} ({signed(share)}{_percent(why, query, share)})")
    return _sentence(", ".join(parts))


def _samples(why: Explanation, query: int) -> str:
    ledger, parts = why.decomposition, []
    for side, sign in zip(sides(why), (1, -1), strict=True):
        for position in why.ranked(query, 1, sign):
            label = "" if ledger.labels is None else f" (labelled {shortened(ledger.labels[position])})"
            share = signed(float(why.shares[query, position]))
            parts.append(f"#{int(ledger.sample_ids[position])}{label} {side.most} ({share})")
    if not parts:
        return ""
    if why.doubtful(query):
        missing = abs(float(ledger.channels["unattributed"][query, 0])) / (float(ledger.magnitude[query, 0]) or 1.0)
        return (f"So much is unattributed ({100 * missing:.0f} % of all movement) that no single sample is named and "
                "nothing is given in percent.")
    if rank_is_uncertain(why, query):
        return ("The contributions of single samples are smaller than what the quadrature missed, "
                "so their order is uncertain and no sample is singled out.")
    return f"Of single samples, {' and '.join(parts)}."


def _cancellation(why: Explanation, query: int) -> str:
    shares, net = why.shares[query], why.net(query)
    if net >= CANCELLATION_LIMIT or not bool(shares.any()):
        return ""
    how = "nearly cancel" if net < NEARLY else "cancel in part"
    up, down = float(shares.clamp_min(0).sum()), float(shares.clamp_max(0).sum())
    return (
        f"All samples together pushed {signed(up)} one way and {signed(down)} the other. These {how}: what is left "
        f"is {small(net)} of the total, below {CANCELLATION_LIMIT}, so contributions are given in {why.unit} "
        "and not as percentages."
    )


def _time(why: Explanation, query: int) -> str:
    half, settled = why.learned(query)
    moments = why.decomposition.moments
    since = "" if beginning(why.decomposition) == "before training" else " from there"
    parts = []
    if half is not None:
        what = "lead" if why.kind == "margin" else "output"
        parts.append(f"half of the way from the initial to the final {what} was made, to stay, by step "
                     f"{moments[half]} of {why.updates}{since}{_detour(why, query)}")
    if settled is not None:
        parts.append("the prediction never changed" if settled == 0 else
                     f"the prediction has not changed since step {moments[settled]}{since if half is None else ''}")
    return _sentence(", and ".join(parts))


def _detour(why: Explanation, query: int) -> str:
    path = why.decomposition.path[query, 0]
    low, high = float(path.min()), float(path.max())
    if high - low <= WANDERING * abs(float(path[-1] - path[0])):
        return ""
    return f", after it had gone back and forth between {signed(low)} and {signed(high)}"


def _channels(why: Explanation, query: int) -> str:
    ledger = why.decomposition
    scale = float(ledger.magnitude[query, 0]) or 1.0
    change = abs(float(ledger.final[query, 0] - ledger.initial[query, 0])) or 1.0
    parts = []
    for name, words in CHANNEL_WORDS.items():
        words = BETWEEN if ledger.on_chords and name == "unattributed" else words
        value = float(ledger.channels[name][query, 0])
        if abs(value) > MENTIONED * scale or abs(value) > MENTIONED * change:
            parts.append(f"{words} {signed(value)}")
    return f"The rest: {', '.join(parts)}." if parts else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
