"""What a run holds, in words."""

import argparse

from . import Answer
from .opening import run_arguments

HELP = "say what a recorded run holds"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run."""
    run_arguments(parser)


def run(options: argparse.Namespace) -> Answer:
    """Opens the run and says its numbers."""
    from . import telling
    from .opening import open_run

    about = open_run(options).info()
    rate = about["learning_rate"]
    environment, loss = about["environment"] or {}, about["loss"] or "a function of its own"
    kept = "every step" if about["rows"] == about["steps"] + 1 else "the others are replayed"
    rows = {
        "steps": f"{about['steps']:,} of {', '.join(about['rules'])}",
        "rate": "" if rate is None else f"{rate[0]:g}" if rate[0] == rate[1] else f"{rate[0]:g} to {rate[1]:g}",
        "samples": f"{about['samples']:,}, of which training drew {about['samples_drawn']:,}",
        "parameters": f"{about['parameters']:,} in {about['dtype']}",
        "loss": loss,
        "stored": f"{about['rows']:,} parameter vectors ({kept}), {telling.size(about['bytes'])}",
        "complete": "yes" if about["complete"] else "no; it was cut short, and the steps here were acknowledged",
        "made with": ", ".join(f"{key} {value}" for key, value in environment.items()),
        "notes": ", ".join(f"{key} {value}" for key, value in (about["notes"] or {}).items()),
    }
    lines = [f"{name:10}  {words}" for name, words in rows.items() if words]
    return Answer("\n".join([telling.near(options.run), *lines]), about)
