"""A training script, recorded as it is."""

import argparse
import contextlib
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from . import Answer

HELP = "run a training script as it is, and record what it does"
DETAILS = (
    "The script is run in this process, as python SCRIPT would run it. Words after it are its own, but for those of "
    "this command that follow it at once."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a folder, a script, and the words of the script."""
    parser.epilog = DETAILS
    _own(parser)
    parser.add_argument("script", metavar="SCRIPT", help="a Python file")
    parser.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="the words of the script")


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
        raise DataError(f"{out} holds a run already. Name another folder with -o, or replace it with --overwrite.")

    from ..run.autorecord import AutoRecording
    from . import telling

    begun = time.perf_counter()
    keep = int(options.keep) if options.keep.isdigit() else options.keep
    notes = {"script": " ".join([script.name, *words])}
    with AutoRecording(out, keep=keep, overwrite=options.overwrite, notes=notes) as recording:
        left = _as_main(script, words, quiet=options.json)
    seconds = time.perf_counter() - begun
    data = {"script": str(script), "exit": left, "seconds": round(seconds, 2)}
    ended = f" It ended with exit code {left}." if left else ""
    if recording.stood_down:
        return Answer(f"{script} records itself, so it was run as it is.{ended}", {**data, "run": None}, not left)
    recorded = recording.run
    lines = [
        f"Recorded {script} in {seconds:.1f} s.{ended}",
        telling.run_line(recorded),
        f"Found: {type(recording.model).__name__}, {recorded.loss.name or 'a loss with weights'}, "
        f"{recorded.size:,} samples.",
    ]
    flags = "" if recorded.meta.get("architecture") is not None else " --model module:function"
    flags += "" if recorded.loss.name is not None else " --loss module:function"
    lines.append(f"Next: kernelscope report {out}{flags}")
    return Answer("\n".join(lines), {**data, "run": str(out), **recorded.info()}, not left)


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
            for name, value in vars(own.parse_args(head)).items():
                if value != own.get_default(name):
                    setattr(options, name, value)
    return words[1:] if words[:1] == ["--"] else words


def _as_main(script: Path, words: list[str], quiet: bool) -> int:
    """Runs the script as the main module, with its own ``sys.argv`` and ``sys.path``; returns its exit code."""
    with _arguments([str(script), *words], str(script.resolve().parent)):
        # A program reads the answer on standard output, so what the script prints goes to standard error.
        with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as leaving:
                if isinstance(leaving.code, str):
                    sys.stderr.write(leaving.code + "\n")
                return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


@contextlib.contextmanager
def _arguments(words: list[str], folder: str) -> Iterator[None]:
    before, path = sys.argv[:], sys.path[:]
    sys.argv[:], sys.path[:] = words, [folder, *path]
    try:
        yield
    finally:
        sys.argv[:], sys.path[:] = before, path
