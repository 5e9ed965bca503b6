"""What came of a call that was given something wrong, as a trial ends."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import KernelscopeError
from .row import TYPED, Done, Row, Silent, Trial, finishes

#: A name, and a function that ends as a trial does.
Case = tuple[str, Callable[[], Done | None]]


class Cases(Row):
    """A row whose trials need no folder."""

    @abstractmethod
    def cases(self) -> Iterable[Case]:
        """The name of each trial, and what is done."""

    def trials(self) -> Iterator[Trial]:
        """The cases in their order."""
        for name, attempt in self.cases():
            yield Trial(name, partial(_in_no_folder, attempt))


def _in_no_folder(attempt: Callable[[], Done | None], folder: Path) -> Done | None:
    return attempt()


def must_refuse(call: Callable[[], Any], *kinds: type[Exception], naming: tuple[str, ...] = ()) -> Done:
    """A call that must end in one of these errors, whose sentence has one of the words; an answer is silent.

    Raises:
        Silent: If the call has an answer.
        AssertionError: If the sentence does not say what is wrong.
    """
    right = kinds or (KernelscopeError,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = call()
    except right as error:
        said = str(error)
        if naming and not any(word.lower() in said.lower() for word in naming):
            raise AssertionError(f"{type(error).__name__} names none of {', '.join(naming)}: {said}") from error
        if isinstance(error, KernelscopeError) and not finishes(said):
            raise AssertionError(f"{type(error).__name__} does not finish its sentence: {said}") from error
        return TYPED
    raise Silent(f"answered with a {type(answer).__name__}")


def must_hold(find: Callable[[], bool | str]) -> None:
    """What must be found: True; anything else is a sentence that says what is not so, and silent.

    Raises:
        Silent: If it does not hold.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find()
    if found is not True:
        raise Silent(str(found))
