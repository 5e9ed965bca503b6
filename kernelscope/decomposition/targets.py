"""The targets of queries, brought into the form of those in training, or refused."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import DataError
from ..nested import leaves
from ..network import per_sample_losses
from ..run.classes import class_indices
from ..run.run import Run


def fitted_targets(targets: Tensor, final: Any, run: Run) -> Tensor:
    """Targets in the form of those in training, so that the loss means the same.

    Raises:
        DataError: If they are of another kind or shape, or no classes of this network.
    """
    known = run.samples.targets
    if known is not None:
        if targets.is_floating_point() > known.is_floating_point():
            raise DataError(
                f"The loss of this run takes whole numbers as targets ({known.dtype}), and {targets.dtype} came. "
                "Use targets.long() if they are classes."
            )
        if targets.shape[1:].numel() == known.shape[1:].numel():
            # Numbers that are alone in their row, or not, would be broadcast against the outputs.
            targets = targets.reshape(len(targets), *known.shape[1:])
        elif targets.ndim != known.ndim:
            raise DataError(
                f"The targets of a batch in training had {known.ndim} axes, as {tuple(known.shape)}, and the shape "
                f"{tuple(targets.shape)} came. Give them in the same form."
            )
        if not targets.is_floating_point():
            targets = targets.to(leaves(final)[0].dtype if known.is_floating_point() else known.dtype)
    if run.loss.name in ("cross_entropy", "nll_loss") and not targets.is_floating_point() and isinstance(final, Tensor):
        ignored = run.loss.options.get("ignore_index", -100)
        checked_classes(targets[targets != ignored], final.shape[1] if final.ndim > 1 else 1)
    try:
        per_sample_losses(run.loss, final, targets, len(targets))
    # What a loss cannot take it refuses by any of these.
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        form = "" if known is None else f" Those in training were {shape_of(known)} of {known.dtype}."
        raise DataError(
            f"The loss of this run cannot take these targets ({str(error).strip().splitlines()[0][:160]}); they are "
            f"{shape_of(targets)} of {targets.dtype}.{form}"
        ) from error
    return targets


def class_targets(targets: Tensor, run: Run, outputs: Tensor | None) -> Tensor:
    """The class of each query, from targets in any form that stands for one, with shape (q,).

    Args:
        targets: Indices, numbers that are 0 or 1 where there are two classes, or rows of probabilities.
        run: The run.
        outputs: The outputs of the network, with shape (q, C, T + 1), if it has vectors.

    Raises:
        DataError: If they stand for no classes of this network.
    """
    names = run.class_names or []
    count = len(names) if outputs is None else max(len(names), outputs.shape[1])
    alone = targets[:1].numel() == 1
    indices = targets.reshape(-1).long() if alone and not targets.is_floating_point() else (
        class_indices(targets, run.loss.name) if not alone or count == 2 else None)
    if indices is None or not alone and targets.shape[1] != count:
        raise DataError(
            f"targets must be classes, one of {count} for each query, and {shape_of(targets)} of {targets.dtype} came. "
            "Give the index of each query's class, as torch.tensor([0, 2, 1])."
        )
    checked_classes(indices, count)
    return indices


def checked_classes(indices: Tensor, count: int) -> None:
    """Refuses indices of classes that there are not."""
    outside = indices[(indices < 0) | (indices >= count)]
    if len(outside):
        raise DataError(
            f"targets hold the class {int(outside[0])}, and the network tells {count} classes apart, 0 to {count - 1}. "
            "Give the index of each query's class."
        )


def shape_of(values: Any) -> str:
    """The shape of a tensor in words, or the kind of anything else."""
    if not isinstance(values, Tensor):
        return f"a {type(values).__name__}"
    kind = "" if values.is_floating_point() else f" of {values.dtype}"
    return f"a tensor{kind} with shape {tuple(values.shape)}" if values.ndim else f"a single number{kind}"
