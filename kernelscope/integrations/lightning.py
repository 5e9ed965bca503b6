r"""The training of a Lightning ``Trainer``, recorded by a callback.

Lightning makes the iterator of its loader before it tells callbacks that training starts, and computes each gradient
within the step of its optimizer. So the callback listens from the moment the fit begins, and finds what it must know in
the first backward pass: the network that was called, the batch behind it, and the loss that was called on its outputs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..arguments import as_function, as_path, as_switch, what_came
from ..errors import DataError, RecordingError
from ..losses import Loss
from ..run.autorecord import AutoRecording
from ..run.classes import checked_names
from ..run.run import Run
from ..storage.manifest import exists

#: The packages that have the Trainer, under either of its names.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")

#: Callbacks that replace the trained weights by averages of them.
AVERAGING = ("StochasticWeightAveraging", "WeightAveraging")

ADVICE = """
Tell the callback what it could not find:
    LightningCallback(out, network="net", loss=torch.nn.functional.cross_entropy)
where network is the attribute of the module that is called on a batch, and batch=lambda b: (inputs, targets) says where
the targets stand if they are not the last part of a batch"""


def _base() -> type[Any]:
    """The class of callbacks of the package that is in use."""
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise DataError(
        "LightningCallback records a Trainer of lightning, which is not installed. Install it with pip install "
        "'kernelscope[lightning]'."
    )


if TYPE_CHECKING:
    Base = object
else:
    Base = _base()


class LightningCallback(Base):
    r"""Records the training of a Lightning ``Trainer``, from its beginning to its end.

    The recorded network is what is called on a batch: the module itself, where ``training_step`` says ``self(x)``, or
    the network that it calls. The loss is the function of ``torch.nn.functional`` that is called on the outputs. Both
    may be named instead. A run that was killed is taken up by ``trainer.fit(..., ckpt_path=...)``: what was recorded
    after the checkpoint is dropped and recorded again. Before each checkpoint everything is brought to the disk. With
    ``fast_dev_run`` the run is kept in memory.

    Args:
        out: The folder to record into.
        loss: The per-sample loss, as in :func:`kernelscope.record`; found if not given.
        network: The network: the name of an attribute of the module, such as ``"net"``, or a function of the module
            that gives it; found if not given.
        keep: Which parameters are stored, as in :func:`kernelscope.record`.
        batch: ``batch -> (inputs, targets)``, where ``loss`` is given and the targets do not come last.
        overwrite: Whether a run in ``out`` may be replaced when a training begins anew.
        class_names: A word for each class.
        commit_every: Seconds after which recorded steps are brought to the disk.
        notes: Plain data to keep with the run.

    Raises:
        RecordingError: If the training is one that cannot be recorded, or what must be known was not found.

    Example:
        >>> callback = LightningCallback("runs/net")
        >>> callback.state_dict()
        {'steps': 0}
    """

    def __init__(self, out: str | Path, *, loss: Callable[..., Tensor] | None = None,
                 network: str | Callable[[Any], nn.Module] | None = None, keep: int | str = "all",
                 batch: Callable[[Any], tuple[Any, Any]] | None = None, overwrite: bool = False,
                 class_names: Sequence[str] | None = None, commit_every: float = 1.0,
                 notes: dict[str, Any] | None = None):
        super().__init__()
        self.out = as_path(out, "out, the folder to record into,", 'LightningCallback("runs/net")')
        self._network = network
        self._overwrite = as_switch(overwrite, "overwrite")
        self._options: dict[str, Any] = {
            "keep": keep, "loss": None if loss is None else Loss(loss), "class_names": checked_names(class_names),
            "batch": None if batch is None else as_function(batch, "batch", "of a batch that gives (inputs, targets)"),
            "commit_every": commit_every,
        }
        self._notes = notes or {}
        self._session: AutoRecording | None = None
        self._open = False
        self._expected = 0

    @property
    def run(self) -> Run:
        """The recorded run, after the training."""
        if self._session is None:
            raise RecordingError("No training was recorded yet. Give the callback to a Trainer and call fit().")
        return self._session.run

    # -- what Lightning calls ----------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins to listen."""
        self._close(RecordingError("The training before did not end."))
        _refuse_settings(trainer)
        resumed = trainer.ckpt_path is not None
        if self._expected and resumed and not exists(self.out):
            raise RecordingError(
                f"The checkpoint was written after {self._expected} recorded steps, and there is no recording in "
                f"{self.out}. Name the folder that was recorded into, or fit without ckpt_path to begin again."
            )
        notes = {**({"resumed": True} if resumed and not self._expected else {}), **self._notes}
        _warn_of_averages(trainer)
        self._session = AutoRecording(
            None if trainer.fast_dev_run else self.out, overwrite=self._overwrite and not resumed, resume=resumed,
            network=self._network_of(pl_module), notes=notes, advice=ADVICE, **self._options)
        self._session.__enter__()
        self._open = True

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Brings steps to the disk before others may write to the parameters."""
        self._commit()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Brings steps to the disk before a checkpoint that may be gone on from."""
        self._commit()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the recording."""
        self._close(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Ends the recording; what was recorded is kept."""
        self._close(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Ends a recording that nothing else ended."""
        if stage == "fit":
            self._close(RecordingError("The training ended before its end."))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: how many steps were recorded."""
        recording = None if self._session is None else self._session.recording
        return {"steps": 0 if recording is None else recording.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what a checkpoint kept."""
        self._expected = int(state_dict.get("steps", 0))

    # -- the recording -----------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        recording = self._session.recording if self._session is not None and self._open else None
        if recording is not None and recording.steps:
            recording.commit()

    def _close(self, error: BaseException | None) -> None:
        session, was_open, self._open = self._session, self._open, False
        if session is not None and was_open:
            session.__exit__(None if error is None else type(error), error, None)

    def _network_of(self, module: Any) -> nn.Module | None:
        if self._network is None:
            return None
        found = self._network(module) if callable(self._network) else getattr(module, self._network, None)
        if not isinstance(found, nn.Module):
            names = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
            raise RecordingError(
                f"network={self._network!r} must give the torch.nn.Module that training_step calls, and gives "
                f"{what_came(found)}. The {type(module).__name__} has {', '.join(names) or 'no networks'}."
            )
        return found


def _warn_of_averages(trainer: Any) -> None:
    """Says that other weights than the recorded ones will be in the module after the fit, if that is so."""
    averaging = next((type(callback).__name__ for callback in trainer.callbacks
                      if any(kind.__name__ in AVERAGING for kind in type(callback).__mro__)), None)
    if averaging is not None:
        warnings.warn(
            f"{averaging} puts averaged weights into the module as the fit ends; the run explains the weights that "
            "training moved, which answer otherwise. Leave it out to have what is explained and what is used alike.",
            stacklevel=2,
        )


def _refuse_settings(trainer: Any) -> None:
    """Refuses what cannot be recorded.

    Raises:
        RecordingError: If there is something.
    """
    strategy = type(trainer.strategy).__name__
    if trainer.world_size > 1 or "FSDP" in strategy or "DeepSpeed" in strategy:
        raise RecordingError(
            f"A training with {strategy} and {trainer.world_size} process{'es' * (trainer.world_size > 1)} cannot be "
            "recorded: a recording sees the samples and the parameters of its own process alone. Use devices=1; with "
            "accumulate_grad_batches it may use batches as large."
        )
