r"""Recording a training loop without changing it: the first of the two lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..arguments import as_function, as_path, as_switch, what_came
from ..errors import DataError, RecordingError
from ..losses import Loss
from .classes import checked_names
from .keeping import Keep
from .recording import Recording
from .samples import split_batch
from .tape import Place

__all__ = ["Recording", "record"]


def record(
    model: nn.Module,
    loader: DataLoader[Any] | Sequence[Tensor],
    *,
    loss: Callable[..., Tensor],
    out: str | Path | None = None,
    keep: int | str = "all",
    average: nn.Module | None = None,
    batch: Callable[[Any], tuple[Any, Any]] | None = None,
    ids: Callable[[Any], Any] | None = None,
    targets: Callable[[tuple[Tensor, ...], Tensor], Tensor] | None = None,
    class_names: Sequence[str] | None = None,
    commit_every: float = 1.0,
    overwrite: bool = False,
    resume: bool = False,
    notes: dict[str, Any] | None = None,
) -> Recording:
    r"""Records the training loop inside the ``with`` block.

    The loop stays as it is: any number of epochs over ``loader``, any ``torch.optim`` optimizer, schedules, clipping,
    accumulation. The model, the loader and the random state are left exactly as they would be without recording. One
    network is recorded: its modules and frozen parameters stay as they are until the block ends.

    A sample's id is its place in the data set that the loader reads, ``loader.dataset``. Of a ``Subset`` this is the
    place in the subset, so that the sample behind id i is ``subset.dataset[subset.indices[i]]``; of a ``ConcatDataset``
    the parts follow each other. The loader's ``collate_fn`` keeps the order of the samples, row j of a batch being the
    j-th that was drawn; of the first batches this is checked, on copies. Other ids are given by ``ids``, as from a data
    set that yields one with each sample.

    Args:
        model: The network that is trained, as the loop calls it; of one that is compiled or spread over devices the
            network within is recorded.
        loader: The loader that the loop iterates, which serves one recording at a time; or a pair ``(inputs, targets)``
            of tensors for a loop that indexes them itself, which then calls ``recording.batch(ids)`` before each
            forward pass (not needed where every pass sees all samples).
        loss: The per-sample loss that is minimised, called as ``loss(outputs, targets, reduction="none")`` if it takes
            a reduction, which gives losses with shape :math:`(n,)` or :math:`(n, *)`; a ``torch.nn`` loss module will
            do. A loop may use its mean, its sum, or any multiple.
        out: The folder to record into; ``None`` keeps the run in memory.
        keep: ``"all"`` stores the parameters at every step; a number k at every k-th, the others are replayed; a size
            such as ``"200MB"`` starts with all and thins out when the size is reached.
        average: A module with averaged weights (``torch.optim.swa_utils.AveragedModel`` or a copy) that the loop
            updates; afterwards ``decompose(..., weights="average")`` explains it.
        batch: ``batch -> (inputs, targets)`` for loaders that give something else than ``(..., targets)``.
        ids: ``batch -> whole numbers``, one of its own for each sample: for loaders whose samples have no index, or
            to have other ids than places.
        targets: ``(inputs, given) -> targets`` for a loop that makes its targets from what it feeds the network, as
            where noise is drawn: called with the tensors that a pass received and the batch's own targets, it gives
            what the loss compares the outputs with. Input and target of a sample may then be others at every draw.
        class_names: A word for each class.
        commit_every: Seconds after which recorded steps are brought to the disk; ``0`` commits every step.
        overwrite: Whether a run in ``out`` may be replaced.
        resume: Whether the run in ``out`` is taken up again, at the step whose parameters the model holds and with the
            data it was recorded with, in the same order; where there is none yet, one is begun.
        notes: Plain data to keep with the run.

    Returns:
        A context manager; ``recording.run`` is the :class:`Run` after the block.

    Raises:
        RecordingError: If the loop and the recording do not fit together; the message says what to do.
        DataError: If batches, ids or targets have another form than asked, or two samples share an id.

    Example:
        >>> import torch, torch.nn.functional as F
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x = torch.randn(12, 3); y = x.sum(1, keepdim=True)
        >>> model, loader = nn.Linear(3, 1), DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with record(model, loader, loss=F.mse_loss) as recording:
        ...     for inputs, targets in loader:
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(inputs), targets).backward()
        ...         optimizer.step()
        >>> recording.run
        Run(in memory: 3 steps of SGD, 12 samples, 4 parameters)
    """
    _check_modules(model, average)
    if notes is not None and not isinstance(notes, dict):
        raise DataError(f'notes must be a dictionary of plain data; {what_came(notes)} came. Pass for example '
                        'notes={"seed": 0}.')
    folder = None if out is None else as_path(out, "out, the folder to record into,", 'out="runs/digits"')
    place = Place(folder, commit_every, as_switch(overwrite, "overwrite"), as_switch(resume, "resume"))
    return Recording(
        model, loader, Loss(loss), place=place, keep=Keep.parse(keep), average=average,
        split=split_batch if batch is None else as_function(batch, "batch", "of a batch that gives (inputs, targets)"),
        ids=None if ids is None else as_function(ids, "ids", "of a batch that gives a whole number for each sample"),
        class_names=checked_names(class_names), notes=notes or {},
        targets=None if targets is None else as_function(
            targets, "targets", "of a pass's inputs and the batch's targets", "inputs, given"),
    )


def _check_modules(model: Any, average: Any) -> None:
    for name, module in (("model", model), ("average", average)):
        if not isinstance(module, nn.Module) and not (module is None and name == "average"):
            way = f"Make one of it: {module.__name__}(...)." if isinstance(module, type) else (
                "Pass the network that the loop calls." if name == "model" else
                "Pass torch.optim.swa_utils.AveragedModel(model) or copy.deepcopy(model).")
            raise RecordingError(f"{name} must be a torch.nn.Module; {what_came(module)} came. {way}")
