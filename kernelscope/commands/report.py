"""A page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import Answer
from .opening import Queries, query_arguments, run_arguments

if TYPE_CHECKING:
    from ..integrations.trackers import Tracker
    from ..result import Result
    from ..run.run import Run

HELP = "write one page that shows why the network answers as it does"

#: What a page can show beside the explanation.
ALSO = ("evolution", "null-space", "coverage", "influence")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, what is asked about, and where the page goes."""
    run_arguments(parser)
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="the page (default: report.html)")
    parser.add_argument("--also", nargs="+", choices=ALSO, default=[],
                        help="more sections: how the kernel moved, what could not be learned, whether the points "
                             "are inside what was learned, and what leaving samples out would do, beside what they "
                             "added")
    parser.add_argument("--to", action="append", default=[], metavar="TRACKER",
                        help="log the page and five numbers of the run too: tensorboard, wandb or mlflow, with a "
                             "folder after a colon, as tensorboard:runs/tb; may come several times")
    query_arguments(parser)


def run(options: argparse.Namespace) -> Answer:
    """Explains the points and writes the page."""
    import time
    from dataclasses import replace

    from ..decomposition.explaining import explain
    from ..decomposition.influence.beside import beside
    from ..decomposition.influence.influence import influence
    from ..decomposition.wording import counted
    from ..integrations.trackers import tracker
    from ..report import Report
    from ..storage.files import folder_of
    from . import telling
    from .generative import refuse
    from .opening import folder, open_run, queries

    begun = time.perf_counter()
    # A page that cannot be written is refused before anything is computed.
    folder_of(Path(options.out))
    refuse(folder(options))
    recorded = open_run(options)
    logs = [tracker(word, Path(options.run).resolve().name) for word in options.to]
    asked = queries(recorded, options)
    more = _sections(recorded, asked, options)
    why = replace(explain(recorded, asked.x, targets=asked.targets), names=asked.names)
    if "influence" in options.also:
        found = influence(recorded, asked.x, "answer", targets=asked.targets)
        more.append(beside(why.decomposition, found, asked.names))
    check = why.check()
    about = recorded.info()
    lead = (
        f"A network with {counted(about['parameters'], 'parameter')}, trained in {counted(about['steps'], 'step')} of "
        f"{', '.join(about['rules']) or 'no optimizer'} on {counted(about['samples'], 'sample')}."
    )
    title = f"Why does {Path(options.run).resolve().name} answer so?"
    page = Report(title, [lead, f"What is explained? {asked.rule}", why, *more],
                  {"study": "kernelscope report", "run": recorded.fingerprint()[:16]}).save(options.out)
    seconds, bytes_ = time.perf_counter() - begun, page.stat().st_size
    words = ", ".join(f"{sum(row.status == s for row in check.rows)} {s}" for s in ("pass", "warn", "fail"))
    lines = [telling.run_line(recorded), asked.rule,
             f"{page}: {telling.size(bytes_)}, {seconds:.1f} s; checks: {words}."]
    lines += [result.summary() for result in more]
    lines += telling.check_lines(check) if not check.ok else []
    logged = _logged(recorded, asked if options.input is not None else None, logs, page)
    lines += logged["lines"]
    return Answer("\n".join(lines), {
        "report": str(page), "bytes": bytes_, "seconds": round(seconds, 2), "run": str(options.run),
        "rule": asked.rule, "queries": asked.names, "checks": telling.check(check),
        "also": [{"name": type(result).__name__, "sentence": result.summary(), "checks": telling.check(result.check())}
                 for result in more],
        **({"logged": {"to": logged["where"], "scalars": logged["five"]}} if logs else {}),
    }, check.ok and all(result.check().ok for result in more))


def _logged(recorded: Run, asked: Queries | None, logs: list[Tracker], page: Path) -> dict[str, Any]:
    """Logs the page and the five numbers of the run; what was logged, and where, in words and as plain data."""
    from ..integrations.scalars import run_scalars
    from ..integrations.tracking import log

    if not logs:
        return {"lines": [], "where": [], "five": {}}
    told = run_scalars(recorded, None if asked is None else asked.x, targets=None if asked is None else asked.targets)
    for place in logs:
        with place:
            log(place, told, page)
    five = ", ".join(f"{name} {'not known' if value is None else format(value, '.3g')}"
                     for name, value in told.five.items())
    return {"lines": [f"Logged to {place.where}: {five}, and the page." for place in logs],
            "where": [place.where for place in logs], "five": told.five}


def _sections(recorded: Run, asked: Queries, options: argparse.Namespace) -> list[Result]:
    """What is shown beside the explanation, in the order of the page.

    Raises:
        DataError: If coverage is asked for of samples that were trained on.
    """
    from ..diagnostics.coverage.coverage import coverage
    from ..diagnostics.evolution.course import evolution
    from ..diagnostics.null_space.null_space import null_space

    if "coverage" in options.also and options.input is None:
        raise DataError("A training sample is inside the span of training, so its coverage says nothing. Name other "
                        "points with --input, or leave coverage out.")
    made = {"evolution": lambda: evolution(recorded), "null-space": lambda: null_space(recorded),
            "coverage": lambda: coverage(recorded, asked.x)}
    return [made[name]() for name in ALSO if name in options.also and name in made]
