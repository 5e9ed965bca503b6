"""What is explained: a function of the network's outputs, one row for each query."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import DataError, ModelError
from ..network import per_sample_losses
from ..run.losses import Loss

#: The names that stand for a common output.
NAMED = ("logits", "margin", "loss")


@dataclass(frozen=True, eq=False)
class OutputFunctional:
    """A map from one query's outputs, and what is fixed about the query, to a vector of c numbers.

    Attributes:
        function: ``(outputs of one query with a leading axis of 1, side) -> (1, c)``.
        side: What is fixed for each query, a tensor with one row for each, or ``None``.
        names: A word for each of the c numbers.
        chosen: For a margin, predicted class and runner-up of each query, with shape (q, 2).
    """

    function: Callable[[Any, Any], Tensor]
    side: Tensor | None
    names: list[str]
    chosen: Tensor | None = None

    def __call__(self, outputs: Any, side: Any) -> Tensor:
        """The explained numbers, with shape (n, c)."""
        return self.function(outputs, side)


def output_functional(output: str | Callable[..., Tensor] | None, final: Any, targets: Tensor | None, loss: Loss,
                      class_names: list[str] | None) -> OutputFunctional:
    """Makes the functional that ``decompose(..., output=)`` asks for.

    Args:
        output: ``None`` or ``"logits"``: all outputs; ``"margin"``: the output of the class predicted in the end minus
            that of its runner-up; ``"loss"``: the training loss, needs targets; or a function of ``(outputs)`` or
            ``(outputs, targets)`` that gives one row for each query.
        final: The network's outputs at the end of the run, for all queries.
        targets: The queries' targets, with one row for each.
        loss: The loss of the run.
        class_names: A word for each class.
    """
    if output is None or output == "logits":
        return _checked(OutputFunctional(lambda out, side: _rows(out), None, []), final, class_names)
    if output == "margin":
        if not isinstance(final, Tensor) or final.ndim != 2 or final.shape[1] < 2:
            raise DataError(
                f"A margin needs outputs with shape (n, classes) and two classes or more; this network gives "
                f"{_shape(final)}. Pass output=None for all outputs, or a function of the outputs."
            )
        chosen = final.topk(2, dim=1).indices
        margin = OutputFunctional(
            lambda out, side: out.gather(1, side[:, :1]) - out.gather(1, side[:, 1:]), chosen, ["margin"], chosen
        )
        return margin
    if output == "loss":
        targets = _needed(targets, final)
        # One number for each query, as for a sample in training: further axes are averaged.
        each = lambda out, side: per_sample_losses(loss, out, side, len(side)).unsqueeze(1)
        return OutputFunctional(each, targets, ["loss"])
    if callable(output):
        function = output
        if _takes_two(function):
            given = OutputFunctional(lambda out, side: _rows(function(out, side)), _needed(targets, final), [])
        else:
            given = OutputFunctional(lambda out, side: _rows(function(out)), None, [])
        return _checked(given, final, None)
    raise DataError(
        f"output must be None, one of {', '.join(NAMED)}, or a function of the outputs; {output!r} came. "
        "None explains all outputs of the network."
    )


def _rows(values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim == 0:
        raise ModelError(
            f"The explained output must be a tensor with one row for each query; it is {_shape(values)}. "
            "Pass output=lambda outputs: ... that picks such a tensor."
        )
    return values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)


def _checked(functional: OutputFunctional, final: Any, class_names: list[str] | None) -> OutputFunctional:
    rows = functional(final, functional.side)
    count = rows.shape[1]
    named = class_names if class_names is not None and len(class_names) == count else [str(i) for i in range(count)]
    return OutputFunctional(functional.function, functional.side, list(named))


def _needed(targets: Tensor | None, final: Any) -> Tensor:
    count = len(final) if isinstance(final, Tensor) else None
    if targets is None or (count is not None and len(targets) != count):
        came = "none came" if targets is None else f"{len(targets)} came"
        raise DataError(f"This output needs one target for each of the {count} queries, and {came}. Pass targets=...")
    return targets


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in positional if p.default is p.empty]) >= 2 or any(p.name == "targets" for p in positional)


def _shape(values: Any) -> str:
    return f"a tensor with shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
