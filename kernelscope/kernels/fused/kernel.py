r"""Kernels whose products one program computes on a GPU, and which may round points once.

With ``precision="bf16"`` the kernel is that of points that were rounded: centred, divided by the bandwidth, and brought
to bfloat16. It is a kernel like any other, symmetric, positive semidefinite and 1 at :math:`x = z`, on a GPU and on a
processor; only the points have moved, by up to 1/256 of each number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...arguments import as_choice, as_switch
from ...data.points import Points, as_points
from ...errors import DataError
from ...progress import counting
from ..base import check_vector
from ..distances import Side
from ..of_distance import Stationary
from ..tiling import LARGE, pieces, planned
from ..vectors import common, flat, read
from . import product
from .product import PRECISIONS, Profile

Self = TypeVar("Self", bound="Fused")

#: From how many points a center is taken.
SAMPLE = 1000


class Fused(Stationary):
    """A kernel of distances with a program for its products.

    Attributes:
        precision: How products are computed on a GPU, and whether points are rounded.
        center: What is subtracted before they are, one number for each dimension; ``None`` for nought.
        fused: Whether the program is used where it can be.
    """

    def __init__(self, bandwidth: float | str | Tensor | None, memory: int | str = "1GB", precision: str = "exact",
                 center: Sequence[float] | Tensor | None = None, fused: bool = True):
        super().__init__(bandwidth, memory)
        self.precision = as_choice(precision, "precision", PRECISIONS)
        self.fused = as_switch(fused, "fused")
        self.center = None if center is None else tuple(torch.as_tensor(center, dtype=torch.float64).flatten().tolist())

    @property
    @abstractmethod
    def _profile(self) -> Profile:
        """The kernel as a program knows it."""

    def matmul(self, x: Any, z: Any, v: Tensor) -> Tensor:
        left = self.points(x)
        right = left if z is None or z is x else self.points(z)
        if not self._by_program(left, right, v):
            return super().matmul(left, None if right is left else right, v)
        self._check_ready()
        check_vector(self, left, right, v)
        return self._multiplied_by_program(left, right, v)

    def fitted(self: Self, x: Any) -> Self:
        """The kernel with the median distance and, where points are rounded, the mean of x, if it has none yet."""
        found = super().fitted(x)
        if self.precision != "bf16" or self.center is not None:
            return found
        other = object.__new__(type(self))
        other.__dict__.update(found.__dict__, center=_mean(as_points(x)))
        return other

    # -- where points are rounded, on any device ---------------------------------------------------------------------

    def _center(self, vectors: Tensor) -> Tensor:
        return super()._center(self._moved(vectors))

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        return super()._side(self._moved(vectors), center, left)

    def _moved(self, vectors: Tensor) -> Tensor:
        """Vectors where they are after rounding, up to a shift."""
        if self.precision != "bf16":
            return vectors
        unit = self._length(vectors) * self._profile.unit
        return product.prepared(vectors, self._origin(vectors), unit, "bf16").rounded.to(vectors.dtype) * unit

    def _origin(self, vectors: Tensor) -> Tensor | None:
        if self.center is None:
            return None
        if len(self.center) != vectors.shape[1]:
            raise DataError(
                f"The center of this kernel has {len(self.center)} numbers, and points have {vectors.shape[1]}. "
                "Take it from such points, kernel.fitted(x)."
            )
        return vectors.new_tensor(self.center)

    # -- on a GPU ----------------------------------------------------------------------------------------------------

    def _by_program(self, left: Points, right: Points, v: Tensor) -> bool:
        if not self.fused or not isinstance(v, Tensor) or (torch.is_grad_enabled() and v.requires_grad):
            return False
        near = read(left, slice(0, 1))
        far = near if right is left else read(right, slice(0, 1))
        return common(near, far) == torch.float32 and product.ready(near.device)

    def _multiplied_by_program(self, left: Points, right: Points, v: Tensor) -> Tensor:
        near = read(left, slice(0, 1))
        device, d, profile = near.device, near[0].numel(), self._profile
        band = planned(max(len(left), len(right)), d, 4, 0, self.memory, LARGE).band
        w = v.reshape(len(v), -1).to(device, torch.float32)
        total = w.new_zeros(len(left), w.shape[1])
        center: Tensor | None = None
        with torch.no_grad(), counting(len(left) * len(right), "K @ v", "entries") as done:
            for columns in pieces(0, len(right), band):
                far = flat(read(right, columns)).to(device, torch.float32)
                unit = self._length(far) * profile.unit
                if self.precision == "bf16":
                    center = self._origin(far)
                elif center is None:
                    center = self._center(far)
                theirs = product.prepared(far, center, unit, self.precision)
                for rows in pieces(0, len(left), band):
                    same = right is left and rows == columns
                    near = far if same else flat(read(left, rows)).to(device, torch.float32)
                    ours = theirs if same else product.prepared(near, center, unit, self.precision)
                    total[rows] += product.multiplied(ours, theirs, w[columns], profile, self.precision,
                                                      room=self.memory // 16)
                    done(len(near) * len(far))
        return total.reshape(len(left), *v.shape[1:])

    def _said(self) -> str:
        rounded = "" if self.precision == "exact" else f", precision={self.precision!r}"
        return super()._said() + rounded


def _mean(points: Points) -> tuple[float, ...]:
    """The mean of a sample of points, the same one in every call."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    some = points.chosen(order[:SAMPLE].sort().values.tolist())
    return tuple(flat(read(some, slice(0, len(some)))).double().mean(0).tolist())
