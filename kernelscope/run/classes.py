r"""What the targets of a run say about classes, and a word for each of them.

A target stands for a class in one of three ways. It is the index of the class; or it is 0 or 1 (under a binary cross
entropy, a probability) and there are two classes; or it is a row of probabilities, and the class is its largest entry.
Other targets are quantities: where a sample has one number, it is called low, middle or high, by thirds of the samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..arguments import what_came
from ..errors import DataError

#: Losses under which a number between 0 and 1 is the probability of the second of two classes.
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

#: Losses of quantities, under which a row that adds up to one need not be one of probabilities.
QUANTITIES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss")

#: How far the probabilities of a row may be from adding up to one, as they are in half precision.
WHOLE = 1e-2

#: Whole numbers from here on are targets that count something, and get no list of names.
MOST_CLASSES = 2**16


def class_indices(targets: Tensor, loss: str | None) -> Tensor | None:
    """The class of each target, with shape (n,), or ``None`` if they are quantities.

    Args:
        targets: The targets, with one row for each sample.
        loss: The name of the loss in ``torch.nn.functional``, if it has one.

    Example:
        >>> import torch
        >>> class_indices(torch.tensor([[0.0], [1.0]]), None), class_indices(torch.tensor([0.3, 1.7]), None)
        (tensor([0, 1]), None)
    """
    if not len(targets) or targets.ndim > 2 or targets.is_complex():
        return None
    if targets.ndim == 1 and not targets.is_floating_point():
        return targets.long()
    rows = targets.reshape(len(targets), -1).double()
    marked = bool(((rows == 0) | (rows == 1)).all())
    inside = bool(((rows >= 0) & (rows <= 1)).all())
    if rows.shape[1] == 1:
        return (rows[:, 0] > 0.5).long() if marked or (inside and loss in BINARY) else None
    whole = rows.shape[1] > 1 and inside and bool(((rows.sum(1) - 1).abs() <= WHOLE).all())
    return rows.argmax(1) if whole and (marked or loss not in QUANTITIES) else None


def class_count(targets: Tensor, indices: Tensor) -> int:
    """How many classes targets speak of at least, given the class of each."""
    if targets.ndim == 2 and targets.shape[1] > 1:
        return targets.shape[1]
    return max(int(indices.max()) + 1, 2 if targets.ndim == 2 or targets.is_floating_point() else 1)


def thirds(values: Tensor) -> list[str] | None:
    """Whether each number is low, middle or high, or ``None`` if these are not three groups.

    Example:
        >>> import torch
        >>> thirds(torch.tensor([0.1, 0.2, 5.0]))
        ['low (≤ 0.1)', 'middle', 'high (> 0.2)']
    """
    if len(values) < 3:
        return None
    ordered = values.double().sort().values
    low, high = (float(ordered[len(ordered) * part // 3 - 1]) for part in (1, 2))
    words = [f"low (≤ {low:.3g})".replace("-", "−"), "middle", f"high (> {high:.3g})".replace("-", "−")]
    places = ((values.double() > low).int() + (values.double() > high).int()).tolist()
    return [words[place] for place in places] if set(places) == {0, 1, 2} else None


def checked_names(names: Any) -> list[str] | None:
    """Names of classes as they are kept.

    Raises:
        DataError: If they are not words, each another.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) and not hasattr(names, "tolist"):
        raise DataError(
            f"class_names must be a list with a word for each class; {what_came(names)} came. Pass for example "
            'class_names=["cat", "dog"], or leave it out.'
        )
    words = list(names.reshape(-1)) if hasattr(names, "reshape") else list(names)
    odd = next((word for word in words if not isinstance(word, str)), None)
    if odd is not None or not words:
        came = f"{odd!r} is among them" if words else "none came"
        raise DataError(
            f"class_names must be words, one for each class; {came}. Pass [str(name) for name in names], or leave "
            "class_names out: the numbers of the classes are their names then."
        )
    twice = next((word for word, times in Counter(words).items() if times > 1), None)
    if twice is not None:
        raise DataError(f"class_names must tell classes apart, and {twice!r} comes twice. Give each its own word.")
    return [str(word) for word in words]


def compare_names(names: Sequence[str], outputs: Any, targets: Tensor, loss: str | None) -> None:
    """Compares the names of classes with outputs and targets of a batch; raises if there are more or fewer classes."""
    indices = class_indices(targets, loss)
    if indices is None or not isinstance(outputs, Tensor) or len(outputs) != len(targets) or outputs.ndim > 2:
        return
    width = outputs[0].numel()
    if width > 1 and targets[0].numel() in (1, width):
        count = width
    elif width == 1 and int(indices.min()) >= 0 and int(indices.max()) <= 1:
        count = 2
    else:
        return
    if len(names) != count:
        raise DataError(
            f"class_names must hold a word for each of the {count} classes that the network tells apart; "
            f"{len(names)} came. Name them in the order of the network's outputs."
        )
