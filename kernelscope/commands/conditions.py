"""Conditions that make a command fail: a measure, a comparison, a number."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from ..errors import DataError
from ..text import with_minus

#: How a condition is written.
FORM = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)(\.(?P<end>\w+))?\s*(?P<sign>[<>]=?)\s*(?P<limit>\S+)\s*")

#: The ends of an interval.
ENDS = ("low", "high")


class Measured(Protocol):
    """A number with an interval, NaN where they are not known, and why not."""

    @property
    def value(self) -> float:
        """The number."""

    @property
    def low(self) -> float:
        """The lower end of its interval."""

    @property
    def high(self) -> float:
        """The upper end."""

    @property
    def why(self) -> str:
        """Why the number is not known."""


@dataclass(frozen=True)
class Verdict:
    """What became of a condition: the number it was about, whether the command fails by it, and why in words."""

    condition: str
    value: float | None
    fails: bool
    text: str


@dataclass(frozen=True)
class Condition:
    """A condition: ``name < limit``, or of an end of the interval, ``name.low < limit``."""

    name: str
    end: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.name}{f'.{self.end}' if self.end else ''} {self.sign} {self.limit:g}"

    def judged(self, measures: Mapping[str, Measured]) -> Verdict:
        """Whether it holds; what is not known cannot be judged, and fails."""
        found = measures[self.name]
        value = getattr(found, self.end or "value")
        if math.isnan(value):
            why = f"{self.name} is not known ({found.why or 'it is not a number'})" if math.isnan(found.value) else (
                f"{self.name} is {found.value:.4g} and has no interval")
            return Verdict(str(self), None, True, f"FAILED  {self}: it cannot be judged, since {why}.")
        holds = {"<": value < self.limit, "<=": value <= self.limit, ">": value > self.limit,
                 ">=": value >= self.limit}[self.sign]
        shown = f"{self.name}{f'.{self.end}' if self.end else ''} is {value:.4g}"
        if not self.end and not math.isnan(found.low):
            shown += f" ({found.low:.4g} to {found.high:.4g})"
        elif self.end:
            shown += f" ({self.name} is {found.value:.4g})"
        text = f"{'FAILED' if holds else 'passed'}  {self}: {shown}."
        return Verdict(str(self), value, holds, with_minus(text))


def condition_arguments(parser: argparse.ArgumentParser) -> None:
    """What a command takes that can be told to fail."""
    parser.add_argument("--fail-if", action="append", default=[], metavar="CONDITION",
                        help='end with exit code 1 if a measure is so, for example --fail-if "cka < 0.9"; of an '
                             'interval an end is taken by "cka.low < 0.8"; may come several times')


def parsed(words: Iterable[str], known: Iterable[str]) -> list[Condition]:
    """Conditions as they were written.

    Args:
        words: The conditions.
        known: The measures there are.

    Raises:
        DataError: If one is no condition, or about no measure.

    Example:
        >>> [str(condition) for condition in parsed(["cka.low<0.80"], ["cka"])]
        ['cka.low < 0.8']
    """
    return [_parsed(word, list(known)) for word in words]


def _parsed(word: str, known: list[str]) -> Condition:
    found = FORM.fullmatch(word)
    if found is None:
        raise DataError(f"--fail-if takes a measure, one of <, <=, > and >=, and a number; {word!r} came. Write for "
                        f'example --fail-if "{known[0]} < 0.9".')
    name, end = found["name"], found["end"] or ""
    if name not in known:
        near = get_close_matches(name, known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"There is no measure {name!r}.{meant} The measures are {', '.join(known)}.")
    if end and end not in ENDS:
        raise DataError(f"An interval has the ends {name}.low and {name}.high; {name}.{end} came in {word!r}. Write "
                        f"one of them, or {name} alone.")
    try:
        limit = float(found["limit"])
    except ValueError:
        limit = math.nan
    if not math.isfinite(limit) or "_" in found["limit"]:
        raise DataError(f"A condition ends with a finite number, written like 0.9; {found['limit']!r} came in "
                        f'{word!r}. Write for example --fail-if "{name} < 0.9".')
    return Condition(name, end, found["sign"], limit)


def plain(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as plain data."""
    return [{"condition": one.condition, "value": one.value, "fails": one.fails, "text": one.text} for one in verdicts]
