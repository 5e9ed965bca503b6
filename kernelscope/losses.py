"""The loss of each sample of a batch, and its name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .arguments import what_came
from .errors import DataError
from .nested import leaves
from .network import cast

#: Losses that a stored run may name: taken from torch by this list, never imported from a file's word.
KNOWN = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
         "binary_cross_entropy_with_logits", "soft_margin_loss", "multi_margin_loss", "kl_div", "poisson_nll_loss")


def token_cross_entropy(outputs: Tensor, targets: Tensor, shift: int = 0, label_smoothing: float = 0.0,
                        ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    r"""The cross entropy of each text's tokens: a text's loss is the sum over its tokens, in nats.

    A loop that divides a batch's sum by the number of its tokens minimises a multiple of the mean of these sums, and
    each token counts alike, however long its text.

    Args:
        outputs: The logits, with shape :math:`(n, T, V)`.
        targets: The tokens, with shape :math:`(n, T)`.
        shift: By how many places a target stands behind its logits: 1 where each token predicts the next.
        label_smoothing: The part of the target that is spread over all V words.
        ignore_index: Where targets have this number, nothing is to be predicted.
        reduction: ``"none"`` for the sums, with shape :math:`(n,)`; ``"mean"`` for the mean over all tokens.

    Example:
        >>> import torch
        >>> outputs, targets = torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]])
        >>> token_cross_entropy(outputs, targets, reduction="none") / torch.tensor(4.0).log()
        tensor([2.])
    """
    if shift:
        outputs, targets = outputs[:, :-shift], targets[:, shift:]
    losses = F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", ignore_index=ignore_index,
                             label_smoothing=label_smoothing)
    return losses.sum(1) if reduction == "none" else losses.sum() / (targets != ignore_index).sum()


#: Losses that a stored run may name and that torch does not have.
OWN = {"token_cross_entropy": token_cross_entropy}


class Loss:
    """A loss of outputs and targets, once for each sample and once as the mean a loop would use.

    Attributes:
        name: Its name in ``torch.nn.functional``, or ``None``.
        options: The plain options it was made with.
    """

    def __init__(self, function: Callable[..., Tensor]):
        if not callable(function):
            raise DataError(
                f"loss must be a function (outputs, targets) of a batch, but {what_came(function)} came. Pass for "
                "example loss=torch.nn.functional.cross_entropy."
            )
        if isinstance(function, type):
            raise DataError(
                f"loss must be a function (outputs, targets) of a batch, but the class {function.__name__} came. Make "
                f"one of it: loss={function.__name__}(...)."
            )
        self.function = function
        self.name: str | None = None
        self.options: dict[str, Any] = {}
        self._each: Callable[..., Tensor] = function
        self._mean: Callable[..., Tensor] = function
        if isinstance(function, nn.Module):
            self._each, self._mean = _reduced(function, "none"), _reduced(function, "mean")
            self.name, self.options = _as_function(function)
        else:
            if _takes_reduction(function):
                self._each = lambda outputs, targets: function(outputs, targets, reduction="none")
            known = getattr(function, "__name__", None)
            if known in KNOWN and getattr(F, known) is function or known in OWN and OWN[known] is function:
                self.name = known

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The losses without reduction."""
        return self._each(outputs, targets)

    def mean(self, outputs: Any, targets: Any) -> Tensor:
        """One number for the batch, computed as a plain loop would compute it."""
        value = self._mean(outputs, targets)
        return value if value.ndim == 0 else value.mean()


def named_loss(name: Any, options: Any) -> Loss | None:
    """The loss of this name in ``torch.nn.functional``, or ``None`` for one that is not known."""
    if name not in KNOWN and name not in OWN:
        return None
    function: Callable[..., Tensor] = OWN[name] if name in OWN else getattr(F, name)
    if not options:
        return Loss(function)
    own = {"input", "target", "outputs", "targets", "reduction", "size_average", "reduce"}
    numbers = set(inspect.signature(function).parameters) - own
    plain = {key: value for key, value in options.items() if key in numbers and isinstance(value, bool | int | float)}

    def with_options(outputs: Any, targets: Any, reduction: str = "mean") -> Tensor:
        return function(outputs, targets, reduction=reduction, **plain)

    loss = Loss(with_options)
    loss.name, loss.options = name, plain
    return loss


def _reduced(module: nn.Module, reduction: str) -> Callable[..., Tensor]:
    """A copy of a loss module with another reduction, its own tensors in the precision and place of the outputs."""
    copied = copy.deepcopy(module)
    if hasattr(copied, "reduction"):
        copied.__dict__["reduction"] = reduction

    def loss(outputs: Any, targets: Any) -> Tensor:
        # A ledger in float64 needs class weights in float64.
        held = {**dict(copied.named_buffers()), **dict(copied.named_parameters())}
        for first in leaves(outputs)[:1]:
            held = cast(held, first.dtype, first.device)
        return functional_call(copied, held, (outputs, targets))

    return loss


_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy", nn.NLLLoss: "nll_loss", nn.MSELoss: "mse_loss", nn.L1Loss: "l1_loss",
    nn.SmoothL1Loss: "smooth_l1_loss", nn.HuberLoss: "huber_loss", nn.BCELoss: "binary_cross_entropy",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits", nn.SoftMarginLoss: "soft_margin_loss",
}


def _as_function(module: nn.Module) -> tuple[str | None, dict[str, Any]]:
    name = _MODULES.get(type(module))
    if name is None or any(True for _ in module.buffers()):
        return None, {}
    options = {key: getattr(module, key) for key in ("label_smoothing", "ignore_index", "beta", "delta")
               if hasattr(module, key)}
    return name, options


def _takes_reduction(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "reduction" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
