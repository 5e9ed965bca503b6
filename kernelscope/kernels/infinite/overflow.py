r"""Kernels that outgrow their precision: with depth they grow, or vanish, by the same factor in each layer.

A rectifier halves a variance, so with weights of the deviation :math:`\sigma_w` it is :math:`(\sigma_w^2 / 2)^L` times
as large after L layers, and stays as it is for :math:`\sigma_w = \sqrt 2`.
"""

from __future__ import annotations

from torch import Tensor

from ...errors import NonFiniteError
from .layer import Layer


def representable(found: Tensor, net: Layer) -> Tensor:
    """Entries of a kernel, as they are.

    Args:
        found: The entries.
        net: The network that has the kernel.

    Raises:
        NonFiniteError: If one is NaN or infinite.
    """
    # The sum is quickly taken, and says enough in nearly all cases.
    values = found.detach()
    if bool(values.sum().isfinite()) or bool(values.isfinite().all()):
        return found
    kind = str(found.dtype).removeprefix("torch.")
    more = "" if kind == "float64" else "Pass the points in double precision, x.double(), or keep"
    raise NonFiniteError(f"A kernel of {net!r} has entries that are NaN or infinite: they are beyond what {kind} can "
                         f"hold. {more or 'Keep'} variances as they are from layer to layer, with W_std=2**0.5 before "
                         "ReLU() or with LayerNorm(); or scale the points down.")
