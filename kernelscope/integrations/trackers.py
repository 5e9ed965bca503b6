"""Where runs are kept side by side: TensorBoard, Weights & Biases, MLflow. Each takes numbers, words and one page.

A tracker that is running is used and left running; one that is started here is ended here. Nothing is sent anywhere
unless the user's own settings say so: Weights & Biases starts offline, and MLflow writes where it is told.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import what_came
from ..errors import DataError, StoreError

#: What stands before each name.
ROOM = "kernelscope"

#: The name of the page.
PAGE = "kernelscope-report.html"

#: The trackers, and the extra that installs each.
KINDS = ("tensorboard", "wandb", "mlflow")


class Tracker(ABC):
    """One place to which a run is logged, for as long as a ``with`` block lasts."""

    where: str

    @abstractmethod
    def scalars(self, five: Mapping[str, float | None], definitions: Mapping[str, str]) -> None:
        """Writes the five numbers with what they are."""

    @abstractmethod
    def course(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Writes a number along the steps of training."""

    @abstractmethod
    def page(self, page: Path) -> None:
        """Keeps the page."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was started here."""

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()


class TensorBoard(Tracker):
    """Event files in a folder. TensorBoard shows numbers and Markdown but no HTML, so the page lies beside them."""

    def __init__(self, target: Any = None, name: str | None = None):
        made = _imported("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self._own = not hasattr(target, "add_scalar")
        self._writer = made.SummaryWriter(str(Path(target or "runs/tensorboard") / name if name else
                                              target or "runs/tensorboard")) if self._own else target
        self.where = str(self._writer.log_dir)

    def scalars(self, five: Mapping[str, float | None], definitions: Mapping[str, str]) -> None:
        for name, value in five.items():
            if value is not None:
                self._writer.add_scalar(f"{ROOM}/{name}", value, 0)
        told = [f"- **{name}**: {'not known' if five[name] is None else format(five[name], '.4g')}. {words}"
                for name, words in definitions.items()]
        self._writer.add_text(f"{ROOM}/definitions", "\n".join(told), 0)

    def course(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        for step, value in zip(steps, values, strict=True):
            self._writer.add_scalar(f"{ROOM}/course/{name}", value, step)

    def page(self, page: Path) -> None:
        kept = Path(self.where) / PAGE
        shutil.copyfile(page, kept)
        self._writer.add_text(f"{ROOM}/report", "TensorBoard shows no HTML page. This one lies beside the event files; "
                                                f"open it in a browser: `{kept}`", 0)

    def close(self) -> None:
        self._writer.flush()
        if self._own:
            self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases: the one that is active, or one of its own, offline unless ``WANDB_MODE`` says more."""

    def __init__(self, target: Any = None, name: str | None = None):
        self._package = _imported("wandb", "wandb", "wandb")
        given = hasattr(target, "log")
        running = target if given else self._package.run
        self._own = running is None
        if running is None:
            folder = None if target is None else str(target)
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
            running = self._package.init(project=os.environ.get("WANDB_PROJECT", ROOM), name=name, dir=folder,
                                         mode=os.environ.get("WANDB_MODE", "offline"),
                                         settings=self._package.Settings(silent=True))
        self._run = running
        self.where = str(getattr(running, "dir", "") or "wandb")
        self._rows: dict[int, dict[str, float]] = {}

    def scalars(self, five: Mapping[str, float | None], definitions: Mapping[str, str]) -> None:
        for name, value in five.items():
            if value is not None:
                self._run.summary[f"{ROOM}/{name}"] = value
        self._run.config.update({f"{ROOM}_definitions": dict(definitions)}, allow_val_change=True)

    def course(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        for step, value in zip(steps, values, strict=True):
            self._rows.setdefault(step, {})[f"{ROOM}/course/{name}"] = value

    def page(self, page: Path) -> None:
        self._run.log({f"{ROOM}/report": self._package.Html(page.read_text(encoding="utf-8"), inject=False)})

    def close(self) -> None:
        # An axis of its own: the run's steps may count something else, and have gone on.
        self._run.define_metric(f"{ROOM}/step")
        self._run.define_metric(f"{ROOM}/course/*", step_metric=f"{ROOM}/step")
        for step, row in sorted(self._rows.items()):
            self._run.log({f"{ROOM}/step": step, **row})
        if self._own:
            self._run.finish()


class MLflow(Tracker):
    """A run of MLflow: the one that is active, or one of its own, in a folder, at a tracking address, or as set."""

    def __init__(self, target: Any = None, name: str | None = None):
        package = _imported("mlflow", "mlflow", "mlflow")
        known = getattr(getattr(target, "info", None), "run_id", None)
        active = package.active_run() if target is None else None
        self._own = known is None and active is None
        address = None if known is not None or target is None else _address(str(target))
        try:
            self._client = package.MlflowClient(tracking_uri=address)
            if self._own:
                found = self._client.get_experiment_by_name(ROOM)
                experiment = found.experiment_id if found is not None else self._client.create_experiment(ROOM)
                known = self._client.create_run(experiment, run_name=name).info.run_id
        # MLflow refuses a store by its own error, and a database by that of the package that reads it.
        except (package.exceptions.MlflowException, ImportError, OSError) as error:
            raise StoreError(
                f"MLflow cannot keep a run in {address or package.get_tracking_uri()}: "
                f"{str(error).strip().splitlines()[0][:200]} Databases need the whole package (pip install mlflow), "
                "and plain folders MLFLOW_ALLOW_FILE_STORE=true in the environment.") from error
        self._id = active.info.run_id if known is None and active is not None else known
        self.where = f"{address or package.get_tracking_uri()}, run {self._id}"

    def scalars(self, five: Mapping[str, float | None], definitions: Mapping[str, str]) -> None:
        for name, value in five.items():
            if value is not None:
                self._client.log_metric(self._id, f"{ROOM}/{name}", value, step=0)
        self._client.log_dict(self._id, dict(definitions), f"{ROOM}-definitions.json")

    def course(self, name: str, steps: Sequence[int], values: Sequence[float]) -> None:
        for step, value in zip(steps, values, strict=True):
            self._client.log_metric(self._id, f"{ROOM}/course/{name}", value, step=step)

    def page(self, page: Path) -> None:
        self._client.log_text(self._id, page.read_text(encoding="utf-8"), PAGE)

    def close(self) -> None:
        if self._own:
            self._client.set_terminated(self._id)


def _address(target: str) -> str:
    """Where MLflow keeps runs: an address as it is, and of a folder its database, or the folder itself."""
    from importlib.util import find_spec

    if "://" in target or target.startswith("file:"):
        return target
    folder = Path(target).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}" if find_spec("sqlalchemy") else folder.as_uri()


def _imported(module: str, package: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(f"To log to {package}, the package {package} is needed, and it cannot be imported ({error}). "
                        f"Install it: pip install 'kernelscope[{extra}]'.") from error


def tracker(to: Any, name: str | None = None) -> Tracker:
    """The tracker that a word or an object stands for.

    Args:
        to: ``"tensorboard"``, ``"wandb"`` or ``"mlflow"``, with a folder or an address after a colon if one is meant;
            or a ``SummaryWriter``, a run of Weights & Biases, or one of MLflow.
        name: What a run that is started here is called.

    Raises:
        DataError: If it stands for none, or its package is missing.
        StoreError: If it cannot keep a run.
    """
    made: dict[str, type[TensorBoard] | type[WandB] | type[MLflow]] = {
        "tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
    if isinstance(to, str):
        kind, colon, target = to.partition(":")
        if kind in made and (target or not colon):
            return made[kind](target or None, name)
    elif hasattr(to, "add_scalar") and hasattr(to, "add_text"):
        return TensorBoard(to)
    elif hasattr(to, "log") and hasattr(to, "summary"):
        return WandB(to)
    elif hasattr(getattr(to, "info", None), "run_id"):
        return MLflow(to)
    raise DataError(f"A run is logged to one of {', '.join(KINDS)}, with a folder after a colon if one is meant, or to "
                    f"an object of theirs; {what_came(to)} came. Pass for example \"tensorboard:runs/tb\".")
