"""The kernels of networks that do not look at pixels: a formula of two vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...data.points import Points
from ..closed_form import TAPE, ClosedForm
from ..distances import Lacks, Steepness, for_distances, lacks, product, root, units
from ..distances import Side as Vectors
from ..tiling import LONG, NUMBERS, Cut
from ..vectors import read
from .covariances import Covariances, Layout, Side
from .fused import Units, compiled, of_vectors
from .fused import units as as_units
from .overflow import representable
from .passes import leading, passed
from .serial import Both, Serial
from .stages import dense_layers

#: What a cosine exceeds -1 by where single precision loses digits of the angle, since what it lacks to 1 is rounded.
OPPOSITE = 1e-2


class OfVectors(ClosedForm):
    """One of the kernels of a network of fully connected layers.

    Args:
        net: The network.
        which: ``"nngp"`` or ``"ntk"``; or ``"both"``, whose matrices have one more axis, with shape (2, n, m).
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.
    """

    #: How fast the kernel falls with the squared distance of unit vectors.
    _steepness = Steepness(1 / 2, 1 / 2)

    def __init__(self, net: Serial, which: str, memory: int | str = "1GB"):
        super().__init__(memory)
        self.net, self.which, self._plan = net, which, dense_layers(net)
        # One pass through all layers leaves little beside what comes in and what goes out.
        self._buffers = 4 if self._plan is not None and compiled(torch.device("cpu")) else 16

    def __repr__(self) -> str:
        return f"{self.net!r}.{self.which}"

    def both(self, x: Any, z: Any = None) -> Both:
        """Both kernel matrices."""
        nngp, ntk = OfVectors(self.net, "both", self.memory)(x, z)
        return Both(nngp, ntk)

    def _center(self, vectors: Tensor) -> Tensor | None:
        if not self.net.keeps:
            return None
        return leading(vectors) if self._at_once(vectors.device) else units(vectors)[0].mean(0)

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Any:
        if center is not None and self._at_once(vectors.device):
            return as_units(vectors, center)
        if center is not None:
            u, lengths = units(vectors)
            return for_distances(u, center, 1.0, left)._replace(lengths=lengths)
        wide = vectors.double()
        squares = wide.square().sum(1)
        return Vectors(vectors, wide, squares, root(squares))

    def _block(self, rows: Any, columns: Any, same: bool, out: Tensor | None = None) -> Tensor:
        d = rows.vectors.shape[1]
        if isinstance(rows, Units):
            return self._passed(rows, columns, same, d, out)
        a, b = rows.lengths / math.sqrt(d), columns.lengths / math.sqrt(d)
        (left, one), (_, other) = self._own(a, d), self._own(b, d)
        if not self.net.keeps:
            found = self._followed(product(rows, columns, None) / d, a, b, one, other, d)
        else:
            cosines = lacks(rows, columns, self._steepness, same, out)
            again = _opposite(cosines)
            found = self._followed(a[:, None] * b * cosines.lack, a, b, one, other, d)
            if len(again):
                near, far = a[again].double(), b.double()
                wide = lacks(_wide(rows.part(again), True), _wide(columns, False), self._steepness, False).lack
                found[..., again, :] = self._followed(near[:, None] * far * wide, near, far, one.part(again), other,
                                                      d).to(found)
        if same:
            # Of the point with itself, nothing is lost in a product.
            found.diagonal(dim1=-2, dim2=-1).copy_(self._wanted(left))
        return representable(found.to(rows.vectors.dtype), self.net)

    def _followed(self, given: Tensor, a: Tensor, b: Tensor, one: Side, other: Side, d: int) -> Tensor:
        """The kernel of all pairs, from their first covariances, or what these lack."""
        plan = self._plan
        if plan is None or given.requires_grad or not compiled(given.device):
            return self._wanted(self.net(
                Covariances(a, b, given, self.net.keeps, torch.zeros_like(given) if self._tangent else None,
                            Layout(0, False, True), d, self._standard), one, other))
        layers, readout = plan
        value, tangent = of_vectors(layers, given, a, b, self._tangent)
        sides = [Side(side.root, None, side.inner[2 * len(layers):]) for side in (one, other)]
        a, b = (side.inner[2 * len(layers) - 1].root.to(value) for side in (one, other))
        return self._wanted(readout(Covariances(a, b, value, False, tangent, Layout(0, False, True), d), *sides))

    def _passed(self, near: Units, far: Units, same: bool, d: int, out: Tensor | None) -> Tensor:
        """The kernel of all pairs of units in one pass."""
        assert self._plan is not None
        found = passed(self._plan, self.which, near, far, out)
        if same:
            found.diagonal(dim1=-2, dim2=-1).copy_(self._wanted(self._own(near.roots, d)[0]))
        return representable(found, self.net)

    def _cut(self, left: Points, right: Points, sides: tuple[int, int], buffers: int) -> Cut:
        if buffers < TAPE and self._plan is not None and read(left, slice(0, 1)).numel() >= NUMBERS:
            sides = LONG
        return super()._cut(left, right, sides, buffers)

    def _diagonal(self, vectors: Tensor) -> Tensor:
        lengths, d = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64), vectors.shape[1]
        return representable(self._wanted(self._own(lengths / math.sqrt(d), d)[0]).to(vectors.dtype), self.net)

    def _own(self, a: Tensor, d: int) -> tuple[Covariances, Side]:
        # Roots of many layers would drift in single precision, and there are few of them.
        a = a.double()
        given = torch.zeros_like(a) if self.net.keeps else a.square()
        return self.net.own(Covariances(a, a, given, self.net.keeps, torch.zeros_like(a) if self._tangent else None,
                                        Layout(0, False, False), d, self._standard))

    def _wanted(self, c: Covariances) -> Tensor:
        if self.which == "nngp":
            return c.value
        assert c.tangent is not None
        return c.tangent if self.which == "ntk" else torch.stack([c.value, c.tangent])

    def _at_once(self, device: torch.device) -> bool:
        """Whether one pass takes products to kernels, through which no gradient goes."""
        return self._plan is not None and device.type == "cpu" and compiled(device) and not torch.is_grad_enabled()

    @property
    def _tangent(self) -> bool:
        return self.which != "nngp"

    @property
    def _standard(self) -> bool:
        return self.net.parameterization == "standard"


def _opposite(cosines: Lacks) -> Tensor:
    """The rows in which a pair is so nearly opposite that single precision would lose digits of its angle."""
    if cosines.lack.dtype == torch.float64 or cosines.lack.requires_grad:
        return torch.empty(0, dtype=torch.long, device=cosines.lack.device)
    return (cosines.excess.amin(1) < OPPOSITE).nonzero()[:, 0]


def _wide(side: Vectors, left: bool) -> Vectors:
    """Unit vectors in double precision, in which their lengths are 1 again."""
    u, lengths = units(side.vectors.double())
    return for_distances(u, torch.zeros_like(u[0]), 1.0, left)._replace(lengths=lengths)
