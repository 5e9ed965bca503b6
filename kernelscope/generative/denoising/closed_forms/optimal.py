"""The optimal denoiser of the training points: their mean, given the noisy one."""

from __future__ import annotations

import torch
from torch import Tensor

from ....arguments import as_count
from .points import noisy, training_points
from .posterior import exponents, posterior_mean

__all__ = ["OptimalDenoiser"]


class OptimalDenoiser:
    r"""The denoiser of least mean square over the training points, which are all it knows.

    .. math:: D^*(y, \sigma) = \sum_i w_i x_i, \qquad
              w_i = \frac{\exp(-|y - x_i|^2 / 2\sigma^2)}{\sum_j \exp(-|y - x_j|^2 / 2\sigma^2)}

    Its Jacobian is :math:`\mathrm{Cov}_w / \sigma^2`, symmetric and positive. Its samples are training points.

    Args:
        x: The training points, with shape (n, \*).
        block: How many training points are looked at together; memory grows with queries times this.
        dtype: The precision it computes in; answers are in that of the noisy points.

    Raises:
        DataError: If there are no points; when called, if shapes do not go together or a noise level is not positive.
        NonFiniteError: If a number is NaN or infinite.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), equation 57.

    Example:
        >>> optimal = OptimalDenoiser(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        >>> y, sigma = torch.tensor([[0.9, 0.9]]), torch.tensor([1e-4])
        >>> optimal(y, sigma), optimal.weights(y, sigma)
        (tensor([[1., 1.]]), tensor([[0., 1.]]))
    """

    def __init__(self, x: Tensor, block: int = 4096, dtype: torch.dtype = torch.float64):
        self.x = training_points(x, dtype)
        self.block = as_count(block, "block", least=1)

    def __call__(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points, with the shape of ``y``."""
        at, levels = self._noisy(y, sigma)
        blocks = ((part, part) for part in self.x.to(at.device).flatten(1).split(self.block))
        return posterior_mean(at, levels, blocks).view(y.shape).to(y)

    def weights(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The weight of each training point, with shape (q, n); each row sums to 1."""
        return self._weights(*self._noisy(y, sigma)).to(y)

    def jacobian(self, y: Tensor, sigma: Tensor) -> Tensor:
        r""":math:`\partial D / \partial y = \mathrm{Cov}_w / \sigma^2`, with shape (q, d, d)."""
        at, levels = self._noisy(y, sigma)
        x = self.x.to(at.device).flatten(1)
        found = []
        for w, level in zip(self._weights(at, levels), levels, strict=True):
            off = x - w @ x
            found.append((w[:, None] * off).T @ off / level**2)
        return torch.stack(found).to(y) if found else y.new_zeros(0, x.shape[1], x.shape[1])

    def _weights(self, at: Tensor, levels: Tensor) -> Tensor:
        return exponents(at, self.x.to(at.device).flatten(1), levels).softmax(1)

    def _noisy(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return noisy(y, sigma, self.x.shape[1:], self.x.to(y.device) if isinstance(y, Tensor) else self.x)

    def __repr__(self) -> str:
        return f"OptimalDenoiser({len(self.x)} points of shape {tuple(self.x.shape[1:])})"
