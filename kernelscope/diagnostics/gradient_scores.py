r"""Gradient scores: which training samples pull a network the way a test sample wants to go.

A step of gradient descent on training sample j alone, with learning rate :math:`\eta`, lowers the loss of test sample
i by

.. math:: s_{ij} = \eta\, \langle \nabla_\theta \ell_i, \nabla_\theta \ell_j \rangle

to first order in :math:`\eta`: the product of two loss gradients, the tangent kernel of the losses. Summed over
checkpoints of a run, each with its learning rate, it is known as TracInCP. With gradients of length 1 it is a cosine.
Gradients of outputs compare samples by what raises the same outputs, whatever their targets.

It is not a contribution: the scores of all samples do not add up to what training did. It is not an influence either:
nothing is left out and trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from ..data.points import Points
from ..errors import DataError
from ..kernels.tangent import Tangent
from .scores import GradientScores, Top, check_k, strongest

#: What scores may be taken apart by.
PARTS = ("all", "parameter", "layer")

#: The share of the memory that scores may fill of which only the strongest are kept.
SHARE = 0.3


def gradient_scores(model: nn.Module, test: Any, train: Any = None, *, loss: Callable[..., Tensor] | None,
                    output: int | Callable[..., Tensor] | None = None, cosine: bool = False, by: str = "all",
                    k: int | None = None, proponents: bool = True,
                    checkpoints: Sequence[Mapping[str, Tensor]] | None = None,
                    learning_rates: float | Sequence[float] = 1.0, parameters: Sequence[str] | None = None,
                    dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                    memory: int | str = "1GB", precision: str = "exact", check: bool = False) -> GradientScores | Top:
    r"""Scores every training sample for every test sample by the product of their loss gradients.

    .. math:: s_{ij} = \sum_k \eta_k\, \langle \nabla\ell_i(\theta_k), \nabla\ell_j(\theta_k) \rangle

    with shape :math:`(n_{test}, n_{train})`. Positive is a *proponent*: a gradient step on the training sample lowers
    the loss of the test sample. This is the grad-dot similarity, with checkpoints TracInCP. It compares gradients, and
    says nothing of what would happen without a sample (its influence), nor of what it gave along the run (its
    contribution).
    The module is read in eval mode, from a copy.

    Args:
        model: The network.
        test: Test samples: pairs of inputs and targets, as tensors, a data set, a loader that does not shuffle, ...
        train: Training samples; without them they are the test samples.
        loss: A per-sample loss; a function of ``torch.nn.functional`` is asked for ``reduction="none"``. With ``None``
            gradients of outputs are compared, and samples are inputs alone: positive then means that a step which
            raises the outputs of the one raises those of the other, added up over the outputs. A loss is given the
            outputs; of a network that answers with a dictionary or an object that has ``logits``, the logits, as a
            tensor.
        output: With ``loss=None``, the number of one output, or a function of the outputs; without it all of them.
        cosine: Whether gradients are brought to length 1 first, so that large losses do not outweigh all others.
        by: ``"parameter"`` or ``"layer"`` to keep also the scores by each of them alone.
        k: With it only the k strongest of each test sample are kept, and given as ``(indices, scores)``.
        proponents: With k, whether the largest scores are wanted, or the smallest.
        checkpoints: State dictionaries of the module along its training; without them its present state.
        learning_rates: The weight of each checkpoint, or of all.
        parameters: Names of parameters or modules to differentiate by; without it all that require a gradient.
        dtype: The precision to compute in; without it that of the parameters.
        device: Where to compute; without it where the parameters are.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; ``"tf32"`` or ``"bf16"`` round gradients before products are taken.
        check: Whether a random corner is compared with Jacobians in float64; the result tells the error.

    Returns:
        The scores; or with k the strongest of them.

    Raises:
        DataError: If an option or the samples are not as described.
        ModelError: If the loss does not give one number for each sample, or a state is that of another module.
        OutOfBudget: If the scores do not fit into ``memory``; with k they need not.

    References:
        | Estimating Training Data Influence by Tracing Gradient Descent (Pruthi et al., 2020)
        | Input Similarity from the Neural Network Perspective (Charpiat et al., 2019)

    Example:
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [1.0]])
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = model.weight.data.fill_(0.0)
        >>> scores = gradient_scores(model, (x, y), loss=nn.functional.mse_loss)
        >>> scores.scores                            # 4 x_i y_i x_j y_j
        tensor([[ 4.,  8.],
                [ 8., 16.]])
        >>> scores.top(1).indices
        tensor([[1],
                [1]])
    """
    if by not in PARTS:
        raise DataError(f"by must be one of {', '.join(PARTS)}; {by!r} came.")
    if k is not None and by != "all":
        raise DataError(f"k keeps the strongest by all parameters together, and by={by!r} came. Leave k out, and call "
                        ".top(k, part=...) of the result.")
    if k is not None:
        check_k(k)
    if k is not None and check:
        raise DataError("The error that check=True finds is told by the whole result, and k gives indices and scores "
                        "alone. Leave k out, and call .top(k) of the result.")
    if loss is not None and not callable(loss):
        raise DataError(f"loss must be a function of outputs and targets, and {loss!r} came. Pass for example "
                        "loss=torch.nn.functional.cross_entropy; or loss=None, to compare gradients of outputs.")
    kernel = Tangent(model, loss=loss, output=output, cosine=cosine, parameters=parameters, dtype=dtype, device=device,
                     memory=memory, precision=precision)
    rates = _rates(learning_rates, checkpoints)
    queries, query_labels = _noting(kernel.points(test))
    samples, labels = (queries, query_labels) if train is None else _noting(kernel.points(train))
    other = None if train is None else samples

    def kernels() -> Iterator[tuple[float, Tangent]]:
        # One after the other, so that the states of all of them are not held twice.
        for rate, state in zip(rates, [None] if checkpoints is None else checkpoints, strict=True):
            yield rate, kernel if state is None else kernel.at(state)

    def total(columns: Points | None) -> Tensor:
        return _sums({"": rate * one(queries, columns)} for rate, one in kernels())[""]

    if k is not None:
        step = max(1, int(SHARE * kernel.features.memory // (len(queries) * kernel.features.dtype.itemsize)))
        return strongest(total(other), k, proponents) if step >= len(samples) else \
            _by_and_by(total, samples, step, k, proponents)
    taken = Tangent.by_layer if by == "layer" else Tangent.by_parameter
    parts = None if by == "all" else _sums({name: rate * part for name, part in taken(one, queries, other).items()}
                                           for rate, one in kernels())
    return GradientScores(
        scores=total(other) if parts is None or cosine else torch.stack(list(parts.values())).sum(0), parts=parts,
        of="outputs" if loss is None else "losses", cosine=cosine, rates=rates, square=train is None,
        query_labels=_as_labels(query_labels, len(queries)), labels=_as_labels(labels, len(samples)),
        class_names=_class_names(test if train is None else train),
        error=max(one.check(queries, other).error for _, one in kernels()) if check else None,
        dtype=str(kernel.features.dtype).removeprefix("torch."))


def _by_and_by(total: Callable[[Points], Tensor], samples: Points, step: int, k: int, proponents: bool) -> Top:
    """The strongest of scores that are computed for some training samples at a time."""
    best: Top | None = None
    for start in range(0, len(samples), step):
        columns = range(start, min(start + step, len(samples)))
        indices, scores = strongest(total(samples.chosen(columns)), k, proponents)
        indices = indices + start
        if best is not None:
            indices, scores = (torch.cat(pair, 1) for pair in zip(best, (indices, scores), strict=True))
        places, scores = strongest(scores, k, proponents)
        best = Top(indices.gather(1, places), scores)
    assert best is not None
    return best


def _rates(rates: Any, checkpoints: Any) -> list[float]:
    """The weight of each state."""
    if checkpoints is not None and (not isinstance(checkpoints, Sequence) or not checkpoints
                                    or not all(isinstance(state, Mapping) for state in checkpoints)):
        raise DataError("checkpoints must be a list of state dictionaries, as model.state_dict() gives them.")
    count = 1 if checkpoints is None else len(checkpoints)
    try:
        given = torch.as_tensor(rates, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"learning_rates must be numbers, and {rates!r} came. Pass one for each checkpoint.") from error
    each = given.tolist() if given.ndim == 1 else [float(given)] * count if given.ndim == 0 else []
    if len(each) != count or not all(map(isfinite, each)):
        raise DataError(f"learning_rates must be a number, or one for each of the {count} states; {rates!r} came.")
    return each


def _sums(terms: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sums by name, on the CPU."""
    total: dict[str, Tensor] = {}
    for term in terms:
        total = {name: value.cpu() + total[name] if total else value.cpu() for name, value in term.items()}
    return total


def _noting(points: Points) -> tuple[Points, dict[int, int]]:
    """The same points; the classes of those that are read are noted."""
    labels: dict[int, int] = {}

    def read(numbers: Sequence[int]) -> Any:
        part = points.chosen(numbers).part(0, len(numbers))
        targets = part.targets
        if isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point():
            labels.update(zip(numbers, targets.tolist(), strict=True))
        return part

    return Points(len(points), read), labels


def _as_labels(labels: dict[int, int], count: int) -> Tensor | None:
    return torch.tensor([labels[i] for i in range(count)]) if len(labels) == count else None


def _class_names(data: Any) -> list[str] | None:
    # A loader and a subset name the data set that they draw from.
    while not hasattr(data, "class_names") and hasattr(data, "dataset"):
        data = data.dataset
    names = getattr(data, "class_names", None)
    return None if names is None else [str(name) for name in names]
