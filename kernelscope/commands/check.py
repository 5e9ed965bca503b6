"""Whether a run is what it says, and its ledger closes."""

import argparse

from . import Answer
from .opening import run_arguments

HELP = "verify checksums, compute steps again, and see whether the ledger closes"
SAMPLES, MOST_STEPS = 2, 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run."""
    run_arguments(parser)
    parser.set_defaults(input=None, sample=None)


def run(options: argparse.Namespace) -> Answer:
    """Checks the bytes, some steps, and the decomposition of some training samples."""
    from ..decomposition.exact import decompose
    from ..errors import StoreCorrupt
    from ..result import Check, CheckRow
    from ..run.checking import check_run
    from . import telling
    from .opening import open_run, queries

    head = str(options.run)
    try:
        recorded = open_run(options)
        head = telling.run_line(recorded)
        found = check_run(recorded)
        asked = queries(recorded, options, hardest=SAMPLES, others=SAMPLES)
        part = recorded[:MOST_STEPS]
        ledger = decompose(part, asked.x)
        steps = f"all {len(part):,} steps" if len(part) == len(recorded) else f"the first {len(part):,} steps"
        about = CheckRow("ledger", "pass", None, None, f"{len(asked.x)} training samples, {steps}: {ledger.summary()}.")
        found = Check((*found.rows, about, *ledger.check().rows))
    except StoreCorrupt as error:
        found = Check((CheckRow("checksums", "fail", None, None, str(error)),))
    ending = "Every check passed." if found.ok else "See the lines marked fail."
    return Answer("\n".join([head, *telling.check_lines(found), "", ending]),
                  {"run": str(options.run), "ok": found.ok, "checks": telling.check(found)}, found.ok)
