"""What is differentiated: outputs of a network, a function of them, or losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import DataError, ModelError
from ..losses import Loss
from ..nested import leaves
from ..network import per_sample_losses


@dataclass(frozen=True)
class Explained:
    """From a network's outputs, and targets beside them, to c numbers for each sample.

    Attributes:
        output: ``None`` for all outputs, the number of one, or a function of the outputs.
        loss: A per-sample loss, taken instead; of outputs that have logits it is given these.

    Raises:
        DataError: If both are given, or an output is asked for that there cannot be.
    """

    output: int | Callable[..., Tensor] | None = None
    loss: Loss | None = None

    def __post_init__(self) -> None:
        output = self.output
        if self.loss is not None and output is not None:
            raise DataError("Either an output or a loss is differentiated; both came. Leave one out.")
        if not (output is None or callable(output) or (isinstance(output, int) and not isinstance(output, bool))):
            raise DataError(f"output must be the number of one output or a function of all; {output!r} came.")

    def __call__(self, outputs: Any, side: Any) -> Tensor:
        """What is differentiated, with shape (n, c)."""
        if self.loss is not None:
            return self._losses(self.loss, outputs, side).unsqueeze(1)
        if callable(self.output):
            outputs = self.output(outputs)
        values = _tensor_of(outputs)
        values = values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)
        if isinstance(self.output, int):
            if not -values.shape[1] <= self.output < values.shape[1]:
                raise DataError(f"output={self.output} asks for one of {values.shape[1]} outputs. Count from 0.")
            return values[:, [self.output]]
        return values

    @staticmethod
    def _losses(loss: Loss, outputs: Any, side: Any) -> Tensor:
        taken = _tensor_of(outputs)
        try:
            return per_sample_losses(loss, taken, side, len(leaves(side)[0]))
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            if taken is outputs:
                raise
            raise ModelError(
                f"The network answers with a {type(outputs).__name__}, of which the loss is given the logits, a tensor "
                f"of shape {tuple(taken.shape)}, and it failed on them ({error}). Write it for them: "
                "loss=lambda logits, targets: ..."
            ) from error


def _tensor_of(outputs: Any) -> Tensor:
    """The outputs of a network as a tensor; those of a language model are its logits."""
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        outputs = logits
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or outputs.ndim == 0:
        kind = type(outputs).__name__
        if isinstance(outputs, Tensor):
            kind = f"{outputs.dtype} of shape {tuple(outputs.shape)}"
        raise ModelError(
            f"The network must give a tensor of real numbers with one row for each sample; it gave {kind}. "
            "Pass output=, a function that takes such a tensor from the outputs."
        )
    return outputs
