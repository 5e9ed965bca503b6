r"""From a question to an explanation: which output is explained, by which groups, in which words.

Whatever is asked, the ledger is that of :func:`kernelscope.decompose`; here its one output is chosen and named, and the
samples and true answers that a person will read are put beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from ..run.run import Run
from . import wording
from .exact import decompose
from .explanation import Explanation, shown
from .output import advice
from .questions import as_queries, as_targets, as_words, checked_count, checked_run, in_order
from .result import Decomposition
from .targets import class_targets, shape_of


def explain(
    run: Run,
    x: Any,
    *,
    targets: Any = None,
    output: None | str | int | Callable[..., Tensor] = None,
    k: int = 8,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> Explanation:
    r"""Says which training samples made the network's answer to each query, and when.

    Args:
        run: The recorded run.
        x: The queries, with shape :math:`(q, *)`, or one query without its batch axis; in any form that
            :func:`kernelscope.decompose` takes.
        targets: Their true answers, if known, with shape :math:`(q,)`; classes by their index, or in the form of the
            targets in training.
        output: What to explain. ``None`` takes the margin of a classifier (predicted class minus runner-up), the logit
            of the second of two classes that one output tells apart, and the first output of anything else; a number
            takes that output; a callable takes ``outputs`` and returns :math:`(q, 1)`.
        k: How many samples to show on each side.
        labels: A word for each training sample, as a list, an array or a tensor; by default the class of each, where
            training was on classes, and else whether its target is low, middle or high, by thirds. Samples are grouped
            by it.
        options: Passed to :func:`kernelscope.decompose`.

    Raises:
        DataError: If queries, targets, labels or options do not fit the run.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> x, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> model, loader = torch.nn.Linear(4, 2), DataLoader(TensorDataset(x, y), batch_size=4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=4.0)
        >>> with ks.record(model, loader, loss=F.cross_entropy, class_names=["left", "right"]) as recording:
        ...     for epoch in range(20):
        ...         for inputs, targets in loader:
        ...             optimizer.zero_grad()
        ...             F.cross_entropy(model(inputs), targets).backward()
        ...             optimizer.step()
        >>> why = explain(recording.run, x[0], k=2)
        >>> why.sentence().split(" with")[0]
        'The network predicts left'
        >>> why.helpful()[["sample", "label"]].values.tolist()
        [[0, 'left'], [1, 'left']]
    """
    run, k = checked_run(run), checked_count(k)
    _check_options(options)
    words = run.labels if labels is None else as_words(labels, "labels")
    if words is not None and len(words) != run.size:
        raise DataError(f"explain needs one label for each of the run's {run.size} samples; got {len(words)}.")
    with torch.inference_mode(False):
        queries = as_queries(in_order(run, x), tuple(run.samples.inputs), alike=True)
        given = as_targets(targets, len(queries[0]), run)
        asked = "answer" if output is None else _one_number(output) if callable(output) else output
        ledger = decompose(run, queries, asked, targets=given, groups=words, **options)
        name = ledger.output_names[0]
        kind = name if name in ("margin", "logit") else "output"
        # Where a network has one output, its number tells nobody anything; nor does that of a function of them.
        single = "explained output" if callable(output) else "output" if _one_quantity(run) else name
        names = [single] if name == "0" else ledger.output_names
        if given is not None and run.is_classification:
            given = class_targets(given, run, ledger.outputs)
        return from_decomposition(
            replace(ledger, labels=words, output_names=names), queries, run.sample, kind=kind, classes=run.class_names,
            targets=given, k=k, column=int(name) if name.isdigit() and not callable(output) else None,
        )


def _check_options(options: Mapping[str, Any]) -> None:
    known = list(signature(decompose).parameters)
    passed = [name for name in known[known.index("targets") + 1:] if name != "groups"]
    odd = next((name for name in options if name not in passed), None)
    if odd is not None:
        way = "Samples are grouped by labels=." if odd == "groups" else f"Those of decompose are {', '.join(passed)}."
        raise DataError(f"explain has no option {odd!r}. {way}")


def _one_number(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, refused before anything is computed if it gives several numbers for a query."""
    @wraps(function, updated=())
    def picked(outputs: Any, *others: Any) -> Tensor:
        values = function(outputs, *others)
        if isinstance(values, Tensor) and values.ndim and values[:1].numel() > 1:
            raise DataError(
                f"An explanation is of one number for each query, and the function given as output gives "
                f"{values[:1].numel()}, with the shape {tuple(values.shape)}; the network's outputs are "
                f"{shape_of(outputs)}. {advice(outputs)} decompose takes all of them."
            )
        return values

    return picked


