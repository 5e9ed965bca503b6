"""Sentences computed from learning curves: which kernel wins, and where a difference is within its interval."""

import kernelscope as ks

NULLS = ("Laplacian", "Gaussian", "nearest")


def by_measure(found: ks.LearningCurves) -> str:
    """The best kernel by each measure, the best null beside it, and NNGP against NTK of each network."""
    parts = []
    for measure in found.errors:
        said = found.said(measure)
        what = "By wrong classes, " if measure == "wrong" else ""
        parts.append(f"{what}{said[0].upper() + said[1:] if not what else said}.")
        wide, null = ([name for name in found.names if (name in NULLS) == side] for side in (False, True))
        n = last(found, found.names)
        one, other = (found[side].best(measure, n)[0] for side in (wide, null))
        parts.append(f"With {n:,} samples {against(found, one, other, n, measure)}.")
    nets = [name.removesuffix(" NNGP") for name in found.names if name.endswith(" NNGP")]
    for net in nets:
        one, other = f"{net} NTK", f"{net} NNGP"
        lead = found.exponent(one, other)
        parts.append(f"{against(found, one, other, last(found, [one, other]))}; their exponents differ by {lead}"
                     f"{'' if lead.apart else ', which may be nothing'}.")
    return " ".join(part[0].upper() + part[1:] if not part.startswith(("fc", "cnn", "myrtle")) else part
                    for part in parts)


def by_copies(found: ks.LearningCurves, once: str, copied: str) -> str:
    """What copies bring to each kernel, at the largest number of samples that both were fitted to."""
    parts = []
    for name in [name.removeprefix(f"{once}, ") for name in found.names if name.startswith(f"{once}, ")]:
        one, other = f"{copied}, {name}", f"{once}, {name}"
        if one in found.names and shared(found, [one, other]):
            n = last(found, [one, other])
            parts.append(f"{name} at {n:,}: {times(found, one, other, n)}")
    return f"With the copies errors are so many times those without: {'; '.join(parts)}."


def by_way(found: ks.LearningCurves, copied: str, averaged: str) -> str:
    """Averages against copies: errors on the same samples, and the seconds of all entries and all fits."""
    parts = []
    for name in [name.removeprefix(f"{averaged}, ") for name in found.names if name.startswith(f"{averaged}, ")]:
        one, other = f"{averaged}, {name}", f"{copied}, {name}"
        n = last(found, [one, other])
        costs = [found.costs[found.names.index(full)] for full in (one, other)]
        seconds = [f"{float(cost[0]):.3g} s of entries and {float(cost[1]):.3g} s of fits" for cost in costs]
        parts.append(f"{against(found, one, other, n)} with {n:,} digits; the average took {seconds[0]}, the copies "
                     f"{seconds[1]}.")
    return " ".join(parts)


def against(found: ks.LearningCurves, one: str, other: str, n: int, measure: str = "error") -> str:
    """One kernel against another one."""
    ratio = found.ratio(one, other, n, measure)
    if ratio.low <= 1 <= ratio.high:
        return f"{one} and {other} are level: the one has {ratio} times the error of the other"
    return f"{one} {'beats' if ratio.high < 1 else 'loses to'} {other}: it has {ratio} times the error"


def times(found: ks.LearningCurves, one: str, other: str, n: int) -> str:
    """By how much an error is multiplied, by each measure."""
    said = []
    for measure in found.errors:
        ratio = found.ratio(one, other, n, measure)
        word = "" if measure == "error" else " (wrong classes)"
        said.append(f"{ratio}{word}{'' if not ratio.low <= 1 <= ratio.high else ', which may be nothing'}")
    return ", ".join(said)


def last(found: ks.LearningCurves, names: list[str]) -> int:
    """The largest number of samples that all of them were fitted to."""
    return shared(found, names)[-1]


def shared(found: ks.LearningCurves, names: list[str]) -> list[int]:
    """The numbers of samples that all of them were fitted to."""
    there = ~found[names].mean().isnan().any(0)
    return [n for n, fitted in zip(found.samples, there.tolist(), strict=True) if fitted]
