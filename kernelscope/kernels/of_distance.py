r"""What kernels of a distance share: :math:`k(x, z) = \varphi(r / b)` for :math:`r = |x - z|` and a bandwidth b."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from .bandwidth import WithBandwidth
from .distances import Side, Steepness, for_distances, squared_distances


class Stationary(WithBandwidth):
    """A kernel of the squared distance in bandwidths, :math:`s = r^2 / b^2`."""

    @property
    @abstractmethod
    def _steepness(self) -> Steepness:
        """How fast the kernel falls with s."""

    def _center(self, vectors: Tensor) -> Tensor:
        return vectors.mean(0, dtype=torch.float64).to(vectors.dtype)

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        assert center is not None
        return for_distances(vectors, center, self._length(vectors), left)

    def _pairs(self, rows: Side, columns: Side, same: bool, out: Tensor | None) -> Tensor:
        return squared_distances(rows, columns, self._length(rows.vectors), self._steepness, same, out)

    def _diagonal(self, vectors: Tensor) -> Tensor:
        return vectors.new_ones(len(vectors))
