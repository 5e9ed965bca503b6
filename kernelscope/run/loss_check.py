r"""A look at the first losses: does the recorded loss give a number for each sample, in the precision of a ledger?

A share is the gradient of a sample's own loss, taken in float64. A loss that reduces by itself, that gives a number
for each token, or that holds tensors of one precision would end every decomposition of the run; it is named at the
first step instead, before anything was trained for nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordingError
from ..losses import Loss
from ..nested import leaves, mapped
from ..network import cast, exact_arithmetic, random_state
from .deliveries import len_of
from .samples import Samples
from .step import MicroBatch
from .subject import Subject

#: Said where a loader gives its targets elsewhere than last.
SWAPPED = (
    "What was taken for the targets, the last part of a batch, is what the network received. If the targets stand "
    "elsewhere in a batch, say where: record(..., batch=lambda b: (b[1], b[0])), the inputs first; of a pair of "
    "tensors pass (inputs, targets)."
)

#: Rows that are tried in float64: outputs over many tokens and words are large.
FEW = 2


def refuse_other_losses(subject: Subject, loss: Loss, samples: Samples, batch: MicroBatch) -> None:
    """Calls the loss on the outputs of a batch, as they are and in float64.

    Raises:
        RecordingError: If it cannot be called, or does not give one number for each sample.
    """
    network, device = subject.network, subject.device
    parameters = {name: p.detach() for name, p in subject.parameters.items()}
    inputs, targets = samples.read(batch)
    swapped = received(inputs, targets)
    targets = targets.to(device)
    count = len(targets)
    with exact_arithmetic(), torch.no_grad(), random_state(batch.random, device), warnings.catch_warnings():
        # What torch has to say of a loss it says in the loop.
        warnings.simplefilter("ignore")
        outputs = network(parameters, network.buffers, tuple(x.to(device) for x in inputs), batch.training)
        about = f"{_shapes(inputs, outputs, targets)}. {f'{SWAPPED} Else pass' if swapped else 'Pass'}"
        losses = _called(loss, outputs, targets, about)
        if not isinstance(losses, Tensor) or losses.shape[:1] != (count,):
            raise _odd(losses, count, about)
        few = cast((_first(outputs, count), targets[:FEW]), torch.float64, device)
        _called(loss, few[0], few[1], "", precise=True)


def received(inputs: Sequence[Tensor], targets: Tensor) -> bool:
    """Whether what was taken for the targets of a batch is what the network received."""
    return any(x.shape == targets.shape and torch.equal(x.cpu(), targets.cpu()) for x in inputs)


def _called(loss: Loss, outputs: Any, targets: Tensor, about: str, precise: bool = False) -> Any:
    try:
        return loss(outputs, targets)
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError) as error:
        raise _failed(error, about, precise) from error


def _first(value: Any, count: int) -> Any:
    """The first rows of nested tensors."""
    return mapped(lambda t: t[:FEW] if len_of(t) == count else t, value)


def _shapes(inputs: Sequence[Tensor], outputs: Any, targets: Tensor) -> str:
    said = [", ".join(str(tuple(t.shape)) for t in tensors) for tensors in (inputs, leaves(outputs))]
    kind = str(targets.dtype).removeprefix("torch.")
    return (f"the network received the shape {said[0]}, its outputs had the shape "
            f"{said[1] or f'none (a {type(outputs).__name__})'}, the targets {tuple(targets.shape)} of {kind}")


def _odd(losses: Any, count: int, about: str) -> RecordingError:
    came = f"numbers of shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
    return RecordingError(
        f"The loss must give one number for each of the {count} samples of a batch, as a tensor of shape ({count},), "
        f"and it gave {came}; {about} record(..., loss=...) a function that takes "
        'reduction="none", such as torch.nn.functional.cross_entropy, or one (outputs, targets) -> (n,) that reduces '
        "over tokens or pixels but not over samples. It is called for shares alone; the loop may use its mean."
    )


def _failed(error: Exception, about: str, precise: bool) -> RecordingError:
    said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    if precise:
        return RecordingError(
            f"The loss can be called on the network's outputs, but not in float64, in which shares are computed "
            f"({said}). Let tensors that it holds, such as class weights, follow the outputs: weight.to(outputs.dtype) "
            "within the function, or torch.nn.CrossEntropyLoss(weight=...), where they follow by themselves."
        )
    return RecordingError(
        f"The loss cannot be called on the first batch ({said}); {about} record(..., "
        "loss=...) the function of outputs and targets that the loop minimises, (outputs, targets) -> (n,) or one that "
        'takes reduction="none"; where the targets are not the last part of a batch, batch=lambda b: (inputs, targets).'
    )
