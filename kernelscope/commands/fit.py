"""A kernel machine, fitted to arrays and kept; the same command goes on after an interruption."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, NonFiniteError
from . import Answer

if TYPE_CHECKING:
    from torch import Tensor

    from ..kernels.base import Kernel
    from ..machine.machine import KernelMachine
    from .arrays import Samples
    from .together import Processes

HELP = "fit a kernel machine to the arrays of an .npz file, and keep it"
DETAILS = (
    "The file holds x, with a row for each sample, and y: one whole number in each row is a label, and so is a row of "
    "whole numbers that are 0 but for a single 1; all else are quantities; and x_test and y_test, if it has test "
    "points. Networks are named by form and depth: fc3, cnn5, cnn5-gap, myrtle5, myrtle7, myrtle10, with another "
    "activation after a dash. Killed or stopped, the same command goes on where it was. Several "
    "GPUs or machines: torchrun --nproc-per-node=2 -m kernelscope fit ..."
)

#: Kernels with a name that are of no network; their bandwidth is the median distance of points.
PLAIN = ("gaussian", "laplacian")

#: What is added to the kernel's diagonal if nothing is said, as a share of its mean.
NOISE = 1e-4

#: The share of samples that is kept apart to see when to stop.
VALIDATION = 0.1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Takes a file, a kernel, and where the machine goes."""
    parser.epilog = DETAILS
    parser.add_argument("data", metavar="DATA.npz", help="the arrays x and y")
    parser.add_argument("--kernel", required=True, metavar="NAME", help="fc3, cnn5, myrtle5, gaussian, laplacian, ...")
    parser.add_argument("--limit", choices=("nngp", "ntk"),
                        help="which kernel of the network: that of random ones (nngp, the default) or that by which "
                             "trained ones learn (ntk)")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--ridge", type=float, metavar="LAMBDA", help="lambda of (K + n lambda) alpha = y")
    amount.add_argument("--noise", type=float, metavar="SHARE",
                        help=f"n lambda instead, as a share of the mean of k(x, x) (default: {NOISE:g})")
    parser.add_argument("-o", "--out", metavar="FOLDER", help="where the machine goes (default: machines/DATA-NAME)")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace the machine that is there, and the unfinished work of another fit")
    parser.add_argument("--test-share", type=float, default=0.2, metavar="SHARE",
                        help="which share of samples is kept apart where the file has no test points (default: 0.2)")
    parser.add_argument("--float64", action="store_true", help="compute in double precision")
    parser.add_argument("--memory", default="4GB", metavar="SIZE", help="about how much may be used (default: 4GB)")
    parser.add_argument("--patience", type=int, metavar="COUNT",
                        help="end when the error on a tenth of the samples, kept apart for this, has not been lower "
                             "for so many steps, and keep the machine that had the lowest")
    parser.add_argument("--checkpoint", metavar="FOLDER",
                        help="where the state of the fit is kept (default: beside the machine)")
    parser.add_argument("--tiles", metavar="FOLDER",
                        help="where the kernel matrix is kept (default: beside the machine, of networks that look at "
                             "pixels; other kernels are computed as they are needed)")


def run(options: argparse.Namespace) -> Answer:
    """Reads, fits, tests and keeps; of several processes, the first one writes and answers."""
    from .together import together

    with together() as processes:
        if not processes.first:
            options.json = False
        answer = _fitted(options, processes)
        return answer if processes.first else Answer("")


def _fitted(options: argparse.Namespace, processes: Processes) -> Answer:
    import torch

    from ..machine.fit import fit
    from . import telling
    from .arrays import samples_of
    from .work import Work

    if not 0 <= options.test_share < 1:
        raise DataError(f"--test-share is a share from 0 on, below 1; {options.test_share:g} came. Write 0.2.")
    kernel, spatial = _kernel(options)
    out = _out(options)
    samples = samples_of(options.data, options.test_share, torch.float64 if options.float64 else torch.float32)
    samples = (samples.as_images(options.data) if spatial else samples).on(processes.device)
    validation = None
    if options.patience is not None:
        samples, validation = samples.apart(VALIDATION)
    kernel = kernel.fitted(samples.x)
    ridge = _ridge(options, kernel, samples.x)
    work = Work(out.with_name(f"{out.name}.work"), _described(options, samples, validation, kernel, ridge, processes))
    checkpoint = Path(options.checkpoint or work.folder / "checkpoint")
    tiles = options.tiles or (work.folder / "tiles" if spatial else None)
    work.check(options.overwrite)
    processes.meet()
    if processes.first:
        work.begin()
    processes.meet()
    if processes.first and not options.json:
        apart = "" if validation is None else f", {len(validation[0]):,} more to see when to stop"
        sys.stdout.write(f"{options.data}: {samples.said()}{apart}.\n")
    try:
        machine = fit(kernel, samples.x, samples.targets, ridge=ridge, intercept=samples.classes is None, solver="cg",
                      memory=options.memory, checkpoint=checkpoint, tiles=tiles, distributed=processes.several,
                      validation=validation, patience=options.patience, progress=False if options.json else None)
        outputs = processes.split(machine, samples.x_test) if len(samples.x_test) else None
    except KeyboardInterrupt:
        sys.stderr.write(f"kernelscope: the same command goes on from {telling.near(work.folder)}.\n")
        raise
    if not processes.first:
        return Answer("")
    machine.save(out, overwrite=options.overwrite)
    work.end(options.checkpoint is not None)
    return _answer(options, out, tiles, machine, samples, {} if outputs is None else tested(samples, outputs))


