"""Ctrl-C at a moment that dice choose, for tests of what an interruption leaves."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Keyboard:
    """A hand on Ctrl-C: :meth:`press` presses it soon, once, and again where Python let the press go unheard.

    Python drops an exception that comes up in a callback of its garbage collector, a destructor or a weak reference's
    callback. A loop that waits for its interruption must then be interrupted again, or it never ends.
    """

    def __init__(self, dice: random.Random, least: float, most: float):
        self.dice, self.least, self.most = dice, least, most
        self._pressed = None

    def press(self):
        """Interrupt within ``most`` seconds. Called at each turn of a loop, it presses again after one second."""
        now = time.monotonic()
        if self._pressed is None or now - self._pressed > 1 + self.most:
            self._pressed = now
            signal.setitimer(signal.ITIMER_REAL, self.dice.uniform(self.least, self.most))

    def heard(self):
        """The interruption came; the next :meth:`press` is another one."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._pressed = None


@contextmanager
def keyboard(seed: int, least: float, most: float) -> Iterator[Keyboard]:
    """A :class:`Keyboard` whose presses come ``least`` to ``most`` seconds after they are asked for."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield Keyboard(random.Random(seed), least, most)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
