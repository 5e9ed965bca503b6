"""Two generative models on the command line, side by side on a page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError, StoreError
from . import Answer
from .conditions import parsed, plain

if TYPE_CHECKING:
    from torch import Tensor

    from ..generative.comparing.comparison import GenerativeComparison
    from ..result import Result

#: Over how many of the last latents the motion of a generated point is averaged.
DRAWS = 16

#: Seconds for one step and parameter of the explanation of one sample, measured on one core.
OF_DENOISER, OF_GAN = 4e-7, 5e-6

#: Data that need no file.
KNOWN = ("digits", "patches")


def arguments(parser: argparse._ArgumentGroup) -> None:
    """Takes the data, and how much is made and explained."""
    parser.add_argument("--data", metavar="DATA",
                        help="points that no model was trained on: digits, patches, or an .npy, .npz or .safetensors "
                             "file on the scale of training (default: the training points themselves)")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many runs of a folder of several (default: all)")
    parser.add_argument("--samples", type=int, default=512, metavar="N", help="points each makes (default: 512)")
    parser.add_argument("--probes", type=int, default=2, metavar="N", help="samples that are explained (default: 2)")
    parser.add_argument("--no-paths", action="store_true",
                        help="leave out what goes through every step: cancellation, the points behind samples, and "
                             "the explanation of a sample of each")


def compare_generative(options: argparse.Namespace) -> Answer:
    """Compares two generative models and writes the page."""
    import time

    from ..generative.comparing.comparing import compare
    from ..generative.comparing.metrics import METRICS
    from ..report import Report
    from ..storage.files import folder_of
    from . import telling

    begun = time.perf_counter()
    # A condition that cannot be read, and a page that cannot be written, are refused before anything is computed.
    conditions = parsed(options.fail_if, [f"{metric}_{side}" for metric in METRICS for side in "ab"])
    folder_of(Path(options.out))
    a, b = (_opened(folder, options.seeds) for folder in (options.a, options.b))
    held_out, labels = _data(options.data, a[0])
    found = compare(a, b, held_out=held_out, labels=labels, samples=options.samples, probes=options.probes,
                    paths=not options.no_paths, seed=options.seed)
    names = [Path(folder).resolve().name for folder in (options.a, options.b)]
    more, left_out = ([], "") if options.no_paths else _explained([a[0], b[0]], names, labels, held_out, options.seed)
    page = Report(f"{names[0]} and {names[1]}", [*([left_out] if left_out else []), found, *more], {
        "study": "kernelscope compare", **{f"run {name}": _fingerprint(runs[0]) for name, runs in
                                           zip(names, (a, b), strict=True)}}).save(options.out)
    seconds, bytes_ = time.perf_counter() - begun, page.stat().st_size
    check = found.check()
    verdicts = [condition.judged(measures(found)) for condition in conditions]
    claims = [claim._asdict() for claim in found.claims()]
    lines = [left_out] if left_out else []
    lines += [f"{claim['text']} (Beside it: {claim['null']}.)" for claim in claims]
    lines += [one.text for one in verdicts]
    words = ", ".join(f"{sum(row.status == s for row in check.rows)} {s}" for s in ("pass", "warn", "fail"))
    return Answer("\n".join([*lines, f"{page}: {telling.size(bytes_)}, {seconds:.1f} s; checks: {words}."]), {
        "report": str(page), "bytes": bytes_, "seconds": round(seconds, 2), "a": str(options.a), "b": str(options.b),
        "explained": [heading for heading, _ in more], "left_out": left_out,
        "claims": claims, "rules": found.rules, "table": found.table, "conditions": plain(verdicts),
        "checks": telling.check(check),
    }, check.ok and not any(one.fails for one in verdicts))


class Number(NamedTuple):
    """One metric of one model, as a condition asks for it."""

    value: float
    low: float
    high: float
    why: str


def measures(found: GenerativeComparison) -> dict[str, Number]:
    """Every metric that stands for a model, by its name and the side: ``coverage_a``, ``coverage_b``."""
    return {f"{row.metric}_{side}": Number(value.mean, value.low, value.high, why)
            for row in found.rows if row.slot == "main" for side, value, why in zip("ab", row.values, row.why,
                                                                                    strict=True)}


def _explained(runs: list[Any], names: list[str], labels: Tensor | None, held_out: Tensor | None,
               seed: int) -> tuple[list[tuple[str, Result]], str]:
    """One sample of each, explained; and what to say if it was interrupted. What is done by then is kept."""
    import torch

    from ..generative.games.explaining import explain_gan
    from ..generative.games.game import GANRun
    from ..generative.stages.stages import explain_diffusion

    words = None if labels is None else [str(label) for label in labels.tolist()]
    about = sum(_seconds(run) for run in runs)
    sys.stderr.write(f"kernelscope: explaining one sample of each takes about {duration(about)}; Ctrl-C leaves out "
                     "what is not done by then, and --no-paths all of it.\n")
    done: list[tuple[str, Result]] = []
    for run, name in zip(runs, names, strict=True):
        source = torch.Generator().manual_seed(seed)
        try:
            if isinstance(run, GANRun):
                shape = run.generator.samples.inputs[0].shape[1:]
                done.append((f"Why a sample of {name} is where it is", explain_gan(
                    run, torch.randn(1, *shape, generator=source), labels=words and words[:run.real],
                    held=held_out, draws=DRAWS)))
            else:
                shape = run.samples.inputs[0].shape[1:]
                done.append((f"Why a sample of {name} is what it is", explain_diffusion(
                    run, torch.randn(1, *shape, generator=source), directions="displacement",
                    labels=words and words[:run.size], held_out=held_out)))
        except KeyboardInterrupt:
            missing = " and ".join(names[len(done):])
            return done, f"Interrupted: the explanation of a sample of {missing} is not on this page."
    return done, ""


def _seconds(run: Any) -> float:
    """About how many seconds the explanation of one sample takes on a core."""
    from ..generative.games.game import GANRun

    judged = run.critic if isinstance(run, GANRun) else run
    return len(judged) * judged.parameter_count * (OF_GAN if judged is not run else OF_DENOISER)


def duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> duration(12.3), duration(200)
        ('12 seconds', '3 minutes')
    """
    from ..decomposition.wording import counted

    return counted(max(1, round(seconds)), "second") if seconds < 100 else f"{round(seconds / 60)} minutes"