def _kernel(options: argparse.Namespace) -> tuple[Kernel, bool]:
    """The kernel of a name, and whether it looks at pixels."""
    from .. import kernels
    from ..kernels.infinite.images import OfImages
    from ..kernels.infinite.named import FORMS, named

    if options.kernel in PLAIN:
        if options.limit is not None:
            raise DataError(f"--limit is one of a network, and {options.kernel} is a kernel by itself. Leave it out.")
        return getattr(kernels, options.kernel.capitalize())(), False
    try:
        net = named(options.kernel)
    except DataError as error:
        raise DataError(f"--kernel is {', '.join(PLAIN)} or the name of a network, {', '.join(FORMS)} with a number "
                        f"for N; {options.kernel!r} came. Write for example --kernel fc3.") from error
    kernel = net.ntk if options.limit == "ntk" else net.nngp
    return kernel, isinstance(kernel, OfImages)


def _out(options: argparse.Namespace) -> Path:
    """Where the machine goes; refused before anything is computed if it cannot."""
    out = Path(options.out or Path("machines") / f"{Path(options.data).stem}-{options.kernel}")
    if out.exists() and not options.overwrite:
        raise DataError(f"{out} is there already. Name another folder with -o, or replace it with --overwrite.")
    return out


def _ridge(options: argparse.Namespace, kernel: Kernel, x: Tensor) -> float:
    for name, value in (("--ridge", options.ridge), ("--noise", options.noise)):
        if value is not None and not 0 <= value < float("inf"):
            raise DataError(f"{name} is a number from 0 on; {value} came. Write {name} 1e-4.")
    if options.ridge is not None:
        return float(options.ridge)
    try:
        mean = float(kernel.diagonal(x).double().mean())
    except NonFiniteError:
        mean = float("inf")
    if not mean < float("inf"):
        raise NonFiniteError(f"The kernel of the samples with themselves is NaN or infinite: numbers as large as "
                             f"{float(x.abs().max()):.1e} are too large for {options.kernel}. Save them smaller, "
                             "x / abs(x).max().")
    return (NOISE if options.noise is None else options.noise) * mean / len(x)


def _described(options: argparse.Namespace, samples: Samples, validation: tuple[Tensor, Tensor] | None, kernel: Kernel,
               ridge: float, processes: Processes) -> dict[str, str]:
    """What the fit is of, in words that another one has not."""
    from .. import __version__
    from ..machine.reading import digest_of

    data = digest_of(samples.x, samples.targets, *(validation or ()))
    return {"data": data, "kernel": repr(kernel), "precision": str(samples.x.dtype), "ridge": repr(ridge),
            "patience": repr(options.patience), "memory": str(options.memory), "version": __version__,
            "processes": str(1 if processes.ranks is None else processes.ranks.size)}


def tested(samples: Samples, outputs: Tensor) -> dict[str, float]:
    """How well test points are told: the share of right classes, or the root mean squared error beside the spread."""
    if samples.classes is not None:
        return {"accuracy": float((outputs.argmax(1) == samples.y_test).double().mean())}
    rest = (outputs.double() - samples.y_test.double()).square().mean()
    spread = (samples.y_test.double() - samples.targets.double().mean(0)).square().mean()
    return {"rmse": float(rest.sqrt()), "spread": float(spread.sqrt())}


def _answer(options: argparse.Namespace, out: Path, tiles: Path | str | None, machine: KernelMachine,
            samples: Samples, found: dict[str, float]) -> Answer:
    from . import telling

    fitting = machine.fitting
    assert fitting is not None
    counted = f"{len(samples.x_test):,} test point{'s' * (len(samples.x_test) != 1)}"
    lines = []
    if "accuracy" in found:
        lines.append(f"Right on {100 * found['accuracy']:.2f} % of {counted}.")
    elif found:
        lines.append(f"Root mean squared error {found['rmse']:.4g} on {counted}, which spread by "
                     f"{found['spread']:.4g} around the mean of the samples.")
    lines += [f"Note: {note}" for note in fitting.notes]
    lines.append(f"The machine is in {telling.near(out)}: ks.KernelMachine.load({telling.near(out)!r})({samples.asked})"
                 + (".argmax(1)" if samples.classes is not None else "") + " answers for points x.")
    if samples.classes is not None and samples.classes != list(range(len(samples.classes))):
        lines.append(f"Its columns are the classes {', '.join(map(str, samples.classes))}, in this order.")
    if tiles is not None:
        lines.append(f"The kernel matrix is in {telling.near(tiles)}: --tiles {telling.near(tiles)} reads it again for "
                     "another ridge; delete it if there will be none.")
    return Answer("\n".join(lines), {
        "machine": str(out), "kernel": repr(machine.kernel), "samples": len(samples.x), "ridge": fitting.ridge,
        "test_points": len(samples.x_test), **found, "classes": samples.classes, "passes": fitting.passes,
        "residual": fitting.history[-1]["residual"] if fitting.history else None,
        "seconds": round(fitting.seconds, 2), "notes": fitting.notes, "tiles": None if tiles is None else str(tiles)})
