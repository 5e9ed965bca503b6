r"""Feature maps brought to a smaller dimension by a random matrix.

.. math:: \psi(x) = \phi(x) R, \qquad \mathbb E\, R R^T = I

Inner products are right on average over seeds, and off by :math:`\sqrt{(1 + \cos^2)/k}` of the lengths for one seed,
with k features and the angle between the two vectors. A kernel that sums them over outputs is off by less, relative to
its own lengths, as their errors cancel in part; ``error(x)`` tells by how much. R is the same for all outputs and is
never held as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..data.points import Points
from ..errors import DataError
from .base import FeatureMap
from .composed import with_maps
from .signs import Rademacher, Sparse

KINDS: dict[str, type[Rademacher] | type[Sparse]] = {"rademacher": Rademacher, "sparse": Sparse}

#: How many points are compared when an error is measured.
FEW = 8


@dataclass(frozen=True)
class ProjectionError:
    """How far inner products of projected features are from those of the features.

    Attributes:
        estimate: The root mean square error to expect, relative to the product of the two lengths.
        measured: What it was for some pairs; ``None`` where none were looked at.
        pairs: How many they were.
    """

    estimate: float
    measured: float | None
    pairs: int

    def __str__(self) -> str:
        if self.measured is None:
            return f"Inner products of projected features are off by at most {self.estimate:.1%} of the lengths (rms)."
        return (f"Inner products of projected features are off by {self.measured:.1%} of the lengths (rms of "
                f"{self.pairs} pairs); {self.estimate:.1%} was to be expected.")


class Projected(FeatureMap):
    r"""Features projected to k dimensions, :math:`\phi(x) R`.

    Args:
        features: The map :math:`\phi`.
        dimension: The number k of features to keep.
        seed: Which R. The same seed gives the same R, entry by entry, on every device.
        kind: ``"rademacher"`` for signs :math:`\pm 1/\sqrt k`; ``"sparse"`` for four signs in each row of R, with the
            same mean error and far fewer operations.

    Raises:
        DataError: If the features are none, the dimension is not positive, the kind unknown, or the seed no whole
            number.

    References:
        | Database-friendly random projections: Johnson-Lindenstrauss with binary coins (Achlioptas, 2003)

    Example:
        >>> from kernelscope.features import GradientFeatures
        >>> features = GradientFeatures(torch.nn.Linear(40, 1))
        >>> Projected(features, 512)                                         # doctest: +NORMALIZE_WHITESPACE
        Projected(GradientFeatures(41 features), 512, kind='rademacher', seed=0:
                  products of two vectors off by 4.4% to 6.2% rms, sums over outputs by less)
        >>> Projected(features, 512).phi(torch.ones(3, 40)).shape
        torch.Size([3, 1, 512])
    """

    def __init__(self, features: FeatureMap, dimension: int, seed: int = 0, kind: str = "rademacher"):
        if not isinstance(features, FeatureMap):
            raise DataError(
                f"A map of features is projected, and {what_came(features)} came. Pass for example the gradients of a "
                f"module: Projected(GradientFeatures(model), {what_came(dimension)})."
            )
        if isinstance(dimension, bool) or not isinstance(dimension, int) or dimension < 1:
            raise DataError(f"dimension is the number of features to keep, at least 1; {dimension!r} came.")
        if kind not in KINDS:
            raise DataError(f"kind must be one of {', '.join(KINDS)}; {kind!r} came.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise DataError(f"seed says which random matrix, by a whole number; {seed!r} came.")
        self.features, self.size, self.kind, self.seed = features, dimension, kind, seed
        self.memory, self.targets = features.memory, features.targets
        self._matrix = KINDS[kind](seed, dimension)

    def __repr__(self) -> str:
        least, most = sqrt(1 / self.size), sqrt(2 / self.size)
        return (f"Projected({self.features!r}, {self.size}, kind={self.kind!r}, seed={self.seed}: "
                f"products of two vectors off by {least:.1%} to {most:.1%} rms, sums over outputs by less)")

    def points(self, x: Any) -> Points:
        return self.features.points(x)

    def columns_of(self, x: Any) -> int | None:
        return self.features.columns_of(x)

    def coordinates_of(self, x: Any) -> int | None:
        return self.features.coordinates_of(x)

    def fitted(self, x: Any) -> FeatureMap:
        return with_maps(self, features=self.features.fitted(x))

    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        c = self.columns_of(points)
        found = torch.zeros(len(points), *(() if c is None else (c,)), self.size)
        for k, (rows, numbers, values) in enumerate(self.features.parts(points)):
            found = found.to(values) if k == 0 else found
            found[rows] += self._matrix.spread(numbers, values)
        return found

    def push(self, x: Any, u: Tensor) -> Tensor:
        self._check_u(u)
        return self.features.push(x, self._matrix.gather(torch.arange(self.features.size, device=u.device), u))

    def pull(self, x: Any, v: Tensor) -> Tensor:
        found = self.features.pull(x, v).movedim(0, -1)
        return self._matrix.spread(torch.arange(found.shape[-1], device=found.device), found).movedim(-1, 0)

    def block(self, start: int, stop: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """The rows of R from ``start`` to ``stop``, made anew, with shape (q, k)."""
        return self._matrix.block(torch.arange(start, min(stop, self.features.size)), dtype)

    def error(self, x: Any = None) -> ProjectionError:
        """How far inner products are off; with points, also measured on the pairs of a few of them.

        The estimate takes the angles of these pairs into account, and the outputs that are summed over. All pairs share
        one R, so what is measured varies about it by a third or so.
        """
        if x is None:
            return ProjectionError(sqrt(2 / self.size), None, 0)
        points = self.points(x)
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
        few = points.chosen(order[:FEW].tolist())
        full = self.features.inner(few, full=True).double()
        if full.ndim == 2:
            full = full[:, None, :, None]
        true = torch.einsum("icjc->ij", full)
        own = torch.einsum("icid->icd", full)
        # The variance of a sum over outputs c, d: <a_c, a_d> <b_c, b_d> + <a_c, b_d> <a_d, b_c>, over k.
        variance = torch.einsum("icd,jcd->ij", own, own) + torch.einsum("icjd,idjc->ij", full, full)
        lengths = true.diagonal().clamp(min=torch.finfo(true.dtype).tiny).sqrt()
        scale = lengths[:, None] * lengths
        i, j = torch.triu_indices(len(true), len(true), device=true.device)
        gaps = ((self.inner(few).double() - true) / scale)[i, j]
        expected = (variance.clamp(min=0) / self.size / scale.square())[i, j]
        return ProjectionError(float(expected.mean().sqrt()), float(gaps.square().mean().sqrt()), len(i))
