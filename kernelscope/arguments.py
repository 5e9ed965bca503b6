"""Arguments as they are meant, or a sentence that says what was needed.

A path, a yes or no, a count, a place among several: what is asked of them is the same wherever they come in.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from .errors import DataError, OutOfRange


def what_came(value: Any) -> str:
    """A value in a sentence: itself where it is plain and short, else what it is.

    Example:
        >>> what_came("no"), what_came([1, 2]), what_came(int)
        ("'no'", 'a list', 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    plain = value is None or isinstance(value, str | bytes | bool | int | float)
    kind = type(value).__name__
    return repr(value) if plain and len(repr(value)) <= 80 else f"a{'n' * (kind[0] in 'aeiouAEIO')} {kind}"


def as_whole(value: Any) -> int | None:
    """A whole number, from whatever stands for one; ``None`` from anything else, and from True and False."""
    if isinstance(value, bool | type):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def as_path(value: Any, what: str, such_as: str) -> Path:
    """A path.

    Args:
        value: What was given.
        what: What the path is of, in a few words.
        such_as: How one would be written.

    Raises:
        DataError: If it is no path, or an empty one.
    """
    if isinstance(value, str) and value or hasattr(value, "__fspath__") and not isinstance(value, type):
        try:
            return Path(value)
        except TypeError:
            pass  # a path made of bytes
    came = "an empty one" if isinstance(value, str) and not value else what_came(value)
    raise DataError(f"{what} must be a path, as text or a pathlib.Path; {came} came. Pass for example {such_as}.")


def as_switch(value: Any, name: str) -> bool:
    """A yes or no.

    Raises:
        DataError: If it is neither: a word such as "no" would count as yes.
    """
    if not isinstance(value, bool):
        raise DataError(f"{name} must be True or False; {what_came(value)} came. Pass {name}=True or {name}=False.")
    return value


def as_choice(value: Any, name: str, choices: Iterable[str]) -> str:
    """One of some words.

    Raises:
        DataError: If it is none of them.
    """
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        words = " or ".join(f'"{word}"' for word in known)
        raise DataError(f'{name} must be {words}; {what_came(value)} came. Pass {name}="{known[0]}", the usual one.')
    return value


def as_count(value: Any, name: str, least: int = 0) -> int:
    """How many of something.

    Raises:
        DataError: If it is no whole number, or too small a one.
    """
    number = as_whole(value)
    if number is None or number < least:
        raise DataError(
            f"{name} must be a whole number from {least} on; {what_came(value)} came. Pass for example {name}=8."
        )
    return number


def as_seed(value: Any, name: str = "seed") -> int:
    """What a generator of random numbers begins with.

    Raises:
        DataError: If it is no whole number that a generator takes.
    """
    number = as_whole(value)
    if number is None or not 0 <= number < 2**63:
        raise DataError(
            f"{name} must be a whole number from 0 to 2^63 - 1; {what_came(value)} came. Pass for example {name}=0."
        )
    return number


def as_part(value: Any, name: str, such_as: str) -> float:
    """A number between 0 and 1, both excluded.

    Raises:
        DataError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise DataError(f"{name} must be a number between 0 and 1; {what_came(value)} came. Pass for example "
                        f"{name}={such_as}.")
    return float(value)


def as_positive(value: Any, name: str, such_as: str = "1.0") -> float:
    """A number above 0, and finite.

    Raises:
        DataError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise DataError(f"{name} must be a positive number; {what_came(value)} came. Pass for example "
                        f"{name}={such_as}.")
    return float(value)


def as_finite(value: Any, name: str, such_as: str = "0.0") -> float:
    """A number, neither NaN nor infinite.

    Raises:
        DataError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        raise DataError(f"{name} must be a finite number; {what_came(value)} came. Pass for example {name}={such_as}.")
    return float(value)


def as_place(value: Any, name: str, count: int, things: str) -> int:
    """The place of one among several, from 0 on; negative numbers count from the end.

    Raises:
        OutOfRange: If there are not so many.
        DataError: If it is no whole number.
    """
    number = as_whole(value)
    if number is None:
        raise DataError(
            f"{name} must be a whole number, the place of one of the {things}; {what_came(value)} came. "
            f"Pass one from 0 to {count - 1}."
        )
    if not -count <= number < count:
        there = f"there are {count} {things}, numbered 0 to {count - 1}" if count else f"there are no {things}"
        raise OutOfRange(f"{name}={what_came(value)} was asked for, and {there}. Pass one of these numbers.")
    return number % count


def as_function(value: Any, name: str, takes: str, of: str = "batch") -> Any:
    """Something that can be called, of arguments with the names ``of``.

    Raises:
        DataError: If it cannot.
    """
    if not callable(value):
        raise DataError(f"{name} must be a function {takes}; {what_came(value)} came. Pass for example {name}=lambda "
                        f"{of}: ..., or leave it out.")
    return value
