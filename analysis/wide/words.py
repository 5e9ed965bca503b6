"""Sentences computed from learning curves: which kernel wins, and where a difference is within its interval."""

import kernelscope as ks

NULLS = ("Laplacian", "Gaussian", "nearest")


def by_measure(found: ks.LearningCurves) -> str:
    """The best kernel against the best null by each measure, and NNGP against NTK of each network."""
    wide, null = ([name for name in found.names if (name in NULLS) == side] for side in (False, True))
    n, parts = last(found, found.names), []
    for measure in found.errors:
        one, other = (found[side].best(measure, n)[0] for side in (wide, null))
        what = "by the squared error" if measure == "error" else "by wrong classes"
        parts.append(f"With {n:,} samples, {what}, the best kernel of a network against the best null: "
                     f"{against(found, one, other, n, measure)}.")
    said = []
    for net in [name.removesuffix(" NNGP") for name in found.names if name.endswith(" NNGP")]:
        one, other = f"{net} NTK", f"{net} NNGP"
        lead = found.exponent(one, other)
        said.append(f"{against(found, one, other, last(found, [one, other]))}, their exponents differ by {lead}"
                    f"{'' if lead.apart else ', which may be nothing'}")
    return " ".join([*parts, f"NTK against NNGP: {'; '.join(said)}."])


def by_copies(found: ks.LearningCurves, copied: str) -> str:
    """What copies bring to each kernel, at the largest number of samples that it was fitted to with and without."""
    parts = []
    for measure in found.errors:
        said, level = [], []
        for name in found.names:
            one = f"{name} ({copied})"
            if one in found.names and shared(found, [one, name]):
                n = last(found, [one, name])
                ratio = found.ratio(one, name, n, measure)
                said.append(f"{name} {ratio} at {n:,}")
                level += [name] if ratio.low <= 1 <= ratio.high else []
        what = "squared errors" if measure == "error" else "shares of wrong classes"
        parts.append(f"With copies {what} are so many times those without: {'; '.join(said)}."
                     + (f" Within its interval that may be nothing for {', '.join(level)}." if level else ""))
    return " ".join(parts)


def by_way(found: ks.LearningCurves, copied: str, averaged: str) -> str:
    """Averages against copies: errors on the same samples, and the seconds of all entries and all fits."""
    parts = []
    for one in [name for name in found.names if name.endswith(f" ({averaged})")]:
        name = one.removesuffix(f" ({averaged})")
        other = f"{name} ({copied})"
        n = last(found, [one, other])
        costs = [found.costs[found.names.index(full)].tolist() for full in (one, other)]
        seconds = [f"{cost[0]:.3g} s of entries and {cost[1]:.3g} s of fits" for cost in costs]
        parts.append(f"With {n:,} digits: {against(found, one, other, n)}; against the digits alone, the average has "
                     f"{found.ratio(one, name, n)} and the copies {found.ratio(other, name, n)} times the error. The "
                     f"average took {seconds[0]}, the copies {seconds[1]}.")
    return " ".join(parts)


def against(found: ks.LearningCurves, one: str, other: str, n: int, measure: str = "error") -> str:
    """One kernel against another one."""
    ratio = found.ratio(one, other, n, measure)
    if ratio.low <= 1 <= ratio.high:
        return f"{one} and {other} are level: the one has {ratio} times the error of the other"
    return f"{one} {'beats' if ratio.high < 1 else 'loses to'} {other}: it has {ratio} times the error"


def last(found: ks.LearningCurves, names: list[str]) -> int:
    """The largest number of samples that all of them were fitted to."""
    return shared(found, names)[-1]


def shared(found: ks.LearningCurves, names: list[str]) -> list[int]:
    """The numbers of samples that all of them were fitted to."""
    there = ~found[names].mean().isnan().any(0)
    return [n for n, fitted in zip(found.samples, there.tolist(), strict=True) if fitted]
