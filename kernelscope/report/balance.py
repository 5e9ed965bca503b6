r"""A balance sheet in decimal digits that a reader can add up.

Every line is a float64 number, printed with the same number of decimals: enough that the largest line shows 21
significant digits, four more than float64 needs. The line of round-off is what the printed lines leave of the printed
result, so that the column of digits, added by hand, gives the result in its last digit too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

#: Decimals of a line in the larger type; the rest is set in a quieter colour.
LOUD = 4

_exact = Context(prec=400, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True)
class Line:
    """One line of the sheet: its name, its kind, and its digits in a loud and a quiet part."""

    name: str
    kind: str
    head: str
    rest: str


@dataclass(frozen=True)
class Sheet:
    """A balance sheet as it is printed."""

    title: str
    lines: tuple[Line, ...]
    closes: bool
    reason: str
    residual: str
    relative: str

    @property
    def count(self) -> int:
        """How many printed lines are added: all but the result."""
        return len(self.lines) - 1


def sheet(entries: Sequence[tuple[str, str, float]], magnitude: float, title: str = "") -> Sheet:
    """Prints entries (name, kind, value), the second-last of which is the residual and the last the result.

    The residual is computed again from the other entries, in rational numbers; the sheet closes if the given one agrees
    to the last digits of the largest entry, and the printed digits add up.

    Example:
        >>> made = sheet([("start", "initial", 0.1), ("a", "group", 0.2), ("rounding", "residual", 0.0),
        ...               ("end", "final", 0.3)], 0.6)
        >>> made.closes, made.lines[-1].head + made.lines[-1].rest
        (True, '+0.299999999999999988898')
    """
    *terms, (residual_name, _, residual), (final_name, _, final) = entries
    relative = f"{abs(residual) / magnitude:.1e}" if magnitude else "0"
    values = [value for _, _, value in terms] + [final]
    if not all(map(math.isfinite, values)):
        lines = tuple(Line(name, kind, str(value), "") for name, kind, value in entries)
        return Sheet(title, lines, False, "A line is not a finite number.", str(residual), relative)
    largest = max(abs(value) for value in values)
    places = max(LOUD, 20 - (math.floor(math.log10(largest)) if largest else 0))
    printed = [_print(value, places) for value in values]
    left = _exact.subtract(printed[-1], _total(printed[:-1]))
    lines = tuple(_line(name, kind, digits) for (name, kind, _), digits in zip(terms, printed[:-1], strict=True))
    lines = (*lines, _line(residual_name, "total residual", left), _line(final_name, "final", printed[-1]))
    exact = float(Fraction(final) - sum(Fraction(value) for value in values[:-1]))
    agrees = abs(exact - residual) <= 1e-14 * max(magnitude, largest)
    closes = _total([*printed[:-1], left]) == printed[-1] and agrees
    reason = f"The printed lines leave {exact!r}, the ledger says {residual!r}."
    relative = f"{abs(exact) / magnitude:.1e}" if magnitude and exact else "0"
    residual_words = f"{exact:+.1e}" if exact else "0"
    return Sheet(title, lines, closes, reason, residual_words.replace("-", "−"), relative.replace("-", "−"))


def _print(value: float, places: int) -> Decimal:
    return Decimal(value).quantize(Decimal(1).scaleb(-places), context=_exact)


def _total(values: Sequence[Decimal]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _exact.add(total, value)
    return total


def _line(name: str, kind: str, digits: Decimal) -> Line:
    text = f"{digits:+f}" if digits else f"{abs(digits):f}"
    whole, _, decimals = text.replace("-", "−").partition(".")
    return Line(name, kind, f"{whole}.{decimals[:LOUD]}", decimals[LOUD:])
