"""The built-in example: two trainings on handwritten digits, a dozen answers, one page."""

import argparse

from . import Answer

HELP = "train on handwritten digits twice, explain a dozen answers, write reports/demo.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes nothing but a folder."""
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where runs/ and reports/ go (default: here)")


def run(options: argparse.Namespace) -> Answer:
    """Trains, records, explains, and says what was found."""
    from ..demo import demo
    from . import telling

    made = demo(options.out)
    first = made.trained[0]
    rows = [telling.run_line(one.run) + f" Right on {100 * one.accuracy:.1f} % of the held-out digits."
            for one in made.trained]
    bytes_ = made.page.stat().st_size
    text = "\n".join([
        *rows,
        "",
        f"Image {made.queries[0]} of the held-out ones, {first.name}:",
        first.why.sentence(0),
        "",
        *telling.balance(first.why, 0),
        "",
        f"{made.page} has all {len(made.queries)} digits, for both runs: {telling.size(bytes_)}, "
        f"{made.seconds:.0f} s in all.",
    ])
    checks = [one.why.check() for one in made.trained]
    return Answer(text, {
        "report": str(made.page), "bytes": bytes_, "seconds": round(made.seconds, 2), "rule": made.rule,
        "queries": made.queries,
        "runs": [
            {"name": one.name, **one.run.info(), "accuracy": one.accuracy, "checks": telling.check(check),
             "explanations": [telling.explanation(one.why, q) for q in range(len(one.why))]}
            for one, check in zip(made.trained, checks, strict=True)
        ],
    }, all(check.ok for check in checks))
