"""What is explained: a function of the network's outputs, one row for each query."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_whole, what_came
from ..errors import DataError, ModelError
from ..network import cast, per_sample_losses
from ..run.run import Run
from .targets import fitted_targets, shape_of

#: The names that stand for a common output.
NAMED = ("logits", "margin", "answer", "loss")


@dataclass(frozen=True, eq=False)
class OutputFunctional:
    """A map from one query's outputs, and what is fixed about the query, to a vector of c numbers.

    Attributes:
        function: ``(outputs of one query with a leading axis of 1, side) -> (1, c)``.
        side: What is fixed for each query, a tensor with one row for each, or ``None``.
        names: A word for each of the c numbers.
    """

    function: Callable[[Any, Any], Tensor]
    side: Tensor | None
    names: list[str]

    def __call__(self, outputs: Any, side: Any) -> Tensor:
        """The explained numbers, with shape (n, c)."""
        return self.function(outputs, side)

    def to(self, dtype: torch.dtype) -> OutputFunctional:
        """The same numbers in the precision of the ledger, whatever a function of the user's own gives."""
        return replace(self, function=lambda outputs, side: self.function(outputs, side).to(dtype))


def output_functional(output: Any, final: Any, targets: Tensor | None, run: Run, count: int) -> OutputFunctional:
    """Makes the functional that ``decompose(..., output=)`` asks for.

    Args:
        output: ``None`` or ``"logits"``: all outputs; a number: the output of this index; ``"margin"``: the output of
            the class predicted in the end minus that of its runner-up; ``"answer"``: what says most about a query;
            ``"loss"``: the training loss, needs targets; or a function of ``(outputs)`` or ``(outputs, targets)`` that
            gives one row for each query.
        final: The network's outputs at the end of the run, for all queries.
        targets: The queries' targets, with one row for each.
        run: The run.
        count: The number of queries.

    Raises:
        DataError: If the network has no such output, or targets are missing or none that the loss takes.
    """
    named = output if isinstance(output, str) else None
    if output is None or named == "logits":
        all_of_them = OutputFunctional(_rows, None, [])
        return _named(all_of_them, _first(all_of_them, final, count), run.class_names)
    index = as_whole(output)
    if index is not None:
        return _column(index, _first(OutputFunctional(_rows, None, []), final, count).shape[1])
    if named == "margin":
        return _margin(final, run)
    if named == "answer":
        kind = natural_output(run, final)
        if kind == "margin":
            return _margin(final, run)
        first = _column(0, _first(OutputFunctional(_rows, None, []), final, count).shape[1])
        return replace(first, names=["logit"]) if kind == "logit" else first
    if named == "loss":
        targets = fitted_targets(_needed(targets, count), final, run)
        # One number for each query, as for a sample in training: further axes are averaged.
        each = lambda out, side: per_sample_losses(run.loss, out, side, len(side)).unsqueeze(1)
        return OutputFunctional(each, targets, ["loss"])
    if callable(output):
        function = output
        if _takes_two(function):
            given = OutputFunctional(lambda out, side: _rows(function(out, side)), _needed(targets, count), [])
        else:
            given = OutputFunctional(lambda out, side: _rows(function(out)), None, [])
        return _named(given, _first(given, final, count), None)
    raise DataError(
        f"output must be None, one of {', '.join(NAMED)}, the number of an output, or a function of the outputs; "
        f"{what_came(output)} came. None explains all outputs of the network."
    )


def natural_output(run: Run, final: Any) -> str:
    """What says most about a query: a ``"margin"`` of several classes, the ``"logit"`` of two, or an ``"output"``."""
    if not run.is_classification or not isinstance(final, Tensor):
        return "output"
    if final.ndim == 2 and final.shape[1] > 1:
        # Whole numbers beyond the outputs count something.
        return "margin" if len(run.class_names or ()) <= final.shape[1] else "output"
    return "logit" if _is_one_logit(final, run) else "output"


def _column(index: int, width: int) -> OutputFunctional:
    if not -width <= index < width:
        raise DataError(
            f"output={index} is none of the network's {width} outputs, numbered 0 to {width - 1}. Pass one of these, "
            "or a function of the outputs."
        )
    index %= width
    return OutputFunctional(lambda out, side: _rows(out)[:, index:index + 1], None, [str(index)])


