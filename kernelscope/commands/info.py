"""What a run holds, in words."""

import argparse
from pathlib import Path

from ..errors import DataError
from . import Answer
from .opening import run_arguments

HELP = "say what a recorded run holds"

#: How code is named that a run does not keep.


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run."""
    run_arguments(parser)


def run(options: argparse.Namespace) -> Answer:
    """Says the numbers of the run, or of both runs of a game."""
    from .generative import PARTS, is_game
    from .opening import folder

    place = folder(options)
    if not is_game(place):
        return _of_run(options, place)
    if options.model or options.loss or options.data:
        raise DataError(f"{options.run} holds a GAN, whose two runs have code of their own each. Name one of them: "
                        f"kernelscope info {place / PARTS[0]}.")
    parts = {name: _of_run(argparse.Namespace(**{**vars(options), "run": str(place / name)}), place / name)
             for name in PARTS}
    return Answer("\n\n".join(part.text for part in parts.values()), {name: part.data for name, part in parts.items()})


def _of_run(options: argparse.Namespace, place: Path) -> Answer:
    """The numbers of one run; its network is made only where code was named, to be compared with it."""
    from ..run.opening import contents, run_store
    from . import telling
    from .generative import known_loss
    from .opening import open_run, suggested

    if options.model or options.loss or options.data:
        open_run(options)
    about = contents(place)
    if known_loss(run_store(place, verify="size").meta) is not None:
        about["needs"] = [name for name in about["needs"] if name != "loss"]
    rate = about["learning_rate"]
    environment, loss = about["environment"] or {}, about["loss"] or (
        "a function of its own" if "loss" in about["needs"] else "that of the game, which the notes tell")
    files, needs = about.pop("files"), about.pop("needs")
    own = str((about["fingerprint"] or {}).get("model") or "Model")
    ways = {"model": f"--model {suggested(about['notes'], own)}", "loss": "--loss module:function"}
    kept = "every step" if about["rows"] == about["steps"] + 1 else "the others are replayed"
    rows = {
        "steps": f"{about['steps']:,} of {', '.join(about['rules'])}",
        "rate": "" if rate is None else f"{rate[0]:g}" if rate[0] == rate[1] else f"{rate[0]:g} to {rate[1]:g}",
        "samples": f"{about['samples']:,}, of which training drew {about['samples_drawn']:,}",
        "parameters": f"{about['parameters']:,} in {about['dtype']}",
        "network": f"{own}, which has code of its own" if "model" in needs else "",
        "loss": loss,
        "stored": f"{about['rows']:,} parameter vectors ({kept}), {telling.size(about['bytes'])}",
        "complete": "yes" if about["complete"] else "no; it was cut short, and the steps here were acknowledged",
        "checks": f"the checksums of {'the one file' if files == 1 else f'all {files:,} files'} agree",
        "made with": ", ".join(f"{key} {value}" for key, value in environment.items()),
        "took": "" if about["cost"] is None else f"{about['cost']['seconds']:.1f} s, recording included, "
                                                f"{about['cost']['cpu_seconds']:.1f} s of processors",
        "notes": ", ".join(f"{key} {value}" for key, value in (about["notes"] or {}).items()),
        "code": "" if not needs else "to ask the run, name " + " and ".join(ways[name] for name in needs),
    }
    lines = [f"{name:10}  {words}" for name, words in rows.items() if words]
    return Answer("\n".join([telling.near(options.run), *lines]), about)
