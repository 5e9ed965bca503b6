"""A page about a run."""

import argparse
from pathlib import Path

from . import Answer
from .opening import query_arguments, run_arguments

HELP = "write one page that shows why the network answers as it does"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, what is asked about, and where the page goes."""
    run_arguments(parser)
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="the page (default: report.html)")
    query_arguments(parser)


def run(options: argparse.Namespace) -> Answer:
    """Explains the points and writes the page."""
    import time

    from ..decomposition.explanation import explain
    from ..report import Report
    from . import telling
    from .opening import open_run, queries

    begun = time.perf_counter()
    recorded = open_run(options)
    asked = queries(recorded, options)
    why = explain(recorded, asked.x, targets=asked.targets)
    check = why.check()
    about = recorded.info()
    lead = (
        f"A network with {about['parameters']:,} parameters, trained in {about['steps']:,} steps of "
        f"{', '.join(about['rules'])} on {about['samples']:,} samples."
    )
    title = f"Why does it answer so? {Path(options.run).resolve().name}"
    page = Report(title, [lead, f"Explained are: {asked.rule}", why],
                  {"study": "kernelscope report", "run": recorded.fingerprint()[:16]}).save(options.out)
    seconds, bytes_ = time.perf_counter() - begun, page.stat().st_size
    words = ", ".join(f"{sum(row.status == s for row in check.rows)} {s}" for s in ("pass", "warn", "fail"))
    lines = [telling.run_line(recorded), asked.rule,
             f"{page}: {telling.size(bytes_)}, {seconds:.1f} s; checks: {words}."]
    lines += telling.check_lines(check) if not check.ok else []
    return Answer("\n".join(lines), {
        "report": str(page), "bytes": bytes_, "seconds": round(seconds, 2), "run": str(options.run),
        "rule": asked.rule, "queries": asked.names, "checks": telling.check(check),
    }, check.ok)
