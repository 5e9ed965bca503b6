"""Where the samples of a batch stand in a tensor within a network.

Mostly along the first axis; attention puts positions first, and many modules fold samples and positions into one axis.
Which it is, is not read off the shape but observed: when the samples of a batch change places, the tensor's change too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The axis of the samples, and how they share it.

    Attributes:
        axis: The axis; ``None`` where the tensor is the same for all samples.
        fold: ``"outer"`` or ``"inner"`` where each sample has several places of the axis: all in a row, or one in each
            round.
    """

    axis: int | None = 0
    fold: str | None = None

    def apply(self, t: Tensor, n: int, lead: int = 0) -> Tensor:
        """The tensor with its samples first; ``lead`` axes that stand before its own come after them."""
        if self.axis is None:
            return t.expand(n, *t.shape)
        axis = self.axis + lead
        if self.fold == "outer":
            t = t.unflatten(axis, (n, -1))
        elif self.fold == "inner":
            t = t.unflatten(axis, (-1, n))
            axis += 1
        return t.movedim(axis, 0)


#: What is tried, in this order.
KNOWN = (Layout(0), Layout(1), Layout(2), Layout(0, "outer"), Layout(0, "inner"), Layout(1, "outer"),
         Layout(1, "inner"))


def observe(t: Tensor, moved: Tensor, order: Tensor) -> Layout | None:
    """The layout under which ``moved`` is ``t`` with its samples in another order; ``None`` if there is none."""
    n = len(order)
    if t.shape != moved.shape:
        return None
    for layout in KNOWN:
        assert layout.axis is not None
        size = t.shape[layout.axis] if t.ndim > layout.axis else 0
        if size == n if layout.fold is None else size > n and size % n == 0:
            if _same(layout.apply(t, n)[order], layout.apply(moved, n)):
                return layout
    return Layout(None) if _same(t, moved) else None


def _same(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    # The order of the samples may change the order of a sum.
    eps = torch.finfo(a.dtype).eps
    return bool(torch.isclose(a, b, rtol=1e4 * eps, atol=1e4 * eps * float(a.abs().max() if a.numel() else 0)).all())
