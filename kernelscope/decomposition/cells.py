"""Cells of draws: shares booked by what is known of a draw, beside the sample that was drawn.

A sample may be drawn in many forms, such as at many noise levels. A ledger books by sample; with cells it books each
draw a second time, in the cells that its step, its forward pass and its place in it are given.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..run.step import MicroBatch

__all__ = ["Cells"]


class Cells:
    """Where the shares of single draws are booked.

    Args:
        count: The number of cells.
        of: From a step's number, the number of one of its forward passes and that pass to the cell of each of its
            draws, with shape (B,), or (m, B) where each draw is booked m times.
        factors: Likewise to the factors that shares are booked with, with the same shape; all 1 if not given.
    """

    def __init__(self, count: int, of: Callable[[int, int, MicroBatch], Tensor],
                 factors: Callable[[int, int, MicroBatch], Tensor] | None = None):
        self.count = count
        self._of, self._factors = of, factors
        self._held: tuple[int, dict[int, tuple[Tensor, Tensor | None]]] = (-1, {})

    def book(self, booked: Tensor, k: int, j: int, batch: MicroBatch, amounts: Tensor) -> None:
        """Adds the shares of the draws of forward pass j of step k, with shape (q, c, B), to cells (q, c, cells)."""
        if self._held[0] != k:
            self._held = k, {}
        found = self._held[1]
        if j not in found:
            factors = None if self._factors is None else torch.atleast_2d(self._factors(k, j, batch))
            found[j] = torch.atleast_2d(self._of(k, j, batch)), factors
        places, factors = found[j]
        for i, cells in enumerate(places):
            booked.index_add_(2, cells, amounts if factors is None else amounts * factors[i])
