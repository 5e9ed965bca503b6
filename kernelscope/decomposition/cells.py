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
        of: From the number of a step and one of its forward passes to the cell of each of the pass's draws, with shape
            (B,), or (m, B) where each draw is booked m times.
    """

    def __init__(self, count: int, of: Callable[[int, MicroBatch], Tensor]):
        self.count = count
        self._of = of
        self._held: tuple[int, dict[int, Tensor]] = (-1, {})

    def at(self, k: int, j: int, batch: MicroBatch) -> Tensor:
        """The cells of the draws of forward pass j of step k, with shape (m, B)."""
        if self._held[0] != k:
            self._held = k, {}
        found = self._held[1]
        if j not in found:
            found[j] = torch.atleast_2d(self._of(k, batch))
        return found[j]
