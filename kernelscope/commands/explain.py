"""Why a recorded network answers as it does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import Answer
from .opening import query_arguments, run_arguments

if TYPE_CHECKING:
    from ..decomposition.explanation import Explanation

HELP = "say which training samples made the network's answers what they are"
FEW = 3

#: Points that are told in words; a page or ``--json`` has them all.
MOST = 12


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, and what is asked about."""
    parser.epilog = ("Several processes share the points: torchrun --nproc-per-node=2 -m kernelscope explain RUN "
                     "--input X.npy")
    run_arguments(parser)
    query_arguments(parser)
    parser.add_argument("-k", type=int, default=5, help="how many samples to name on each side (default: 5)")


def run(options: argparse.Namespace) -> Answer:
    """Explains each point; of several processes, which share the points, the first one answers."""
    from .together import together

    with together() as processes:
        if not processes.first:
            options.json = False
        answer = _explained(options, processes.several)
        return answer if processes.first else Answer("")


def _explained(options: argparse.Namespace, distributed: bool) -> Answer:
    """A sentence, samples on both sides, and what it adds up to."""
    from ..decomposition.explaining import explain
    from . import telling
    from .generative import refuse
    from .opening import folder, open_run, queries

    refuse(folder(options))
    recorded = open_run(options)
    asked = queries(recorded, options, hardest=FEW, others=0)
    why = explain(recorded, asked.x, targets=asked.targets, k=options.k, distributed=distributed)
    check = why.check()
    blocks = [telling.run_line(recorded)]
    if options.input is None and options.sample is None:
        blocks.append(f"{asked.rule} Name others with --sample or --input.")
    if why.targets is not None and why.answer() is not None and len(why) > 1:
        blocks.append(_mistaken(why, asked.names))
    for query, name in enumerate(asked.names[:MOST]):
        target = "" if why.targets is None else f", true answer {why.targets[query]}"
        lines = [f"{name}{target}", why.sentence(query), *telling.samples(why, query)]
        # One balance sheet is read; a dozen are looked up, and --json and report have them.
        blocks.append("\n".join([*lines, "", *telling.balance(why, query)] if len(why) == 1 else lines))
    if len(why) > MOST:
        blocks.append(f"These are the first {MOST} of {len(why):,} points; --json gives all of them. Ask about "
                      "fewer with a file of fewer rows.")
    if not check.ok:
        blocks.append("\n".join(telling.check_lines(check)))
    explained = [{"name": name, **telling.explanation(why, query)} for query, name in enumerate(asked.names)]
    return Answer("\n\n".join(blocks), {
        "run": str(options.run), "rule": asked.rule, "queries": explained, "checks": telling.check(check),
    }, check.ok)


def _mistaken(why: Explanation, names: list[str]) -> str:
    """Which of several points are answered otherwise than is true."""
    assert why.targets is not None
    said = [why.class_name((why.answer(i) or (0, 0))[0]) for i in range(len(why))]
    wrong = [name for name, one, true in zip(names, said, why.targets, strict=True) if one != true]
    if not wrong:
        return f"All {len(why):,} are answered rightly."
    more = f" and {len(wrong) - MOST:,} more" if len(wrong) > MOST else ""
    return f"Answered wrongly: {len(wrong):,} of {len(why):,} ({', '.join(wrong[:MOST])}{more})."
