"""Which of many samples are looked at: evenly spaced among all, sorted by what they are."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly(order: Tensor, count: int) -> Tensor:
    """So many entries of an order, evenly spaced, each once.

    Example:
        >>> evenly(torch.arange(10), 4)
        tensor([1, 3, 6, 8])
    """
    n = len(order)
    return order if count >= n else order[((torch.arange(count) * 2 + 1) * n // (2 * count))]


def sorted_by(columns: Tensor) -> Tensor:
    """The order of samples by their class, or by the first column of quantities; those alike in their own order."""
    if columns.shape[1] > 1 and bool(((columns == 0) | (columns == 1)).all()):
        return columns.argmax(1).argsort(stable=True)
    return columns[:, 0].argsort(stable=True)
