"""A loss that a script calls on the outputs of its network: what it is called, and which tensor is its target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import Loss, named_loss
from ..nested import leaves
from ..network import cast

#: Losses that compare entry with entry, so that outputs and targets may be reshaped together.
ELEMENTWISE = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
               "binary_cross_entropy_with_logits", "poisson_nll_loss")


class LossCall:
    """A loss that was called on the outputs of a network; it counts once it has received a gradient.

    Args:
        name: Its name in ``torch.nn.functional``.
        arguments: What it was given, by the names of its parameters.
        inputs: The first of them.

    Attributes:
        target: The target it was given.
        options: Its other arguments, but for how it reduces.
        used: Whether it counts.
    """

    def __init__(self, name: str, arguments: dict[str, Any], inputs: Tensor):
        self.name = name
        self.inputs = inputs
        rest = dict(list(arguments.items())[1:])
        self.target = rest.pop("target")
        self.options = {key: value for key, value in rest.items()
                        if key not in ("reduction", "size_average", "reduce") and value is not None}
        self.used = False

    def use(self, _: Tensor) -> None:
        """Takes note that its value receives a gradient."""
        self.used = True

    def as_loss(self) -> Loss | None:
        """The same loss without reduction, by its name where its options are plain."""
        if all(isinstance(value, bool | int | float | str) for value in self.options.values()):
            return named_loss(self.name, self.options)
        if self.name in ELEMENTWISE and isinstance(self.options.get("weight"), Tensor):
            return None
        function = getattr(F, self.name)
        options = {key: value.detach().clone() if isinstance(value, Tensor) else value
                   for key, value in self.options.items()}

        def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
            return function(outputs, targets, reduction=reduction, **cast(options, outputs.dtype, outputs.device))

        return Loss(loss)


def target_of(call: LossCall, batch: Any, output: Tensor) -> Callable[[Any], tuple[Any, Tensor]] | None:
    """Which tensor of a batch is the target, in which type and shape; ``None`` if none is."""
    target = call.target
    if not isinstance(target, Tensor) or target.ndim == 0 or target.requires_grad:
        return None
    if call.name in ELEMENTWISE:
        if target.shape != call.inputs.shape:
            return None
        tail = output.shape[1:]
    elif call.inputs.shape == output.shape:
        tail = target.shape[1:]
    else:
        return None
    dtype, wanted = target.dtype, target.detach().cpu()
    for place, leaf in enumerate(leaves(batch)):
        if leaf.ndim and len(leaf) == len(output) and leaf.numel() == target.numel():
            if torch.equal(leaf.detach().cpu().to(dtype).reshape(target.shape), wanted):
                return lambda batch: ((), (t := leaves(batch)[place]).to(dtype).reshape(len(t), *tail))
    return None


def same_values(inputs: Any, output: Tensor) -> bool:
    """Whether a loss was given the outputs themselves, or a view of all of them."""
    return inputs is output or (
        isinstance(inputs, Tensor) and inputs.requires_grad and inputs.numel() == output.numel()
        and inputs.data_ptr() == output.data_ptr() and inputs.dtype == output.dtype
    )
