"""Linear equations of a positive matrix that is known by its products."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Equations(Protocol):
    r""":math:`(A + \mu_m)\,x_m = b_m`, for all columns m at once."""

    @property
    def right(self) -> Tensor:
        """The right-hand sides, in float64, with shape (n, m)."""

    @property
    def mus(self) -> Tensor:
        r""":math:`\mu` of each column, with shape (m,)."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of products that need not be exact."""

    def times(self, v: Tensor, exact: bool) -> Tensor:
        """A v for v with shape (n, k) in float64; in float64 where it has to be exact."""
