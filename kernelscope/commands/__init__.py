"""One file for each command of the command line: what it is called, what it takes, and the answer it gives.

A command is a module with a line of ``HELP``, ``arguments(parser)`` and ``run(options) -> Answer``. What is heavy is
imported inside ``run``, so that ``--help`` answers at once.
"""

from dataclasses import dataclass, field
from typing import Any

NAMES = ("demo", "record", "train", "info", "explain", "report", "compare", "evaluate", "check", "fit", "doctor",
         "selftest")


@dataclass(frozen=True)
class Answer:
    """What a command found: for a reader, for a program, and whether every check passed.

    A command that runs a script has the exit code of the script.
    """

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    ok: bool = True
    code: int | None = None
