"""A training script, recorded as it is."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, RecordingError
from . import Answer
from .opening import maker
from .scripts import Watched, run_as_main, shown

if TYPE_CHECKING:
    from ..run.autorecord import AutoRecording
    from ..run.run import Run

HELP = "run a training script as it is, and record what it does"
DETAILS = (
    "The script is run in this process, as python SCRIPT would run it. Words after it are its own, but for those of "
    "this command that follow it at once, as in: kernelscope record train.py -o runs/a --epochs 3"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a folder, a script, and the words of the script."""
    parser.epilog = DETAILS
    _own(parser)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file")
    words = parser.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="the words of the script")
    words.required = False  # some versions of Python ask for them when the script is missing


def _own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where the run goes (default: runs/NAME-OF-SCRIPT)")
    parser.add_argument("--keep", default="all", metavar="WHAT",
                        help="which parameters to store: all, a number k for every k-th step, or a size such as 200MB")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is there")


def run(options: argparse.Namespace) -> Answer:
    """Runs the script and says what was recorded."""
    words = _peel(options)
    script = Path(options.script)
    if not script.is_file():
        raise DataError(f"There is no script {options.script}. Name a Python file.")
    out = Path(options.out or Path("runs") / script.stem)
    if not options.overwrite and (out / "manifest.json").exists():
        late = next((word for word in words if word.split("=")[0] in ("-o", "--out", "--overwrite")), None)
        raise DataError(
            f"{out} holds a run already. Name another folder with -o, or replace it with --overwrite."
            + (f" The {late} that came stands behind words of the script and is one of them: put it before {script}."
               if late else "")
        )

    from ..decomposition.wording import counted
    from ..integrations.trainers import Trainers
    from ..run.autorecord import AutoRecording
    from ..run.calling import is_known
    from . import telling

    begun = time.perf_counter()
    keep = int(options.keep) if options.keep.isdecimal() else options.keep
    notes = {"script": " ".join([script.name, *words])}
    trainers = Trainers(out, keep=keep, overwrite=options.overwrite, notes=notes)
    recording = AutoRecording(out, keep=keep, overwrite=options.overwrite, notes=notes, look=trainers.look)
    watched, left = Watched(), 0
    try:
        with watched, recording, trainers:
            left = run_as_main(script, words, quiet=options.json)
    except KeyboardInterrupt:
        sys.stderr.write(f"kernelscope: {_kept(recording, out)}\n")
        raise
    except RecordingError:
        # A script that ended itself before it trained is not one in which nothing could be found.
        if not left or _run_of(recording) is not None:
            raise
        sys.stderr.write(f"kernelscope: {script} ended with exit code {left}. {_kept(recording, out)}\n")
        return Answer("", {"script": str(script), "exit": left, "run": None, "steps": 0}, False, left)
    seconds = time.perf_counter() - begun
    data: dict[str, Any] = {"script": str(script), "exit": left, "seconds": round(seconds, 2)}
    if watched.error is not None:
        return _raised(watched.error, recording, script, out, data)
    ended = f" It ended with exit code {left}." if left else ""
    if recording.stood_down and trainers.run is None:
        return Answer(f"{script} records itself, so it was run as it is.{ended}", {**data, "run": None}, not left, left)
    recorded = trainers.run or recording.run
    lines = [
        f"Recorded {script} in {seconds:.1f} s.{ended}",
        telling.run_line(recorded),
        f"Found: {trainers.found or type(recording.model).__name__}, {recorded.loss.name or 'a loss with weights'}, "
        f"{counted(recorded.size, 'sample')}.",
    ]
    described = recorded.meta.get("architecture") is not None or is_known(recorded.meta)
    flags = "" if described else f" --model {maker(type(recording.model), script)}"
    flags += "" if recorded.loss.name is not None else " --loss module:function"
    lines.append(f"Next: kernelscope report {out}{flags}")
    return Answer("\n".join(lines), {**data, "run": str(out), **recorded.info()}, not left, left)


def _raised(error: BaseException, recording: AutoRecording, script: Path, out: Path, data: dict[str, Any]) -> Answer:
    """The answer after a script that failed: what it raised, as Python shows it, and where its steps are."""
    kept, run = _kept(recording, out), _run_of(recording)
    sys.stderr.write(f"{shown(error)}kernelscope: {kept}\n")
    sys.stderr.flush()
    what = f"{script} raised {type(error).__name__}: {error}".rstrip(": ")
    return Answer("", {**data, "exit": 1, "error": f"{what}. {kept}", "kind": type(error).__name__,
                       "run": None if run is None else str(out), "steps": 0 if run is None else len(run)}, False)


def _run_of(recording: AutoRecording) -> Run | None:
    """What was recorded until the script ended, if anything was."""
    try:
        run = recording.run
    except RecordingError:
        return None
    return run if len(run) else None


def _kept(recording: AutoRecording, out: Path) -> str:
    """Which steps are kept where, in a sentence."""
    run = _run_of(recording)
    if recording.stood_down:
        return "The script records itself, so its own recording says what is kept."
    if run is None:
        return "No step had been made, so nothing is kept."
    steps = "The one step made before is" if len(run) == 1 else f"The {len(run):,} steps made before are"
    return f"{steps} kept in {out}; kernelscope info {out} says what is there."


def _peel(options: argparse.Namespace) -> list[str]:
    """Takes the words of this command off the head of those of the script, and returns the others."""
    words = list(options.words)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    _own(own)
    taking = {"-o", "--out", "--keep"}
    while words and words[0].split("=")[0] in taking | {"--overwrite", "--json"}:
        count = 2 if words[0] in taking else 1
        if count > len(words):
            raise DataError(f"{words[0]} needs a value after it.")
        head, words = words[:count], words[count:]
        if head == ["--json"]:
            options.json = True
        else:
            for name, value in vars(_parsed(own, head)).items():
                if value != own.get_default(name):
                    setattr(options, name, value)
    return words[1:] if words[:1] == ["--"] else words


def _parsed(own: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    try:
        return own.parse_args(words)
    except argparse.ArgumentError as error:
        raise DataError(f"{' '.join(words)} cannot be understood: {error.message}.") from error
