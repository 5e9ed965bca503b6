"""How large the entries of long tensors are: their norm to seven digits, and their largest entry, in one read each.

The norm that torch takes of ten million numbers in float32 is off by 4e-4, since it adds up their squares in float32;
to double them first takes a copy of twice their size. Squares of short rows are added up here, and then the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers whose squares are added up in their own precision.
ROW = 512

#: Norms between these are safe from squares that are too large, or too small, for single precision.
SAFE = (1e-12, 1e16)


def norm_of(values: Tensor) -> float:
    """The norm of all entries: in double precision, but for the rows of long tensors in float32.

    Example:
        >>> round(norm_of(torch.ones(4_000_000)), 3)
        2000.0
    """
    values = values.detach().reshape(-1)
    if values.dtype == torch.float32 and len(values) > 64 * ROW:
        whole = len(values) // ROW * ROW
        rows = torch.linalg.vector_norm(values[:whole].view(-1, ROW), dim=1)
        found = float(torch.cat([rows, values[whole:]]).double().norm())
        if SAFE[0] < found < SAFE[1]:
            return found
    return float(values.double().norm())


def largest_of(values: Tensor) -> float:
    """The largest absolute value of an entry, 0 if there is none.

    Example:
        >>> largest_of(torch.tensor([1.0, -3.0]))
        3.0
    """
    # The norm of this name is twenty times slower, and abs() makes a copy.
    return max(abs(float(end)) for end in torch.aminmax(values)) if values.numel() else 0.0
