"""What learning curves say, in words and in tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...text import with_minus

if TYPE_CHECKING:
    import pandas as pd

    from .power_laws import Estimated
    from .result import LearningCurves


def said(result: LearningCurves, measure: str) -> str:
    """Which kernel has the least error, and whose falls fastest."""
    shared = result.shared(measure)
    n, best = result.samples[shared], result.best(measure, result.samples[shared])
    mean, off = (float(table[result.place(best[0]), shared])
                 for table in (result.mean(measure), result.standard_error(measure)))
    what = "of the variance" if measure == "error" else "of test points"
    parts = [f"with {n:,} samples {best[0]} misses least, {100 * mean:.3g}% ± {100 * off:.2g}% {what}"
             + (f", level with {listed(best[1:])}" if len(best) > 1 else "")]
    fast = fastest(result, measure)
    if fast:
        parts.append(f"the error of {fast[0]} falls fastest, as n to the power "
                     f"{power(result.exponent(fast[0], measure=measure))}"
                     + (f", level with {listed(fast[1:])}" if fast[1:] else ""))
        bent = [name for name in _ruled(result, measure)
                if (bend := result.bend(name, measure)) is not None and bend.apart]
        if bent:
            parts.append(f"no power law, since it bends beyond its interval, is that of {listed(bent)}")
    return "; ".join(parts)


def fastest(result: LearningCurves, measure: str) -> list[str]:
    """The kernel with the largest exponent, and those whose difference from it is within its interval."""
    ruled = sorted(_ruled(result, measure), key=lambda name: -result.exponent(name, measure=measure).value)
    return ruled[:1] + [name for name in ruled[1:] if not result.exponent(ruled[0], name, measure).apart]


def _ruled(result: LearningCurves, measure: str) -> list[str]:
    """The kernels that were fitted to several numbers of samples."""
    return [name for name in result.names if int(result.there(name, measure).sum()) > 1]


def laws(result: LearningCurves, measure: str) -> pd.DataFrame:
    """The exponent, the bend and the floor of each kernel, and what it cost."""
    import pandas as pd

    rows = []
    for i, name in enumerate(result.names):
        row: dict[str, Any] = {"kernel": name, "exponent": math.nan, "low": math.nan, "high": math.nan, "bends": "",
                               "floor": math.nan}
        if int(result.there(name, measure).sum()) > 1:
            found, bend, floor = (result.exponent(name, measure=measure), result.bend(name, measure),
                                  result.floor(name, measure))
            row |= {"exponent": found.value, "low": found.low, "high": found.high,
                    "bends": "" if bend is None or not bend.apart else "flattens" if bend.low > 0 else "steepens",
                    "floor": math.nan if floor is None else floor.value}
        seconds, fits, entries, held = result.costs[i].tolist()
        rows.append(row | {"entries": entries, "seconds": seconds,
                           "entries/s": entries / seconds if seconds else math.nan, "fits, s": fits, "MB": held / 1e6})
    return pd.DataFrame(rows)


def table(result: LearningCurves, measure: str) -> pd.DataFrame:
    """The errors of each kernel by the number of samples, its law, and what it cost, as text."""
    import pandas as pd

    means, offs, found = result.mean(measure), result.standard_error(measure), result.laws(measure)
    rows = []
    for i, row in enumerate(found.to_dict("records")):
        errors = {f"{n:,}": "" if bool(mean.isnan()) else f"{100 * float(mean):.3g} ± {100 * float(off):.2g} %"
                  for n, mean, off in zip(result.samples, means[i], offs[i], strict=True)}
        law = "" if math.isnan(row["exponent"]) else f"{row['exponent']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        rows.append({"kernel": row["kernel"], **errors, "exponent": with_minus(law), "bends": row["bends"],
                     "floor": "" if math.isnan(row["floor"]) else f"{100 * row['floor']:.2g} %",
                     **{name: "" if not row["entries"] and name != "fits, s" else f"{float(f'{row[name]:.3g}'):,g}"
                        for name in ("seconds", "entries/s", "fits, s", "MB")}})
    return pd.DataFrame(rows)


def power(found: Estimated) -> str:
    """An exponent as the power that it is, with its interval.

    Example:
        >>> from kernelscope.diagnostics.curves.power_laws import Estimated
        >>> power(Estimated(0.51, 0.48, 0.55))
        '−0.51 (−0.55 to −0.48)'
    """
    return with_minus(f"{-found.value:.2f} ({-found.high:.2f} to {-found.low:.2f})")


def listed(names: list[str]) -> str:
    """Names in a sentence; of many, three and how many others.

    Example:
        >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
        ('a and b', 'a, b, c and 2 others')
    """
    words = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} others"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
