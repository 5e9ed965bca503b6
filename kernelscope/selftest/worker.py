"""A process that makes trials: asked for one in a line of JSON, it answers in another.

The process that asks gives it a time limit, and ends it, with all that it started, where it says nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

#: The seconds that loading and preparing may take.
LOADING = 60.0
PACKAGE = str(Path(__file__).resolve().parents[2])


class Worker:
    """The other end: starts the process when it is first asked, and again after it was ended."""

    def __init__(self, folder: Path, rows: str) -> None:
        self.folder, self.rows = folder, rows
        self.process: subprocess.Popen[str] | None = None
        self._row = ""

    def ask(self, row: str, seed: int | None, limit: float) -> dict[str, Any]:
        """How the trial ended; without a seed, or where the row cannot be prepared, how preparing it did."""
        if self.process is None or row != self._row or seed is None:
            # Loading and preparing come before the trial, and not out of its time.
            ready = self._exchange({"row": row}, limit + LOADING)
            if seed is None or "size" not in ready:
                return ready
            self._row = row
        return self._exchange({"row": row, "seed": seed}, limit)

    def _exchange(self, question: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer to one question, or that the process hung or ended."""
        process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            _end(process)

        watch = threading.Timer(limit, end)
        watch.start()
        began, line = time.monotonic(), ""
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            pass  # the process has gone, which is told below
        finally:
            watch.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        self.stop()
        ended = f"its process ended, code {process.returncode}"
        said = f"it did not end within {limit:g} s" if late.is_set() else ended
        return {"outcome": "broken", "message": f"{said}. {self._last_words()}".strip(), "what": self._what(question),
                "seconds": time.monotonic() - began}

    def stop(self) -> None:
        """Ends the process, and what it started."""
        process, self.process = self.process, None
        if process is not None:
            _end(process)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not yet written goes nowhere
                    assert pipe is not None
                    pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        path = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder),
                       "PYTHONFAULTHANDLER": "1", "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
        with (self.folder / "words").open("w") as words:
            # Ctrl-C is for the one who asks; what the process starts is ended with it.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kernelscope.selftest.worker", self.rows, str(self.folder)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=environment, cwd=self.folder,
                start_new_session=True)
        return self.process

    def _last_words(self) -> str:
        with suppress(OSError):
            return (self.folder / "words").read_text(errors="replace")[-600:]
        return ""

    def _what(self, question: dict[str, Any]) -> str:
        with suppress(OSError):
            return (self.folder / "what").read_text(errors="replace")
        return f"trial {question.get('seed')}"


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def serve(rows: str, folder: Path) -> None:
    """Answers questions until nobody asks any more."""
    # What a trial prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from .row import Trial
    from .rows import known_rows

    # Waiting for the disk would take most of the time; what its neglect costs is tried with a model of a disk.
    os.fsync = lambda fd: None
    known = known_rows(rows)
    row, trials, place = None, [], folder / "row"
    for line in sys.stdin:
        question = json.loads(line)
        answer: dict[str, Any] = {}
        if question["row"] != row:
            row = None
            _empty(place)
            answer = attempted(partial(known[question["row"]].prepare, _made(place / "ground")))
            if answer["outcome"] == "survived":
                row, trials = question["row"], list(known[question["row"]].trials())
        if row is not None and "seed" in question:
            inner = place / str(question["seed"])
            trial = trials[question["seed"]] if question["seed"] < len(trials) else Trial("none", _missing)
            (folder / "what").write_text(trial.what, errors="replace")
            answer = attempted(partial(trial.attempt, _made(inner)))
            answer["what"] = trial.what
            _empty(inner)
        elif row is not None:
            answer = {"size": len(trials)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _missing(folder: Path) -> None:
    raise RuntimeError("the row gives fewer trials in this process than in another")


def attempted(trial: Any) -> dict[str, Any]:
    """How a function ended, in the words of the battery."""
    from ..errors import KernelscopeError
    from .row import Done, Lost, NotTried, Silent, refused

    began = time.monotonic()
    answer: dict[str, Any] = {"outcome": "survived"}
    try:
        try:
            done = trial() or Done()
        except KernelscopeError as error:
            done = refused(error)
            answer["message"] = f"{type(error).__name__}: {error}"
        answer |= {"outcome": "typed" if done.typed else "survived", "counts": dict(done.counts)}
    except NotTried as reason:
        answer = {"outcome": "not tried", "message": str(reason)}
    except Silent as wrong:
        answer = {"outcome": "silent", "message": str(wrong)}
    except Lost as gone:
        answer = {"outcome": "broken", "message": str(gone), "lost": gone.count}
    except BaseException as error:  # noqa: BLE001 - whatever is not typed is what the battery looks for
        where = traceback.extract_tb(error.__traceback__)[-1:]
        at = f" ({Path(where[0].filename).name}:{where[0].lineno})" if where else ""
        answer = {"outcome": "broken", "message": f"{type(error).__name__}: {str(error)[:800]}{at}"}
    answer["seconds"] = time.monotonic() - began
    return answer


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
