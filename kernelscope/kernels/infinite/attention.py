r"""Self-attention: every position gathers the values of all, by how much its own are like theirs.

Where queries are compared with keys by a product divided by the width, and both have the same random weights, the
comparison of infinite width is what the covariances C of a point with itself say, and no longer random:

.. math:: G = \zeta(\sigma_{QK}\, C), \qquad K' = \sigma_{OV}^2\, G_x K G_z^\top + \sigma_b^2, \qquad
          T' = \sigma_{OV}^2\, G_x T G_z^\top + 2 (K' - \sigma_b^2) + \sigma_b^2.

The 2 counts the weights that make values and those that put heads together; queries and keys do not move in this limit.

References:
    Infinite attention: NNGP and NTK for deep attention networks (Hron et al., 2020), with the scaling by 1 / d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments import as_choice
from ...errors import DataError
from ..distances import root
from .affine import deviation
from .covariances import Covariances, Side
from .gathering import gathered
from .layer import Layer

#: What may become of a comparison.
ZETAS = ("softmax", "relu", "identity")


class SelfAttention(Layer):
    r"""Attention of all positions to all, :math:`y = \sigma_{OV}\, \zeta(\sigma_{QK} Q Q^\top / d)\, V O + \sigma_b c`.

    Sequences and images are taken alike, the pixels of an image in one row. Positions that a mask leaves out are not
    attended to. The layer has kernels alone: ``net.torch(...)`` cannot build it.

    Args:
        zeta: What becomes of the comparisons of a position with all: ``"softmax"``, which makes them add up to one,
            ``"relu"``, or ``"identity"``.
        QK_std: The product :math:`\sigma_{QK}` of the standard deviations of the weights of queries and keys.
        OV_std: The product :math:`\sigma_{OV}` of those of outputs and values.
        b_std: The standard deviation :math:`\sigma_b` of biases of the outputs; 0 for none.

    Raises:
        DataError: If an argument is none of these.

    Example:
        >>> import torch
        >>> from kernelscope.kernels.infinite import Dense, GlobalAvgPool, Serial
        >>> net = Serial(SelfAttention(), GlobalAvgPool(), Dense())
        >>> x = torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 2.0, 2.0]]], dtype=torch.float64)
        >>> net.nngp(x)
        tensor([[1.0000, 1.7657],
                [1.7657, 3.1176]], dtype=torch.float64)
    """

    spatial = paired = centered = True
    remembers = 1

    def __init__(self, zeta: str = "softmax", QK_std: float = 1.0, OV_std: float = 1.0, b_std: float = 0.0):
        self.zeta = as_choice(zeta, "zeta", ZETAS)
        self.QK_std, self.OV_std = deviation(QK_std, "QK_std"), deviation(OV_std, "OV_std")
        self.b_std = deviation(b_std, "b_std")

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not shape:
            raise DataError(f"{self!r} compares positions, and there are none before it. Put it before Flatten or "
                            "the pooling that ends them.")
        return shape

    def normal(self, before: bool) -> bool:
        return True

    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        if c.standard:
            raise DataError(f'{self!r} has no standard parameterisation. Take parameterization="ntk".')
        wide = c.double()
        weights = self._weights(wide)
        side = Side(root(wide.layout.diagonal(self._values(wide, weights, weights))), weights)
        return self(c, side, side), side

    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        wide, one, other = c.double(), left.more, right.more
        assert one is not None
        assert other is not None
        given, tangent = self._values(wide, one, other), None
        if wide.tangent is not None:
            seen = gathered(wide.tangent, wide.layout, one, other)
            tangent = self.OV_std**2 * seen + 2 * given - self.b_std**2
        return wide.after(left.root.double(), right.root.double(), given, tangent)

    def _values(self, c: Covariances, left: Tensor, right: Tensor) -> Tensor:
        return self.OV_std**2 * gathered(c.given, c.layout, left, right) + self.b_std**2

    def _weights(self, own: Covariances) -> Tensor:
        """What each position takes of each, with shape (n, positions, positions)."""
        positions = own.a[0].numel()
        compared = self.QK_std * own.given.reshape(-1, positions, positions)
        if self.zeta == "softmax":
            if own.x.mask is not None:
                # Of points of which nothing is there, the least number leaves a row of equal weights, and no NaN.
                there = own.x.mask.reshape(-1, 1, positions) > 0
                compared = compared.masked_fill(~there, torch.finfo(compared.dtype).min)
            return compared.softmax(-1)
        return compared.relu() if self.zeta == "relu" else compared
