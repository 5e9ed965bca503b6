"""Whether this machine computes exactly, and whether kernelscope survives what goes wrong on it."""

import argparse

from ..errors import DataError
from . import Answer

HELP = "try on this machine whether sums are exact; with --faults, whether faults are survived"
INTERRUPTED = 130


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes the rows of the battery."""
    parser.add_argument("--faults", action="store_true", help="the fault battery: some minutes, in a temporary folder")
    parser.add_argument("--only", metavar="ROWS", default="", help="rows of the battery, as F5,F6")
    parser.add_argument("--seed", metavar="N", type=int, help="one trial of each row, by its number")
    parser.add_argument("--minutes", metavar="M", type=float, help="the time that the battery may take")


def run(options: argparse.Namespace) -> Answer:
    """Tries, and gives a table."""
    from ..selftest import run_battery, telling

    if not (options.faults or options.only):
        if options.seed is not None or options.minutes is not None:
            raise DataError("--seed and --minutes are about the battery. Add --faults, or the rows: --only F6.")
        from ..selftest.exactness import exact

        sums = exact()
        return Answer(*telling.exactness(sums), sums.ok)
    if options.minutes is not None and not options.minutes > 0:
        raise DataError(f"--minutes must be positive; {options.minutes:g} came. Pass for example --minutes 5.")
    only = [name for name in options.only.split(",") if name.strip()]
    found = run_battery(only, seed=options.seed, minutes=options.minutes)
    return Answer(*telling.battery(found), found.ok, INTERRUPTED if found.stopped and found.ok else None)
