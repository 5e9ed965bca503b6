"""Two ordinary runs on the command line: the probes, the page, ten lines of text, and what must hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from . import Answer
from .conditions import parsed, plain

if TYPE_CHECKING:
    from torch import Tensor

    from ..diagnostics.comparing.result import RunComparison
    from ..run.run import Run

#: Probes that need no file.
DIGITS = "digits"


def arguments(parser: argparse._ArgumentGroup) -> None:
    """Takes the probes, the code of runs that need it, and what is left out."""
    parser.add_argument("--input", metavar="FILE", help="the probes, as the networks take them (.npy, .npz, "
                                                        ".safetensors), or digits for the held-out digits of the demo")
    parser.add_argument("--targets", metavar="FILE", help="their targets, in the form of training")
    parser.add_argument("--again", metavar="RUN", help="a further run like A, from another seed: what differs between "
                                                       "two runs anyway")
    parser.add_argument("--match", choices=("content", "input", "id"), default="content",
                        help="which training samples are the same: those of the same input and target (content), of "
                             "the same input, or of the same id (default: content)")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many samples an answer leans on most "
                                                                         "(default: 10)")
    parser.add_argument("--no-contributions", action="store_true", help="leave out what goes through every step")
    parser.add_argument("--no-coverage", action="store_true", help="leave out the coverage of the probes")
    code = "of a run whose folder does not describe it; as module:name or path/to/file.py:name"
    parser.add_argument("--model", metavar="MODULE:FUNCTION", help=f"what makes the model of A, and of B: {code}")
    parser.add_argument("--model-b", metavar="MODULE:FUNCTION", help="what makes the model of B, where it is another")
    parser.add_argument("--loss", metavar="MODULE:FUNCTION", help=f"the per-sample loss, {code}")


def compare_runs(options: argparse.Namespace) -> Answer:
    """Compares two ordinary runs and writes the page."""
    import time

    from ..diagnostics.comparing.comparing import compare
    from ..diagnostics.comparing.metrics import METRICS
    from ..report import Report
    from ..storage.files import folder_of
    from . import telling

    begun = time.perf_counter()
    # A condition that cannot be read, and a page that cannot be written, are refused before anything is computed.
    conditions = parsed(options.fail_if, METRICS)
    folder_of(Path(options.out))
    x, targets, called = probes(options)
    a, b = _opened(options.a, options.model, options.loss), _opened(options.b, options.model_b or options.model,
                                                                    options.loss)
    again = None if options.again is None else _opened(options.again, options.model, options.loss)
    names = [Path(folder).resolve().name for folder in (options.a, options.b)]
    found = compare(a, b, x, targets=targets, again=again, match=options.match, k=options.top, names=names,
                    contributions=not options.no_contributions, coverage=not options.no_coverage, seed=options.seed)
    verdicts = [condition.judged(found.measures) for condition in conditions]
    prose = [f"Asked about {called}."] + ([" ".join(["Conditions:", *(one.text for one in verdicts)])] if verdicts
                                          else [])
    page = Report(f"{found.columns[0]} and {found.columns[1]}", [*prose, found], {
        "study": "kernelscope compare", **{f"run {name}": run.fingerprint()[:16] for name, run in
                                           zip(found.columns, (a, b), strict=True)}}).save(options.out)
    seconds, bytes_ = time.perf_counter() - begun, page.stat().st_size
    check = found.check()
    words = ", ".join(f"{sum(row.status == s for row in check.rows)} {s}" for s in ("pass", "warn", "fail"))
    lines = [*summary_lines(found, called), *(one.text for one in verdicts),
             f"{page}: {telling.size(bytes_)}, {seconds:.1f} s; checks: {words}."]
    lines += [line for line in telling.check_lines(check) if line.startswith("fail")]
    return Answer("\n".join(lines), {
        "report": str(page), "bytes": bytes_, "seconds": round(seconds, 2), "a": str(options.a), "b": str(options.b),
        "probes": called, "data": found.data, "claims": [claim._asdict() for claim in found.claims()],
        "measures": found.table, "conditions": plain(verdicts), "notes": found.info["notes"],
        "checks": telling.check(check),
    }, check.ok and not any(one.fails for one in verdicts))


def summary_lines(found: RunComparison, called: str) -> list[str]:
    """A comparison in ten lines at most, as for a pull request: what differs is marked, and comes first."""
    told = found.claims()
    count = sum(claim.differs for claim in told)
    head = f"{found.columns[0]} and {found.columns[1]}, asked about {called}: {count} of {len(told)} findings differ."
    return [head, *(f"{'≠' if claim.differs else '='} {claim.text} (Beside it: {claim.null}.)" for claim in told)]


def probes(options: argparse.Namespace) -> tuple[Tensor, Tensor | None, str]:
    """The probes, their targets if known, and what they are called.

    Raises:
        DataError: If there are none, or targets without them.
    """
    from ..data import digits
    from ..decomposition.wording import counted
    from .opening import held_in, read

    if options.input is None:
        raise DataError("Two runs are compared by what they say of the same probes. Name points that neither was "
                        "trained on: --input probes.npy, with --targets y.npy if their targets are known.")
    if options.input == DIGITS:
        if options.targets is not None:
            raise DataError("The held-out digits bring their own targets. Leave --targets out.")
        held = digits("test")
        return held.x, held.y, counted(len(held.y), "held-out digit")
    x = read(options.input)
    # As of the other commands, a file of several arrays may hold its targets as y.
    targets = held_in(options.input).get("y") if options.targets is None else read(options.targets)
    return x, targets, f"{counted(len(x), 'point')} of {Path(options.input).name}"


def _opened(folder: str, model: str | None, loss: str | None) -> Run:
    from .opening import open_run

    return open_run(argparse.Namespace(run=folder, model=model, loss=loss, data=None))
