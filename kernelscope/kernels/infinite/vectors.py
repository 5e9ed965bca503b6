"""The kernels of networks that do not look at pixels: a formula of two vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..closed_form import ClosedForm
from ..distances import Side as Vectors
from ..distances import Steepness, for_distances, lacks, product, root, units
from .covariances import Covariances, Layout, Side
from .serial import Both, Serial


class OfVectors(ClosedForm):
    """One of the kernels of a network of fully connected layers.

    Args:
        net: The network.
        which: ``"nngp"`` or ``"ntk"``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.
    """

    _buffers = 16

    #: How fast the kernel falls with the squared distance of unit vectors.
    _steepness = Steepness(1 / 2, 1 / 2)

    def __init__(self, net: Serial, which: str, memory: int | str = "1GB"):
        super().__init__(memory)
        self.net, self.which = net, which

    def __repr__(self) -> str:
        return f"{self.net!r}.{self.which}"

    def both(self, x: Any, z: Any = None) -> Both:
        """Both kernel matrices."""
        found = [OfVectors(self.net, which, self.memory)(x, z) for which in ("nngp", "ntk")]
        return Both(*found)

    def _center(self, vectors: Tensor) -> Tensor | None:
        return units(vectors)[0].mean(0) if self.net.keeps else None

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Vectors:
        if center is not None:
            u, lengths = units(vectors)
            return for_distances(u, center, 1.0, left)._replace(lengths=lengths)
        wide = vectors.double()
        squares = wide.square().sum(1)
        return Vectors(vectors, wide, squares, root(squares))

    def _block(self, rows: Vectors, columns: Vectors, same: bool, out: Tensor | None = None) -> Tensor:
        d = rows.vectors.shape[1]
        if self.net.keeps:
            a, b = rows.lengths / math.sqrt(d), columns.lengths / math.sqrt(d)
            given = a[:, None] * b * lacks(rows, columns, self._steepness, same, out).lack
        else:
            a, b, given = rows.lengths / math.sqrt(d), columns.lengths / math.sqrt(d), product(rows, columns, None) / d
        c = Covariances(a, b, given, self.net.keeps, torch.zeros_like(given) if self.which == "ntk" else None,
                        Layout(0, False, True), d, self._standard)
        (left, one), (_, other) = self._own(a, d), self._own(b, d)
        found = self._wanted(self.net(c, one, other))
        if same:
            # Of the point with itself, nothing is lost in a product.
            found = found.diagonal_scatter(self._wanted(left))
        return found.to(rows.vectors.dtype)

    def _diagonal(self, vectors: Tensor) -> Tensor:
        lengths = self._side(vectors, vectors[0] if self.net.keeps else None, True).lengths
        d = vectors.shape[1]
        return self._wanted(self._own(lengths / math.sqrt(d), d)[0]).to(vectors.dtype)

    def _own(self, a: Tensor, d: int) -> tuple[Covariances, Side]:
        # Roots of many layers would drift in single precision, and there are few of them.
        a = a.double()
        given = torch.zeros_like(a) if self.net.keeps else a.square()
        return self.net.own(Covariances(a, a, given, self.net.keeps, torch.zeros_like(a),
                                        Layout(0, False, False), d, self._standard))

    def _wanted(self, c: Covariances) -> Tensor:
        if self.which == "nngp":
            return c.value
        assert c.tangent is not None
        return c.tangent

    @property
    def _standard(self) -> bool:
        return self.net.parameterization == "standard"