def _margin(final: Any, run: Run) -> OutputFunctional:
    if isinstance(final, Tensor) and final.ndim == 2 and final.shape[1] > 1:
        chosen = final.topk(2, dim=1).indices
        return OutputFunctional(
            lambda out, side: out.gather(1, side[:, :1]) - out.gather(1, side[:, 1:]), chosen, ["margin"])
    if isinstance(final, Tensor) and _is_one_logit(final, run):
        # Where one logit tells two classes apart, it is the lead of the second, and its negative that of the first.
        second = (final.reshape(-1, 1) > 0).long()
        return OutputFunctional(lambda out, side: out.reshape(-1, 1) * (2 * side - 1), second, ["margin"])
    raise DataError(
        f"A margin needs outputs with shape (n, classes) and two classes or more, or one logit for two classes; this "
        f"network gives {shape_of(final)}. {advice(final)}"
    )


def _is_one_logit(final: Tensor, run: Run) -> bool:
    r"""Whether the network's only output is the logit of the second of two classes.

    Of a logit z, and of nothing else, :math:`\ell(z, 0) - \ell(z, 1) = z`.
    """
    indices, known = run.class_indices, run.samples.targets
    if final.ndim > 2 or final[:1].numel() != 1 or indices is None or known is None or known[:1].numel() != 1:
        return False
    if not len(indices) or int(indices.min()) < 0 or int(indices.max()) > 1:
        return False
    if run.loss.name is not None or isinstance(run.loss.function, torch.nn.BCEWithLogitsLoss):
        return run.loss.name in (None, "binary_cross_entropy_with_logits")
    z = torch.tensor([-3.0, -0.5, 0.25, 2.0]).to(final)
    zeros = cast(torch.zeros(4, *known.shape[1:], dtype=known.dtype), final.dtype, final.device)
    both = zeros, torch.ones_like(zeros)
    try:
        losses = [per_sample_losses(run.loss, z.reshape(4, *final.shape[1:]), t, 4) for t in both]
    # A loss of another kind may refuse such numbers in any of these ways.
    except (ModelError, RuntimeError, ValueError, IndexError, TypeError):
        return False
    return bool(torch.allclose(losses[0] - losses[1], z, rtol=1e-4, atol=1e-4))


def _rows(values: Any, side: Any = None) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim == 0 or not values.is_floating_point():
        raise ModelError(
            f"The explained output must be a tensor of real numbers with one row for each query; it is "
            f"{shape_of(values)}. {advice(values)}"
        )
    return values.unsqueeze(1) if values.ndim == 1 else values.flatten(1)


def _first(functional: OutputFunctional, final: Any, count: int) -> Tensor:
    """What is explained at the end of the run, with one row for each query."""
    try:
        rows = functional(final, functional.side)
    # Whatever a function of the user's own does not find in the outputs.
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The function given as output fails on the network's outputs, {shape_of(final)}, with a "
            f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}. It is "
            f"called with the outputs of the queries, and gives one row for each of them."
        ) from error
    if len(rows) != count:
        raise DataError(
            f"The explained output must have one row for each of the {count} queries, and it has the shape "
            f"{tuple(rows.shape)}. {advice(final)}"
        )
    return rows


def _named(functional: OutputFunctional, rows: Tensor, class_names: list[str] | None) -> OutputFunctional:
    count = rows.shape[1]
    named = class_names if class_names is not None and len(class_names) == count else [str(i) for i in range(count)]
    return OutputFunctional(functional.function, functional.side, list(named))


def _needed(targets: Tensor | None, count: int) -> Tensor:
    if targets is None:
        raise DataError(f"This output needs a target for each of the {count} queries, and none came. Pass targets=...")
    return targets


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in positional if p.default is p.empty]) >= 2 or any(p.name == "targets" for p in positional)


def advice(values: Any) -> str:
    """The function that would pick a number for each query out of such outputs."""
    if isinstance(values, Tensor):
        picked = f"outputs{_pick(values)}"
        if values.ndim > 2:
            picked += f", one entry of the {tuple(values.shape[1:])} that each query has"
        return f"Pass a function that picks a number for each query, such as output=lambda outputs: {picked}."
    parts: dict[str, Any] = {}
    if isinstance(values, Mapping):
        parts = {f"[{key!r}]": part for key, part in values.items()}
    elif is_dataclass(values):
        parts = {f".{part.name}": getattr(values, part.name) for part in fields(values)}
    elif isinstance(values, list | tuple):
        parts = {f"[{i}]": part for i, part in enumerate(values)}
    picked = next((f"{path}{_pick(part)}" for path, part in parts.items() if isinstance(part, Tensor)), "...[:, 0]")
    return f"Pass a function that picks a number for each query, such as output=lambda outputs: outputs{picked}."


def _pick(values: Tensor) -> str:
    """The index of one number for each row, such as that of one position and class."""
    return f"[:{', 0' * max(values.ndim - 1, 1)}]"
