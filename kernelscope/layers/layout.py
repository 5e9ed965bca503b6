"""Where the samples of a batch stand in a tensor within a network.

Mostly along the first axis; attention puts positions first, and many modules fold samples and positions into one axis.
Which it is, is not read off the shape but observed: when some samples of a batch are taken in another order, the axis
changes its size with them, and its entries change places.
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


def observe(t: Tensor, part: Tensor, n: int, numbers: Tensor) -> list[Layout]:
    """The layouts under which ``part`` holds the samples of these numbers, of the n in ``t``.

    There is none where samples do not have places of their own, and more than one where all entries are the same.
    """
    if t.shape == part.shape:
        return [Layout(None)] if same(t, part) else []
    found = []
    for layout in KNOWN:
        axis = layout.axis
        assert axis is not None
        if axis >= t.ndim or t.ndim != part.ndim or t.shape[axis] * len(numbers) != part.shape[axis] * n:
            continue
        size = t.shape[axis]
        fits = size == n if layout.fold is None else size > n and size % n == 0
        if fits and t.shape[:axis] + t.shape[axis + 1:] == part.shape[:axis] + part.shape[axis + 1:]:
            if same(layout.apply(t, n)[numbers.to(t.device)], layout.apply(part, len(numbers))):
                found.append(layout)
    return found


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to the order of sums."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    # The order of the samples may change the order of a sum.
    limit = 1e4 * torch.finfo(a.dtype).eps
    finite = a[torch.isfinite(a)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.isclose(a, b, rtol=limit, atol=limit * scale, equal_nan=True).all())
