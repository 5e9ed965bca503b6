"""A run logged where its user keeps runs: five numbers, the course of the kernel, and the page."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import as_path, as_switch
from ..decomposition.explaining import explain
from ..decomposition.questions import checked_run
from ..run.run import Run
from .scalars import DEFINITIONS, Scalars, run_scalars
from .trackers import Tracker, tracker

#: How many probes the page explains.
EXPLAINED = 8


@dataclass(frozen=True)
class Logged:
    """What was logged, and where.

    Attributes:
        where: The folder, address or run.
        scalars: The five numbers, and the course of the kernel.
        page: Whether a page was.
    """

    where: str
    scalars: Scalars
    page: bool

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {'not known' if value is None else format(value, '.3g')}"
                         for name, value in self.scalars.five.items())
        return (f"Logged({told}; {len(self.scalars.steps)} times of the kernel{', and the page' * self.page}, to "
                f"{self.where})")


def log_run(run: Run, probes: Any = None, *, to: Any, targets: Any = None, report: Any = True, name: str | None = None,
            times: Any = 12, memory: int | str = "1GB", progress: bool | None = None) -> Logged:
    """Logs five numbers of a run, the course of its kernel along the steps, and a page that explains its answers.

    The numbers are those of :func:`run_scalars`. TensorBoard shows numbers and Markdown and no HTML page: there the
    page is put beside the event files, and its path is told. A tracker that runs already is used, and left running;
    Weights & Biases is started offline unless ``WANDB_MODE`` says otherwise.

    Args:
        run: The recorded run.
        probes: The points that are asked about; 16 training samples if not given.
        to: ``"tensorboard"``, ``"wandb"`` or ``"mlflow"``, with a folder after a colon (``"tensorboard:runs/tb"``) or,
            of MLflow, an address (``"mlflow:sqlite:///runs.db"``); or a ``SummaryWriter``, a run of Weights & Biases,
            or one of MLflow.
        targets: The targets of the probes.
        report: ``True`` for a page that explains up to 8 of the probes, the path of another page, or ``False``.
        name: What the run is called there, if it is started here.
        times: At how many times, or which steps, the kernel is taken.
        memory: About how much may be used.
        progress: Whether bars are shown; on a terminal or in a notebook, if not given.

    Returns:
        What was :class:`Logged`.

    Raises:
        DataError: If there is no such tracker, or its package is missing.
        StoreError: If the tracker cannot keep a run.

    Example:
        >>> import kernelscope as ks, torch, torch.nn.functional as F
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> ks.integrations.log_run(recording.run, to="nowhere")
        Traceback (most recent call last):
        ...
        kernelscope.errors.DataError: A run is logged to one of tensorboard, wandb, mlflow, ...
    """
    run = checked_run(run)
    page = None if isinstance(report, bool) else as_path(report, "The page", 'report="report.html"')
    with tracker(to, name) as place, tempfile.TemporaryDirectory() as folder:
        told = run_scalars(run, probes, targets=targets, times=times, memory=memory, progress=progress)
        if page is None and as_switch(report, "report"):
            page = _explained(run, probes, targets, told, Path(folder) / "report.html", progress)
        log(place, told, page)
        return Logged(place.where, told, page is not None)


def log(place: Tracker, told: Scalars, page: Path | None) -> None:
    """Writes what is told of a run to a tracker."""
    place.scalars(told.five, DEFINITIONS)
    for name, values in told.course.items():
        place.course(name, told.steps, values)
    if page is not None:
        place.page(page)


def _explained(run: Run, probes: Any, targets: Any, told: Scalars, file: Path, progress: bool | None) -> Path:
    """A page about some of the probes."""
    from ..decomposition.stochastic.points import as_points
    from ..diagnostics.evolution.choosing import evenly
    from ..report import Report

    points = as_points(run, probes, targets)
    some = points.chosen(evenly(_places(len(points)), EXPLAINED))
    x = some.inputs[0] if len(some.inputs) == 1 else some.inputs
    five = ", ".join(f"{name} {'not known' if value is None else format(value, '.3g')}"
                     for name, value in told.five.items())
    return Report("Why does it answer so?", [f"{told.probes}: {five}.", explain(
        run, x, targets=some.targets, progress=progress)], {"run": run.fingerprint()[:16]}).save(file)


def _places(count: int) -> Any:
    import torch

    return torch.arange(count)
