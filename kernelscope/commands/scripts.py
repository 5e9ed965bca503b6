"""Code of the user's own within a command: a script run as it is, a module imported for what it makes.

What such code raises is shown as Python alone would have shown it, without the frames of this package; what it prints
does not mix with an answer; and ``sys.argv`` is that of a script, whatever the command line of the command was.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DataError, KernelscopeError

#: Where the frames are that are not the user's.
OWN = f"{Path(__file__).parents[1]}{os.sep}"

#: Where those are that import a module.
IMPORTING = ("<frozen importlib", f"{Path(importlib.__file__).parent}{os.sep}")


def run_as_main(script: Path, words: list[str], quiet: bool) -> int:
    """Runs the script as the main module, with its own ``sys.argv`` and ``sys.path``; returns its exit code."""
    with _arguments([str(script), *words], str(script.resolve().parent)):
        # A program reads the answer on standard output, so what the script prints goes to standard error.
        with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as leaving:
                if leaving.code is None or isinstance(leaving.code, int):
                    return int(leaving.code or 0)
                sys.stderr.write(f"{leaving.code}\n")
                return 1
    return 0


def shown(error: BaseException) -> str:
    """What Python prints of an exception, without the frames of this package and of what runs the script."""
    told = traceback.TracebackException.from_exception(error)
    if not (told.stack and told.stack[-1].filename.startswith(OWN)):  # what is raised here is shown with all its frames
        _without_own_frames(told)
    return "".join(told.format())


def _without_own_frames(told: traceback.TracebackException) -> None:
    told.stack = traceback.StackSummary.from_list(
        [frame for frame in told.stack if not frame.filename.startswith((OWN, "<frozen runpy>"))])
    for inner in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or [])):
        if inner is not None:
            _without_own_frames(inner)


class Watched:
    """A block in which a script runs: what the script raises ends the block, and is ``error`` afterwards.

    Errors of this package go on, for they say themselves what to do; and so does a request to stop.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> bool:
        self.error = error
        return error is not None and not isinstance(error, KernelscopeError | KeyboardInterrupt | GeneratorExit)


class Imported:
    """A block in which a module of the user's own is read or called: what it raises becomes a sentence.

    Args:
        word: What was asked for, as ``module:name`` or ``file.py:name``.
        flag: The option it was asked with.
    """

    def __init__(self, word: str, flag: str):
        self._what, self._module = f"{flag} {word}", word.rpartition(":")[0]

    def __enter__(self) -> None:
        self._held = contextlib.ExitStack()
        beside = str(Path(self._module).resolve().parent) if is_file(self._module) else None
        self._held.enter_context(_arguments([_file_of(self._module)], beside))
        self._held.enter_context(contextlib.redirect_stdout(sys.stderr))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._held.close()
        if isinstance(error, SystemExit):
            raise DataError(
                f"{self._what} cannot be used: {self._module} ends the program where it is imported (exit code "
                f"{error.code}). Put what only a run of the script should do under \"if __name__ == '__main__':\", and "
                "let a function make what is named."
            ) from error
        if isinstance(error, Exception) and not isinstance(error, KernelscopeError):
            frames = [frame for frame in traceback.extract_tb(trace)
                      if not frame.filename.startswith((OWN, *IMPORTING))]
            where = f" at line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
            raise DataError(
                f"{self._what} cannot be used: it raised {type(error).__name__}{where}: {error}. Mend that, or name a "
                "function that works where it is imported and called without arguments."
            ) from error


def imported(module: str) -> Any:
    """A module by its name, looked for in the current folder first; or a file, read as a module once."""
    # A console script does not look into the current folder by itself.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not is_file(module):
        return importlib.import_module(module)
    # Under its whole path no module is known that could be another one.
    path = str(Path(module).resolve())
    if path not in sys.modules:
        spec = importlib.util.spec_from_file_location(path, path)
        assert spec is not None
        assert spec.loader is not None
        made = sys.modules[path] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(made)
        except BaseException:
            del sys.modules[path]
            raise
    return sys.modules[path]


def is_file(module: str) -> bool:
    """Whether a word names a file and not a module."""
    return module.endswith(".py")


def dotted(module: str) -> str:
    """A path as Python names a module.

    Example:
        >>> dotted("scr/h0.py"), dotted("./h0"), dotted("package.h0")
        ('scr.h0', 'h0', 'package.h0')
    """
    parts = module.removesuffix(".py").replace(os.sep, "/").split("/")
    return ".".join(part for part in parts if part not in ("", "."))


def _file_of(module: str) -> str:
    """The file of a module as a script's name: what it would find in ``sys.argv`` if it were run without words."""
    file = Path(module) if is_file(module) else Path(*module.split(".")).with_suffix(".py")
    return str(file) if file.is_file() else f"{module.rpartition('.')[2]}.py"


@contextlib.contextmanager
def _arguments(words: list[str], folder: str | None) -> Iterator[None]:
    before, path = sys.argv[:], sys.path[:]
    sys.argv[:] = words
    if folder is not None:
        sys.path[:] = [folder, *path]
    try:
        yield
    finally:
        sys.argv[:] = before
        if folder is not None:
            sys.path[:] = path
