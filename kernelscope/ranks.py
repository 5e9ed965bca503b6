r"""What is told by ranks alone: correlations and separations that no rescaling of the numbers changes."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """The rank of each number among its row, from 1 on; equal ones share the mean of theirs.

    Example:
        >>> ranks(torch.tensor([3.0, 1.0, 3.0]))
        tensor([2.5000, 1.0000, 2.5000], dtype=torch.float64)
    """
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.numpy(), axis=-1))


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """The rank correlation of two vectors, or of each row of two matrices; 0 if one of them is constant.

    Example:
        >>> float(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])))
        -1.0
    """
    x, y = ranks(one), ranks(other)
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    size = x.norm(dim=-1) * y.norm(dim=-1)
    found = torch.where(size > 0, (x * y).sum(-1) / size.where(size > 0, 1.0), 0.0)
    # Ranks that are alike correlate by 1, and not by 1 + 2e-16.
    return found.round(decimals=12)


def auroc(known: Tensor, unknown: Tensor) -> float:
    """The chance that a known point has a larger score than an unknown one, equal ones counting half.

    Example:
        >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
        0.875
    """
    n = len(known)
    whole = ranks(torch.cat([known, unknown]))
    return float(whole[:n].sum() - n * (n + 1) / 2) / (n * len(unknown))
