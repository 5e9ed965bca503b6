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
    from dataclasses import replace

    from ..decomposition.explaining import explain
    from ..decomposition.wording import counted
    from ..report import Report
    from ..storage.files import folder_of
    from . import telling
    from .opening import open_run, queries

    begun = time.perf_counter()
    # A page that cannot be written is refused before anything is computed.
    folder_of(Path(options.out))
    recorded = open_run(options)
    asked = queries(recorded, options)
    why = replace(explain(recorded, asked.x, targets=asked.targets), names=asked.names)
    check = why.check()
    about = recorded.info()
    lead = (
        f"A network with {counted(about['parameters'], 'parameter')}, trained in {counted(about['steps'], 'step')} of "
        f"{', '.join(about['rules']) or 'no optimizer'} on {counted(about['samples'], 'sample')}."
    )
    title = f"Why does {Path(options.run).resolve().name} answer so?"
    page = Report(title, [lead, f"What is explained? {asked.rule}", why],
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