def from_decomposition(
    ledger: Decomposition,
    x: Tensor | tuple[Tensor, ...],
    sample: Callable[[int], tuple[Tensor | tuple[Tensor, ...], Tensor] | None],
    *,
    kind: str = "margin",
    classes: Sequence[str] | None = None,
    targets: Tensor | None = None,
    k: int = 8,
    column: int | None = None,
) -> Explanation:
    """Reads an explanation from a ledger that is already there.

    Args:
        ledger: The decomposition of one output for each query.
        x: The queries, with shape :math:`(q, *)`, or several inputs of each.
        sample: From a sample's position in the ledger to its (input, target), or to ``None`` if it is not known.
        kind: ``"margin"``, ``"logit"`` or ``"output"``.
        classes: A word for each class.
        targets: The true answers, if known.
        k: How many samples to show on each side.
        column: Which entry of a target of several numbers is the true value of the explained output, if one is.

    Raises:
        DataError: If the ledger holds more than one output for each query.
    """
    if ledger.initial.shape[1] != 1:
        raise DataError(
            f"An explanation is of one output for each query, and the ledger has {ledger.initial.shape[1]}. Pass the "
            'number of one of them, as output=0, output="margin" for the lead of a class, or a function that picks a '
            "number for each query, such as output=lambda outputs: outputs.flatten(1)[:, 0]."
        )
    if kind == "margin" and ledger.outputs is not None and not classes:
        classes = [str(i) for i in range(max(ledger.outputs.shape[1], 2))]
    classes = [] if kind == "output" else [str(name) for name in classes or []]
    known = {i: sample(i) for i in shown(ledger, k).tolist()}
    pairs = [pair for pair in known.values() if pair is not None]
    queries = _in_a_row(x)
    inputs = [_in_a_row(tuple(t[None] for t in _parts(pair[0]))) for pair in pairs]
    return Explanation(
        decomposition=ledger,
        inputs=queries,
        samples=torch.tensor([i for i, pair in known.items() if pair is not None], dtype=torch.long),
        sample_inputs=torch.cat(inputs) if inputs else queries[:0],
        kind=kind,
        classes=classes,
        targets=None if targets is None else _in_words(targets, classes, column),
        k=k,
        sample_targets=[word for pair in pairs for word in _in_words(pair[1][None], classes, column)],
    )


def _parts(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else x


def _in_a_row(x: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A copy of inputs as one tensor; of several the entries in a row, whose shape is that of no picture."""
    parts = [t.detach().cpu() for t in _parts(x)]
    return parts[0].clone() if len(parts) == 1 else torch.cat([t.flatten(1) for t in parts], 1).unsqueeze(1)


def _one_quantity(run: Run) -> bool:
    """Whether each sample has one number as its target, and not the index of a class."""
    targets = run.samples.targets
    return targets is not None and targets.is_floating_point() and targets.shape[1:].numel() == 1


def _in_words(targets: Tensor, classes: Sequence[str], column: int | None) -> list[str]:
    """A word for each target; an empty one where it has several entries and none of them is what is explained."""
    rows = targets.detach().cpu().reshape(len(targets), -1)
    if classes and rows.shape[1] == len(classes) > 1:
        rows = rows.argmax(1, keepdim=True)  # probabilities of classes
    if rows.shape[1] > 1:
        rows = rows[:, :0] if column is None else rows[:, column:column + 1]
    return [_word(row[0], classes) if row else "" for row in rows.tolist()]


def _word(target: float, classes: Sequence[str]) -> str:
    if not float(target).is_integer():
        return wording.number(target)
    if classes:
        return classes[int(target)] if 0 <= target < len(classes) else str(int(target))
    return f"{int(target):,}".replace("-", "−")
