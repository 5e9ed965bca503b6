"""One kind of fault, its trials, and how a trial ends."""

from __future__ import annotations

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..errors import KernelscopeError


class Silent(Exception):
    """The answer is wrong, and no error said so."""


class Lost(Exception):
    """Something that was acknowledged is gone; ``count`` of them."""

    def __init__(self, message: str, count: int = 1) -> None:
        super().__init__(message)
        self.count = count


class NotTried(Exception):
    """The trial cannot be made here; the message is the reason."""


@dataclass(frozen=True)
class Done:
    """A trial that was survived: by a typed error or not, and what was counted on the way."""

    typed: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


#: What a trial returns that was survived by a typed error which it looked at itself.
TYPED = Done(typed=True)


@dataclass(frozen=True)
class Trial:
    """One fault: what is done, and the function that does it in an empty folder.

    The function returns ``None`` or `Done` where the result equals that without the fault. It raises `Silent`, `Lost`
    or `NotTried`; a `KernelscopeError` that leaves it counts as a typed error, and any other error as broken.
    """

    what: str
    attempt: Callable[[Path], Done | None]


class Row(ABC):
    """One kind of fault. The trials of a row are the same in every process: their place is their seed.

    Example:
        >>> class Division(Row):
        ...     id, sentence = "F0", "Numbers are divided by zero."
        ...     def trials(self):
        ...         for seed in range(3):
        ...             yield Trial(f"division of {seed}", lambda folder: same(1 / 1, 1.0, "the quotient"))
        >>> [trial.what for trial in Division().trials()]
        ['division of 0', 'division of 1', 'division of 2']
    """

    #: "F" and a number.
    id: ClassVar[str]
    #: What happens, in one sentence.
    sentence: ClassVar[str]
    #: The seconds that one trial may take.
    limit: ClassVar[float] = 30.0

    def prepare(self, folder: Path) -> None:  # noqa: B027 - most rows need nothing
        """Makes what all trials need, once in each process; raises `NotTried` where the whole row cannot be tried."""

    @abstractmethod
    def trials(self) -> Iterable[Trial]:
        """Every trial, in an order that never changes."""

    def dice(self, seed: int) -> random.Random:
        """The random numbers of one trial."""
        return random.Random(f"{self.id} {seed}")


def same(found: Any, expected: Any, what: str) -> None:
    """Nothing, where two values are equal.

    Raises:
        Silent: If they are not.
    """
    if found != expected:
        raise Silent(f"{what} is {str(found)[:120]}, and without the fault it was {str(expected)[:120]}")


def refused(error: KernelscopeError) -> Done:
    """What a trial returns that ended in ``error``: a typed error, if its message finishes the sentence.

    Raises:
        AssertionError: If it does not.
    """
    if not finishes(str(error)):
        raise AssertionError(f"the message of {type(error).__name__} does not finish the sentence: {str(error)!r}")
    return TYPED


def finishes(message: str) -> bool:
    """Whether a message says more than what happened: two clauses at least, and not only a few words.

    Example:
        >>> finishes("bad header"), finishes("The header has 3 bytes, and 8 are needed. Restore it from a copy.")
        (False, True)
    """
    return len(message.split()) >= 8 and re.search(r"[.;:,] \S", message) is not None
