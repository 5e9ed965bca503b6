"""Why a recorded network answers as it does."""

import argparse

from . import Answer
from .opening import query_arguments, run_arguments

HELP = "say which training samples made the network's answers what they are"
FEW = 3


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
    for query, name in enumerate(asked.names):
        target = "" if why.targets is None else f", true answer {why.targets[query]}"
        lines = [f"{name}{target}", why.sentence(query), *telling.samples(why, query)]
        # One balance sheet is read; a dozen are looked up, and --json and report have them.
        blocks.append("\n".join([*lines, "", *telling.balance(why, query)] if len(why) == 1 else lines))
    if not check.ok:
        blocks.append("\n".join(telling.check_lines(check)))
    explained = [{"name": name, **telling.explanation(why, query)} for query, name in enumerate(asked.names)]
    return Answer("\n\n".join(blocks), {
        "run": str(options.run), "rule": asked.rule, "queries": explained, "checks": telling.check(check),
    }, check.ok)
