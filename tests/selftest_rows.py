"""Rows that are wrong on purpose: the battery must say so of each."""

import os
import signal
import time

from kernelscope.errors import DataError
from kernelscope.selftest import Done, Lost, NotTried, Row, Silent, Trial, same


def sum_of(numbers):
    """A function that is wrong about 3, and nobody hears of it."""
    return sum(numbers) + (3 in numbers)


class Wrong(Row):
    id, sentence = "F1", "A sum is silently wrong for one of four inputs."

    def trials(self):
        for seed in range(4):
            yield Trial(f"the sum of {seed} and 1",
                        lambda folder, seed=seed: same(sum_of([seed, 1]), seed + 1, "the sum"))


class Bare(Row):
    id, sentence = "F2", "Errors that nobody typed, or that say too little."

    def trials(self):
        def bare(folder):
            raise RuntimeError("out of luck")

        def short(folder):
            raise DataError("bad input")

        def typed(folder):
            raise DataError("x has 3 rows, and 4 were needed. Pass as many rows as targets.")

        for what, attempt in [("bare", bare), ("short", short), ("typed", typed)]:
            yield Trial(what, attempt)


class Hanging(Row):
    id, sentence, limit = "F3", "A trial that does not end, after one that starts a process that does not.", 1.0

    def trials(self):
        def child(folder):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)

        yield Trial("child", child)
        yield Trial("hang", lambda folder: time.sleep(600))
        yield Trial("end", lambda folder: None)


class Dying(Row):
    # What an earlier trial started may hold the line open.
    id, sentence, limit = "F4", "A trial that takes its process with it.", 2.0

    def trials(self):
        yield Trial("segfault", lambda folder: os.kill(os.getpid(), signal.SIGSEGV))
        yield Trial("exit", lambda folder: os._exit(0))
        yield Trial("leaving", lambda folder: exit(0))
        yield Trial("ctrl-c", lambda folder: os.kill(os.getpid(), signal.SIGINT))
        yield Trial("end", lambda folder: None)


class Losing(Row):
    id, sentence = "F5", "Acknowledged steps are gone."

    def trials(self):
        def lose(folder):
            raise Lost("three steps are gone", 3)

        yield Trial("losing", lose)
        yield Trial("counting", lambda folder: Done(counts={"reads": 7}))


class Elsewhere(Row):
    id, sentence = "F6", "A trial that needs another machine."

    def trials(self):
        def need(folder):
            raise NotTried("there is no GPU here")

        yield Trial("on a GPU", need)


class Nowhere(Row):
    id, sentence = "F7", "A row that cannot be prepared here."

    def prepare(self, folder):
        raise NotTried("this is not the moon")

    def trials(self):
        yield Trial("flying", lambda folder: None)


class Broken(Row):
    id, sentence = "F8", "A row that cannot even be prepared."

    def prepare(self, folder):
        raise Silent("the unfaulted run is wrong already")

    def trials(self):
        yield Trial("nothing", lambda folder: None)


class Writing(Row):
    id, sentence = "F9", "Files in the trial's folder, and what is left of them."

    def trials(self):
        def write(folder):
            same(list(folder.iterdir()), [], "what another trial left")
            (folder / "file").write_text("x")
            (folder / "locked").mkdir()
            (folder / "locked" / "file").write_text("x")
            (folder / "locked").chmod(0)
            print("a trial may print")  # noqa: T201
            return Done(counts={"from": len(str(folder).split("kernelscope-selftest-")) - 1})

        for _ in range(5):
            yield Trial("writing", write)


ROWS = (Writing, Wrong, Bare, Hanging, Dying, Losing, Elsewhere, Nowhere, Broken)
