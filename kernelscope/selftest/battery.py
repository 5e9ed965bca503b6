"""The battery: rows whose trials are made in processes of their own, so that a crash or a hang ends a trial only."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import as_count
from ..errors import DataError
from ..progress import Bar
from .rows import FAMILIES, known_rows
from .worker import Worker

if TYPE_CHECKING:
    import pandas as pd

    from .row import Row

#: How many equal parts of the time that is left a row may take.
PARTS = 4.0
SURVIVED, TYPED, BROKEN, SILENT, NOT_TRIED = "survived", "typed", "broken", "silent", "not tried"


@dataclass(frozen=True)
class Ending:
    """How one trial ended."""

    row: str
    seed: int
    what: str
    outcome: str
    message: str
    seconds: float
    lost: int
    counts: dict[str, int]


@dataclass(frozen=True)
class RowEnding:
    """How the trials of one row ended: how many there are, how long they took together, and the ending of each."""

    id: str
    sentence: str
    size: int
    seconds: float
    endings: tuple[Ending, ...]

    def count(self, *outcomes: str) -> int:
        """How many trials ended so."""
        return sum(ending.outcome in outcomes for ending in self.endings)

    @property
    def tried(self) -> int:
        """How many trials were made."""
        return len(self.endings) - self.count(NOT_TRIED)

    @property
    def lost(self) -> int:
        """How many acknowledged things are gone."""
        return sum(ending.lost for ending in self.endings)

    def numbers(self) -> dict[str, Any]:
        """The row of the table."""
        counts: dict[str, int] = {}
        for ending in self.endings:
            for name, number in ending.counts.items():
                counts[name] = counts.get(name, 0) + number
        return {"id": self.id, "tried": self.tried, "survived": self.count(SURVIVED, TYPED),
                "typed_error": self.count(TYPED), "broken": self.count(BROKEN), "silent": self.count(SILENT),
                "lost": self.lost, "not_tried": self.size - self.tried, "seconds": round(self.seconds, 2),
                "counts": counts, "sentence": self.sentence}


@dataclass(frozen=True)
class Battery:
    """How the rows ended; ``ok`` where nothing is silent or broken. ``stopped`` says why it ended early, if it did."""

    rows: tuple[RowEnding, ...]
    seconds: float
    stopped: str = ""

    @property
    def ok(self) -> bool:
        """Whether every trial was survived."""
        return not any(row.count(SILENT, BROKEN) for row in self.rows)

    def endings(self, *outcomes: str) -> list[Ending]:
        """The trials that ended so."""
        return [ending for row in self.rows for ending in row.endings if ending.outcome in outcomes]

    def total(self) -> dict[str, Any]:
        """The sums over all rows."""
        rows = [row.numbers() for row in self.rows]
        return {name: sum(row[name] for row in rows)
                for name in ("tried", "survived", "typed_error", "broken", "silent", "lost", "not_tried")}

    def to_frame(self) -> pd.DataFrame:
        """One line for each row."""
        import pandas as pd

        return pd.DataFrame([row.numbers() for row in self.rows])

    def reasons(self) -> dict[str, int]:
        """Why trials were not made, and how many."""
        found: dict[str, int] = {}
        for ending in self.endings(NOT_TRIED):
            found[f"{ending.row}: {ending.message}"] = found.get(f"{ending.row}: {ending.message}", 0) + 1
        return found

    def summary(self) -> str:
        """The battery in one sentence."""
        t = self.total()
        return (f"{t['tried']:,} trial{'s' * (t['tried'] != 1)}, {t['survived']:,} survived "
                f"({t['typed_error']:,} of them with a typed error), "
                f"{t['broken']:,} broken, {t['silent']:,} silent, {t['lost']:,} lost, in {self.seconds:.0f} s.")

    def __repr__(self) -> str:
        return self.summary()


def run_battery(only: Sequence[str] = (), *, seed: int | None = None, minutes: float | None = None,
                share: float = 1.0, workers: int = 2, rows: str = FAMILIES, progress: bool | None = None,
                limit: float | None = None) -> Battery:
    """Tries the rows on this machine, in processes of their own and in a temporary folder.

    Args:
        only: The rows to try, by their ids; all if empty.
        seed: One trial of each of them, by its place.
        minutes: The time it may take. Each row gets its part of it, and tries a fair sample of its trials.
        share: The part of the trials of each row that is tried, at least one.
        workers: How many trials are made at once.
        rows: The module that lists the rows.
        progress: Whether a bar is shown; on a terminal or in a notebook, if ``None``.
        limit: The seconds of one trial, instead of those of its row.

    Returns:
        How every trial ended. Ctrl-C ends it early, and what was done is returned.

    Raises:
        DataError: If there is no such row or no such trial.
    """
    chosen = _chosen(known_rows(rows), only)
    as_count(workers, "workers", 1)
    began, done, stopped = time.monotonic(), [], ""
    end = None if minutes is None else began + 60 * minutes
    folder = Path(tempfile.mkdtemp(prefix="kernelscope-selftest-"))
    crew = [Worker(folder / f"worker-{place}", rows) for place in range(workers)]
    try:
        for place, row in enumerate(chosen):
            now = time.monotonic()
            # Most rows take far less than an equal part, and a few take more.
            until = None if end is None else now + max(0.0, end - now) * min(1.0, PARTS / (len(chosen) - place))
            turn = _Turn(row, crew, limit or row.limit, until)
            try:
                turn.run(seed, share, progress)
            except KeyboardInterrupt:
                stopped = "Ctrl-C ended the battery; this is what was done before."
            done.append(turn.ended())
            if stopped:
                break
    finally:
        for worker in crew:
            worker.stop()
        _remove(folder)
    return Battery(tuple(done), time.monotonic() - began, stopped)


class _Turn:
    """One row, whose trials are handed to the workers one by one."""

    def __init__(self, row: Row, crew: list[Worker], limit: float, until: float | None) -> None:
        self.row, self.crew, self.limit, self.until = row, crew, limit, until
        self.began, self.endings, self.size = time.monotonic(), list[Ending](), 0
        self.lock, self.left, self.leaving = threading.Lock(), list[int](), False
        self.failure: BaseException | None = None

    def run(self, seed: int | None, share: float, progress: bool | None) -> None:
        """Makes the trials; ``Ctrl-C`` leaves those that were made."""
        opening = self.crew[0].ask(self.row.id, None, self.limit)
        if "size" not in opening:
            self.size = 1
            self.endings.append(self._ending(-1, opening))
            return
        self.size = opening["size"]
        if seed is not None and not 0 <= seed < self.size:
            raise DataError(f"{self.row.id} has {self.size} trials, and seed {seed} was asked for. Pass one from 0 to "
                            f"{self.size - 1}.")
        order = random.Random(self.row.id).sample(range(self.size), self.size)
        # A fair sample of a row is the beginning of one order that never changes.
        self.left = ([seed] if seed is not None else order[: max(1, round(share * self.size))])[::-1]
        bar = Bar(total=len(self.left), desc=f"{self.row.id}  {self.row.sentence[:60]}", unit=" trials", leave=False,
                  disable=None if progress is None else not progress)
        threads = [threading.Thread(target=self._work, args=(worker, bar), daemon=True)
                   for worker in self.crew[: len(self.left)]]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
        except KeyboardInterrupt:
            self.leaving = True
            for worker in self.crew:
                worker.stop()
            raise
        finally:
            bar.close()
        if self.failure is not None:
            raise self.failure

    def ended(self) -> RowEnding:
        """How it ended."""
        endings = tuple(sorted(self.endings, key=lambda ending: ending.seed))
        return RowEnding(self.row.id, self.row.sentence, self.size, time.monotonic() - self.began, endings)

    def _work(self, worker: Worker, bar: Any) -> None:
        try:
            while not self.leaving:
                with self.lock:
                    if not self.left or (self.until is not None and time.monotonic() > self.until):
                        return
                    seed = self.left.pop()
                answer = worker.ask(self.row.id, seed, self.limit)
                with self.lock:
                    if not self.leaving:
                        self.endings.append(self._ending(seed, answer))
                        bar.update(1)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self.failure = error

    def _ending(self, seed: int, answer: dict[str, Any]) -> Ending:
        return Ending(self.row.id, seed, answer.get("what", "preparing"), answer["outcome"], answer.get("message", ""),
                      answer.get("seconds", 0.0), answer.get("lost", 0), answer.get("counts", {}))


def _chosen(known: dict[str, Row], only: Iterable[str]) -> list[Row]:
    wanted = [name.strip().upper() for name in only]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise DataError(f"There is no row {unknown[0]!r} in the battery. Its rows are {', '.join(known)}.")
    return [row for name, row in known.items() if not wanted or name in wanted]


def _remove(folder: Path) -> None:
    """Removes a folder, also where a trial took its own rights away."""

    def again(function: Any, path: str, _: Any) -> None:
        for place in (Path(path).parent, Path(path)):
            if not place.is_symlink() and place.exists():
                place.chmod(0o700)
        function(path)

    options: Any = {"onexc": again} if sys.version_info >= (3, 12) else {"onerror": again}
    for _ in range(3):
        # A process that is being ended may still write its last file.
        try:
            shutil.rmtree(folder, **options)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.05)
