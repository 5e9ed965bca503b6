"""The targets that a data set holds beside its points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.columns import columns_of
from ...data.items import items_of
from ...data.points import LABELS, Points
from .watching import BATCH


def labels_of(x: Any) -> Tensor | None:
    """The targets of a data set or a loader; ``None`` where it has none, and for tensors, which are all inputs.

    Args:
        x: Points, in any form.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.randn(3, 2), torch.tensor([1, 0, 1]))
        >>> labels_of(data)
        tensor([1, 0, 1])
        >>> labels_of(data.tensors) is None
        True
    """
    if isinstance(x, Points) or columns_of(x) is not None:
        return None
    items = items_of(x)
    if items is None or not isinstance(_side(items.batch(range(1))), Tensor):
        return None
    return torch.cat([_side(items.batch(range(i, min(i + BATCH, len(items))))) for i in range(0, len(items), BATCH)])


def _side(batch: Any) -> Any:
    """What stands beside the inputs in a batch."""
    if isinstance(batch, Mapping):
        return batch.get(LABELS)
    return batch[-1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
