"""Subsets of training samples: read from the caller, or drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...arguments import what_came
from ...errors import DataError

__all__ = ["as_members", "drawn_members"]


def as_members(subsets: Any, n: int) -> Tensor:
    """Whether each of n samples is in each subset, with shape (subsets, n).

    Args:
        subsets: Such a table of True and False, or for each subset the places of its samples.
        n: The number of training samples.

    Raises:
        DataError: If it is nothing of the kind, or a subset is empty or names a sample twice or one that is not there.

    Example:
        >>> as_members([[0, 2], [1]], 3)
        tensor([[ True, False,  True],
                [False,  True, False]])
    """
    if isinstance(subsets, Tensor) and subsets.dtype == torch.bool:
        members = subsets.cpu()
        if members.ndim != 2 or members.shape[1] != n:
            raise DataError(f"subsets must say of each of the {n} training samples whether it is in, with shape "
                            f"(subsets, {n}); {tuple(members.shape)} came.")
    else:
        try:
            rows = [torch.as_tensor(subset) for subset in subsets]
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError("subsets must be a list with the places of the samples of each subset, or a table of True "
                            f"and False with shape (subsets, {n}); {what_came(subsets)} came.") from error
        if rows and all(row.dtype == torch.bool and row.shape == (n,) for row in rows):
            return as_members(torch.stack(rows), n)
        members = torch.zeros(len(rows), n, dtype=torch.bool)
        for j, row in enumerate(rows):
            if row.ndim != 1 or row.is_floating_point() and len(row) or row.dtype == torch.bool:
                raise DataError(f"Subset {j} must hold places of training samples, whole numbers from 0 to {n - 1}; "
                                f"{what_came(subsets[j])} came.")
            if len(row) and (int(row.min()) < 0 or int(row.max()) >= n or len(row.unique()) < len(row)):
                raise DataError(f"Subset {j} must name training samples by their places, 0 to {n - 1}, each once; it "
                                f"holds {len(row)} from {int(row.min())} to {int(row.max())}.")
            members[j, row.long()] = True
    empty = (~members.any(1)).nonzero().flatten()
    if not len(members) or len(empty):
        which = f"subset {int(empty[0])} is empty" if len(empty) else "no subset came"
        raise DataError(f"A network is trained on at least one sample, and {which}.")
    return members


def drawn_members(count: int, n: int, share: float, seed: int) -> Tensor:
    """Random subsets that hold this share of n samples each, at least 1 and not all, with shape (count, n)."""
    size = min(max(round(share * n), 1), max(n - 1, 1))
    source = torch.Generator().manual_seed(seed)
    members = torch.zeros(count, n, dtype=torch.bool)
    for row in members:
        row[torch.randperm(n, generator=source)[:size]] = True
    return members
