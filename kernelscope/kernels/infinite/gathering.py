r"""Layers in which every position gathers the values of all others, with weights :math:`G` of the point.

.. math:: K'(x, z) = G(x)\, K(x, z)\, G(z)^\top,

where K is the matrix of all pairs of positions. Weights may have either sign, so that what K lacks is not kept: from
here on K itself is carried, in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .covariances import Layout


def gathered(values: Tensor, layout: Layout, left: Tensor, right: Tensor) -> Tensor:
    """The matrices of all pairs of positions, after each position has gathered those of its point.

    Args:
        values: The matrices, with the axes of the layout.
        layout: The axes.
        left: The weights of the points on the left, with shape (n, positions, positions).
        right: Those of the points on the right.
    """
    lead, positions = values.shape[:layout.first], left.shape[-1]
    flat = values.reshape(*lead, positions, positions)
    if layout.crossed:
        found = torch.einsum("ijpb,jqb->ijpq", torch.einsum("ipa,ijab->ijpb", left, flat), right)
    else:
        found = left @ flat @ right.mT
    return found.reshape(values.shape)
