"""What the numbers of a course say, in words that follow them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: Changes up to this are none; and the share of a turn of which it is told when it was done.
SAME, SHARE = 0.005, 0.8


def number(value: float) -> str:
    """A share as it is said: two digits, or more where they are needed.

    Example:
        >>> number(0.314), number(0.9987), number(0.0004)
        ('0.31', '0.999', '0.0004')
    """
    if 0.995 > abs(value) >= 0.01 or abs(value) >= 1 or not value:
        return f"{value:.2f}"
    return f"{value:.3f}" if abs(value) > 0.5 else f"{value:.1g}"


def moved_when(times: Tensor, first: Tensor, last: Tensor) -> str:
    """How far the kernel turned, and when it was near its last direction, to stay.

    Args:
        times: The steps.
        first: CKA with the first kernel.
        last: CKA with the last one.
    """
    turn = 1 - float(first[-1])
    if turn < SAME:
        return f"the kernel kept its direction (CKA with the start {number(float(first[-1]))} in the end)"
    k = int((1 - last > (1 - SHARE) * turn).nonzero()[-1]) + 1
    share = float(times[k] - times[0]) / float(times[-1] - times[0])
    return (f"the kernel turned by {number(turn)} (1 − CKA with the start), and all but {1 - SHARE:.0%} of the way was "
            f"behind it after {share:.0%} of the steps")


def course_of(what: str, values: Tensor, others: Tensor | None) -> str:
    """From where to where something went, on samples and on points; nothing of what is not defined."""
    if not is_known(values):
        return ""
    first, last = float(values[0]), float(values[-1])
    verb = "kept at" if abs(last - first) <= SAME else "rose" if last > first else "fell"
    told = number(last) if verb == "kept at" else f"from {number(first)} to {number(last)}"
    beside = ""
    if others is not None and is_known(others):
        a, b = float(others[0]), float(others[-1])
        same = abs(b - a) <= SAME
        where = number(b) if same else f"from {number(a)} to {number(b)}"
        own = "stayed at" if same else "rose" if b > a else "fell"
        beside = f" on training samples and {where} on the others" if own == verb else (
            f" on training samples and {own} {where} on the others")
    return f"{what} {verb} {told}{beside}"


def is_known(values: Tensor) -> bool:
    """Whether a number of each time is defined: R² of one point, or of targets that are all the same, is not."""
    return bool(values.isfinite().all())


def regressed(regression: dict[str, Tensor], network: Tensor | None, task: str) -> str:
    """What kernel regression scores with the last and the first kernel, and whose answers are the network's."""
    parts = []
    if "score" in regression and network is not None and is_known(regression["score"]) and is_known(network):
        first, last = (float(regression["score"][i]) for i in (0, -1))
        parts.append(f"kernel regression with the last kernel scores {last:.3f}, with the first {first:.3f}, the "
                     f"network {float(network[-1]):.3f} ({task})")
    if "agreement" in regression:
        a, b = (float(regression["agreement"][i]) for i in (-1, 0))
        parts.append(f"the last kernel answers as the network for {a:.1%} of the points, the first for {b:.1%}")
    if is_known(regression["carried"]):
        a, b = (float(regression["carried"][i]) for i in (-1, 0))
        parts.append(f"{carries(a)}, with the first up to {number(b)}")
    return "; ".join(parts)


def carries(missed: float) -> str:
    """What the last kernel tells of the network on other points, up to a share of the variance of its outputs there."""
    return ("fitting the network’s outputs on the training samples with the last kernel gives those on the other "
            f"points up to {number(missed)} of their variance")


def aligned_when(silent: dict[str, Any], formula: dict[str, float]) -> str:
    """The verdict on silent alignment, with its numbers."""
    verdict, turn = silent["verdict"], number(silent["turn"])
    if verdict == "kept":
        return (f"The kernel kept its direction (it turned by {turn}, 1 − cosine with the last), so there was no "
                "alignment to test.")
    grown = f"its norm grew {silent['growth']:.3g} times over the run"
    if verdict == "no fall":
        return f"The training loss did not fall, so nothing can be said of when it did; {grown}."
    start = {"silent": "Alignment was silent", "along": "The kernel turned while the loss fell",
             "late": "The kernel turned late"}[verdict]
    told = (f"{start}: when 90 % of its turn of {turn} (1 − cosine with the last) was done, at step "
            f"{silent['step']:.0f}, {silent['to_come']:.0%} of the fall of the training loss was still to come; "
            f"{grown}")
    if "last" in formula:
        where = " x" if "last x" in formula else ""
        points = "other points" if where else "the samples"
        last, first = (f"{formula[f'{name}{where}']:.1%} (at most {formula[f'{name}{where} at most']:.1%} on the way)"
                       for name in ("last", "first"))
        told += (f". Gradient flow with the last kernel, scaled, misses {last} of the network’s change on {points}, "
                 f"with the first {first}")
    return f"{told}."
