"""Kernels of a product of two vectors."""

from __future__ import annotations

from torch import Tensor

from ..arguments import as_count
from .bandwidth import WithBandwidth, number
from .closed_form import ClosedForm
from .distances import Side, product, units


class Polynomial(WithBandwidth):
    r""":math:`k(x, z) = (x \cdot z / b^2 + c)^p`.

    Args:
        degree: The power p.
        offset: The constant :math:`c \ge 0`; the larger, the more weight low powers have.
        bandwidth: The length b that points are divided by; ``None`` or ``"median"`` for the median distance of the
            points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    Example:
        >>> import torch
        >>> Polynomial(degree=2)(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[4., 4.],
                [4., 9.]])
    """

    def __init__(self, degree: int = 2, offset: float = 1.0, bandwidth: float | str | Tensor | None = 1.0,
                 memory: int | str = "1GB"):
        super().__init__(bandwidth, memory)
        self.degree = as_count(degree, "degree", 1)
        # With a negative one the kernel is not positive semidefinite.
        self.offset = 0.0 if offset == 0 else number(offset, "offset", "a number from 0 on")

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        scaled = vectors / self._length(vectors)
        return Side(scaled, scaled, scaled[:, 0], scaled[:, 0])

    def _pairs(self, rows: Side, columns: Side, same: bool, out: Tensor | None) -> Tensor:
        return product(rows, columns, out)

    def _values(self, t: Tensor) -> Tensor:
        return (t + self.offset) ** self.degree

    def _values_(self, t: Tensor) -> Tensor:
        return t.add_(self.offset).pow_(self.degree)

    def _diagonal(self, vectors: Tensor) -> Tensor:
        return ((vectors / self._length(vectors)).square().sum(1) + self.offset) ** self.degree

    def _said(self) -> str:
        return f"degree={self.degree}, offset={self.offset:g}, {super()._said()}"


class Cosine(ClosedForm):
    r""":math:`k(x, z) = x \cdot z / (|x|\, |z|)`, and 0 for a vector of length nought.

    Args:
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    Example:
        >>> import torch
        >>> Cosine()(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])
    """

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        u, lengths = units(vectors)
        return Side(u, u, lengths, lengths)

    def _block(self, rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
        found = product(rows, columns, out)
        if same:
            found.diagonal().copy_(rows.lengths > 0)
        return found if out is None else found.clamp_(-1, 1)

    def _diagonal(self, vectors: Tensor) -> Tensor:
        return (vectors != 0).any(1).to(vectors)

    def __repr__(self) -> str:
        return "Cosine()"
