r"""The mean of points given one of them with Gaussian noise, point block by point block.

With weights :math:`w_i \propto \exp(-|y - x_i|^2 / 2\sigma^2)` the mean is :math:`\sum_i w_i v_i`. The largest exponent
met so far is taken out of all (log-sum-exp): without it all weights are 0 at small noise, and the mean is 0 / 0.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["exponents", "posterior_mean"]


def exponents(y: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    r""":math:`-|y_a - x_i|^2 / 2\sigma_a^2`, with shape (a, n), for rows y of shape (a, m) and x of shape (n, m)."""
    # Centred at the points, so that little cancels in the square that is multiplied out.
    middle = x.mean(0)
    y, x = y - middle, x - middle
    square = y.square().sum(1)[:, None] - 2 * y @ x.T + x.square().sum(1)
    return -square / (2 * sigma.square())[:, None]


def posterior_mean(y: Tensor, sigma: Tensor, blocks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean of values of shape (n, v) given rows y of shape (a, m), with shape (a, v).

    Args:
        y: Noisy rows.
        sigma: Their noise levels, with shape (a,).
        blocks: Blocks of clean rows with shape (n, m) and their values with shape (n, v).

    Example:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> posterior_mean(torch.tensor([[0.5], [0.9]]), torch.tensor([1.0, 1e-3]), [(x, x)])
        tensor([[0.5000],
                [1.0000]])
    """
    top = y.new_full((len(y),), -torch.inf)
    total, mean = y.new_zeros(len(y)), y.new_zeros(len(y), 1)
    for x, values in blocks:
        found = exponents(y, x, sigma)
        # The weights do not depend on what is taken out, so no gradient goes through it.
        higher = torch.maximum(top, found.detach().amax(1))
        kept, weights = (top - higher).exp(), (found - higher[:, None]).exp()
        total = kept * total + weights.sum(1)
        mean = kept[:, None] * mean + weights @ values
        top = higher
    return mean / total[:, None]
