"""Long work tells how far it is and how long it will take.

A bar that nobody asked for is drawn on a terminal and in a notebook only, so that no log is filled with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any

from tqdm import tqdm

#: After how many seconds a bar appears that nobody asked for.
AFTER = 3.0


class Bar(tqdm):
    """A bar with a lock of this process alone.

    The lock of tqdm is shared by all processes that were forked from one: where one of them is killed within it, the
    others wait for ever.

    With ``disable=None`` it is shown on a terminal, and in a notebook once the work has taken a second.
    """

    def __init__(self, *args: Any, disable: bool | None = None, delay: float = 0.0, **kwargs: Any):
        if disable is None and in_notebook():
            disable, delay = False, max(delay, 1.0)
        super().__init__(*args, disable=disable, delay=delay, **kwargs)

    def tell(self, words: str) -> None:
        """Puts words behind the bar, which is drawn no earlier and no more often for them."""
        if self.disable:
            return
        self.set_postfix_str(words, refresh=False)
        now: float = self._time()
        if now >= self.start_t + self.delay and now - float(self.last_print_t) >= self.mininterval:
            self.refresh()
            self.last_print_t: float = now


Bar.set_lock(RLock())

_shown: ContextVar[bool | None] = ContextVar("shown", default=None)
_title: ContextVar[str] = ContextVar("title", default="")


def in_notebook() -> bool:
    """Whether somebody sees the output of this process in a notebook, where no stream is a terminal."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


@contextmanager
def telling(shown: bool | None, title: str = "") -> Iterator[None]:
    """Says whether the bars within are shown (where somebody sees them, if ``None``), and what the work is part of."""
    tokens = _shown.set(_shown.get() if shown is None else shown), _title.set(title or _title.get())
    try:
        yield
    finally:
        _shown.reset(tokens[0])
        _title.reset(tokens[1])


@contextmanager
def counting(total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Gives what is told of each part of the work that is done, out of ``total``.

    Example:
        >>> with counting(10, "sum", "term") as done:
        ...     for term in range(10):
        ...         done(1)
    """
    shown = _shown.get()
    title = ", ".join(word for word in (_title.get(), what) if word)
    with Bar(total=total, desc=title, unit=f" {unit}", unit_scale=True, leave=False, delay=0.0 if shown else AFTER,
              disable=None if shown is None else not shown) as bar:
        # What is read to plan the work comes on top of it.
        yield lambda count: bar.update(min(count, total - bar.n)) and None