def _opened(folder: str, most: int | None) -> list[Any]:
    """The runs in a folder: one, or one for each seed in its order of names.

    Raises:
        StoreError: If there is none.
    """
    from ..generative.opening import load
    from .generative import is_run

    if most is not None and most < 1:
        raise DataError(f"--seeds must be a whole number from 1 on; {most} came. Leave it out for all runs.")
    if not folder.strip() or not os.path.isdir(folder):
        raise StoreError(f"There is no folder {folder!r}. Name one that holds a recorded run; kernelscope record "
                         "makes one of a script, and kernelscope train those of a denoiser or a GAN.")
    if is_run(Path(folder)):
        return [load(folder)]
    inside = sorted(entry for entry in Path(folder).iterdir() if entry.is_dir() and is_run(entry))
    if not inside:
        raise StoreError(f"{folder} is no generative run and holds none. Name a folder that a recording of a denoiser "
                         "or of a GAN wrote, or one with several of them.")
    return [load(entry) for entry in inside[:most]]


def _fingerprint(run: Any) -> str:
    return run.fingerprint()[:16]


def _data(word: str | None, a: Any) -> tuple[Tensor | None, Tensor | None]:
    """Points that were held out, and the classes of training points where they are known."""
    from ..generative.reference import points
    from .opening import read

    if word is None:
        return None, None
    if word not in KNOWN:
        return read(word), None
    return points(word, split="test"), _labels(a) if word == "digits" else None


def _labels(run: Any) -> Tensor | None:
    """The classes of the digits, if the run was trained on them in their order."""
    from ..data import digits
    from ..generative.comparing.sides import side_of
    from ..generative.reference import points

    held, known = side_of(run, "A").points, points("digits")
    drawn = ~held.flatten(1).isnan().any(1)
    if len(held) > len(known) or held.shape[1:] != known.shape[1:]:
        return None
    apart = (held - known[: len(held)])[drawn].abs()
    return digits("train").y if bool((apart < 1e-3).all()) else None
