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
    """Checks the bytes, some steps, and the decomposition of some training samples; of a game those of both runs."""
    from .generative import PARTS, is_game
    from .opening import folder

    place = folder(options)
    if not is_game(place):
        return _of_run(options)
    parts = {name: _of_run(argparse.Namespace(**{**vars(options), "run": str(place / name)})) for name in PARTS}
    return Answer("\n\n".join(part.text for part in parts.values()), {
        "run": str(options.run), "ok": all(part.ok for part in parts.values()),
        **{name: part.data for name, part in parts.items()}}, all(part.ok for part in parts.values()))


def _of_run(options: argparse.Namespace) -> Answer:
    import torch

    from ..decomposition.exact import decompose
    from ..errors import StoreCorrupt
    from ..result import Check, CheckRow
    from ..run.checking import check_run
    from . import telling
    from .opening import hardest_and_others, open_run

    head = str(options.run)
    try:
        recorded = open_run(options)
        head = telling.run_line(recorded)
        found = check_run(recorded)
        columns, _ = hardest_and_others(recorded, SAMPLES, SAMPLES)
        part = recorded[:MOST_STEPS]
        ledger = decompose(part, recorded.samples.batch(torch.tensor(columns))[0])
        steps = f"all {len(part):,} steps" if len(part) == len(recorded) else f"the first {len(part):,} steps"
        about = CheckRow("ledger", "pass", None, None, f"{len(columns)} training samples, {steps}: {ledger.summary()}.")
        found = Check((*found.rows, about, *ledger.check().rows))
    except StoreCorrupt as error:
        found = Check((CheckRow("checksums", "fail", None, None, str(error)),))
    ending = "Every check passed." if found.ok else "See the lines marked fail."
    return Answer("\n".join([head, *telling.check_lines(found), "", ending]),
                  {"run": str(options.run), "ok": found.ok, "checks": telling.check(found)}, found.ok)
