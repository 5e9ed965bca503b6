"""Which scores of training samples foretell what leaving samples out does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from . import Answer
from .opening import KINDS, run_arguments

if TYPE_CHECKING:
    import torch

    from ..run.run import Run

HELP = "train the network again without some samples, and say which scores foretell it"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a run, held-out points and their targets, and how much is trained again."""
    run_arguments(parser)
    parser.add_argument("--input", metavar="FILE", help=f"held-out points ({', '.join(KINDS)}); a file of several "
                                                        "arrays has them as x, and may have their targets as y")
    parser.add_argument("--targets", metavar="FILE", help="their targets, where --input does not hold them as y")
    parser.add_argument("--output", default="loss", metavar="WORD",
                        help="what is asked: loss, margin, or the number of an output (default: loss)")
    parser.add_argument("--subsets", type=int, default=80, help="how many random subsets (default: 80)")
    parser.add_argument("--share", type=float, default=0.5, help="the share of samples in each (default: 0.5)")
    parser.add_argument("--seeds", type=int, default=3, help="how many other starts (default: 3)")
    parser.add_argument("--damping", type=float, help="of Gauss-Newton influence; chosen on other points if not given")
    parser.add_argument("--seed", type=int, default=0, help="draws subsets and starts (default: 0)")
    parser.add_argument("-o", "--out", metavar="FILE", help="also write a page")


def run(options: argparse.Namespace) -> Answer:
    """Trains again, and judges each way to score samples."""
    from ..diagnostics.leaving_out.evaluating import evaluate
    from ..report import Report
    from ..storage.files import folder_of
    from . import telling
    from .generative import refuse
    from .opening import folder, open_run

    if options.out is not None:
        # A page that cannot be written is refused before anything is computed.
        folder_of(Path(options.out))
    refuse(folder(options))
    recorded = open_run(options)
    x, y = _points(recorded, options)
    output = int(options.output) if options.output.lstrip("-").isdecimal() else options.output
    found = evaluate(recorded, x, y, subsets=options.subsets, share=options.share, seeds=options.seeds, output=output,
                     damping=options.damping, seed=options.seed)
    check = found.check()
    said = found.said()
    lines = [telling.run_line(recorded), f"{found.extent()}; {found.info['batches']}, as many steps as the run.",
             f"{said[0].upper()}{said[1:]}.", "", *_table(found.to_frame().to_dict("records"), list(found.trials))]
    lines += [f"{name} is left out: {why}" for name, why in found.left_out.items()]
    if found.anew is None:
        lines.append(f"No other starts: {found.info['why not anew']}.")
    if options.out is not None:
        title = f"What foretells leaving samples out of {Path(options.run).resolve().name}?"
        page = Report(title, [found], {"study": "kernelscope evaluate", "run": recorded.fingerprint()[:16]})
        lines.append(f"{page.save(options.out)}: the page.")
    lines += telling.check_lines(check) if not check.ok else []
    rows = [{key: None if value != value else value for key, value in row.items()}
            for row in found.to_frame().to_dict("records")]
    return Answer("\n".join(lines), {
        "run": str(options.run), "sentence": found.summary(), "ways": rows, "left out": found.left_out,
        "ceilings": {start: trial.ceiling for start, trial in found.trials.items()}, "info": found.info,
        "report": options.out, "checks": telling.check(check),
    }, check.ok)


def _points(recorded: Run, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The held-out points and their targets.

    Raises:
        DataError: If there are none, or their targets are needed and not there.
    """
    from .opening import as_trained, held_in, read

    if options.input is None:
        raise DataError("What leaving samples out does is looked at on points that training did not have, and the run "
                        "holds none. Name a file of held-out points with --input, and one of their targets with "
                        "--targets, or one .npz that holds both as x and y.")
    targets = None if options.targets is None else read(options.targets, "--targets", "y")
    if targets is None:
        targets = held_in(options.input).get("y")
    if targets is None and options.output == "loss":
        raise DataError(f"The loss of a point needs its target, and {options.input} holds no y. Name a file with "
                        "--targets, or ask for --output margin.")
    return as_trained(read(options.input), recorded, options.input), targets


def _table(rows: list[dict[str, object]], starts: list[str]) -> list[str]:
    """A line for each way."""
    from ..text import with_minus

    wide = max(len(str(row["way"])) for row in rows)
    heads = "  ".join(f"LDS, {start}, of {rows[0][f'{start}, ceiling']:.2f}" for start in starts)
    lines = [f"{'':{wide}}  {heads}  what it is"]
    for row in rows:
        cells = "  ".join(with_minus(f"{row[f'LDS, {start}']:.3f}").rjust(len(f"LDS, {start}, of 1.00"))
                          for start in starts)
        setting = f" ({row['setting']})" if row["setting"] else ""
        lines.append(f"{row['way']:{wide}}  {cells}  {row['what it is']}{setting}")
    return lines
