"""A page about two runs, side by side, and an exit code that says whether they differ by more than they may."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DataError
from . import Answer
from .conditions import condition_arguments

HELP = "write one page about two runs side by side, and fail if they differ by more than they may"
DETAILS = ("Two ordinary runs are asked about the probes in --input. Runs of denoisers and of GANs make points "
           "instead: of these a folder is that of one run, or holds several, one for each seed; from five on numbers "
           "have intervals. Exit code 1 says that a check or a --fail-if condition failed.")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes two folders, what they are asked, what must hold, and where the page goes."""
    from .comparing_generative import arguments as generative_arguments
    from .comparing_runs import arguments as run_arguments

    parser.epilog = DETAILS
    parser.add_argument("a", metavar="A", help="the folder of a run, or of several generative ones")
    parser.add_argument("b", metavar="B", help="the other one")
    parser.add_argument("-o", "--out", default="compare.html", metavar="FILE", help="the page (default: compare.html)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="names all draws (default: 0)")
    condition_arguments(parser)
    run_arguments(parser.add_argument_group("of ordinary runs"))
    generative_arguments(parser.add_argument_group("of generative runs"))


def run(options: argparse.Namespace) -> Answer:
    """Compares the runs and writes the page."""
    from .comparing_generative import compare_generative
    from .comparing_runs import compare_runs

    kinds = {word: is_ordinary(word) for word in (options.a, options.b)}
    if len(set(kinds.values())) > 1:
        one = next(word for word, ordinary in kinds.items() if ordinary)
        other = next(word for word, ordinary in kinds.items() if not ordinary)
        raise DataError(f"{one} holds a run that gives answers, and {other} none. Compare two runs of one kind.")
    return compare_runs(options) if kinds[options.a] else compare_generative(options)


def is_ordinary(folder: str) -> bool:
    """Whether a folder holds a run, and one that gives answers."""
    from ..run.opening import run_store
    from .generative import MANIFEST

    where = Path(folder)
    if not folder.strip() or not (where / MANIFEST).exists():
        return False
    notes = run_store(where, verify="size").meta.get("notes") or {}
    return notes.get("generative") is None
