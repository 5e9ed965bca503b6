"""The Wiener denoiser: the optimal one of a Gaussian, which knows a mean and a covariance."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ....errors import DataError, NonFiniteError
from .points import noisy, training_points

__all__ = ["WienerDenoiser"]


class WienerDenoiser:
    r"""The best linear denoiser of the training points; of Gaussian ones the best of all.

    .. math:: D(y, \sigma) = \mu + C (C + \sigma^2 I)^{-1} (y - \mu)

    Its Jacobian is the same at every point, with eigenvalues :math:`\lambda / (\lambda + \sigma^2)` where C has
    :math:`\lambda`.

    Args:
        x: The training points, with shape (n, \*); C is their mean square off the mean, divided by n.
        dtype: The precision it computes in; answers are in that of the noisy points.

    Raises:
        DataError: If there are no points; when called, if shapes do not go together or a noise level is not positive.
        NonFiniteError: If a number is NaN or infinite.

    References:
        "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models" (Wang & Vastola, 2024).

    Example:
        >>> wiener = WienerDenoiser(torch.tensor([[-3.0], [3.0]]))
        >>> wiener(torch.tensor([[10.0]]), torch.tensor([1.0]))
        tensor([[9.]])
    """

    def __init__(self, x: Tensor, dtype: torch.dtype = torch.float64):
        points = training_points(x, dtype)
        flat = points.flatten(1)
        self._hold(flat.mean(0), torch.cov(flat.T, correction=0).view(flat.shape[1], flat.shape[1]), points.shape[1:])

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> Self:
        r"""The denoiser of a mean with shape (\*) and a covariance with shape (d, d), in their precision.

        Raises:
            DataError: If the covariance is not square, of another size, not symmetric, or has negative eigenvalues.
        """
        mean, covariance = mean.detach(), covariance.detach()
        d = mean.numel()
        if covariance.shape != (d, d):
            raise DataError(f"The covariance of points with {d} numbers has shape ({d}, {d}); "
                            f"{tuple(covariance.shape)} came. Flatten the points first.")
        if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
            raise NonFiniteError("The mean or the covariance has numbers that are NaN or infinite. Leave out the "
                                 "points they come from.")
        scale = float(covariance.abs().max())
        if float((covariance - covariance.T).abs().max()) > 1e-6 * scale:
            raise DataError("A covariance is symmetric, and this one is not. Pass (C + C.T) / 2 if that is what is "
                            "meant.")
        made = cls.__new__(cls)
        made._hold(mean.flatten(), covariance.to(mean), mean.shape)
        if float(made.eigenvalues.min()) < -1e-6 * scale:
            raise DataError(f"A covariance has no negative eigenvalue, and {float(made.eigenvalues.min()):.3g} is one "
                            "of this. Pass the covariance itself, not a difference of two.")
        return made

    def _hold(self, mean: Tensor, covariance: Tensor, shape: torch.Size) -> None:
        self.mean, self.covariance, self.shape = mean, covariance, shape
        self.eigenvalues, self.vectors = torch.linalg.eigh((covariance + covariance.T) / 2)

    def __call__(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points, with the shape of ``y``."""
        at, levels = self._noisy(y, sigma)
        vectors, mean = self.vectors.to(at), self.mean.to(at)
        return (mean + ((at - mean) @ vectors * self._shrinkage(levels)) @ vectors.T).view(y.shape).to(y)

    def jacobian(self, y: Tensor, sigma: Tensor) -> Tensor:
        """C (C + sigma^2 I)^-1 of each noise level, with shape (q, d, d)."""
        at, levels = self._noisy(y, sigma)
        vectors = self.vectors.to(at)
        return (vectors * self._shrinkage(levels)[:, None, :] @ vectors.T).to(y)

    def _shrinkage(self, levels: Tensor) -> Tensor:
        spread = self.eigenvalues.to(levels).clamp(min=0)
        return spread / (spread + levels.square()[:, None])

    def _noisy(self, y: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return noisy(y, sigma, self.shape, self.mean.to(y.device) if isinstance(y, Tensor) else self.mean)

    def __repr__(self) -> str:
        return f"WienerDenoiser(points of shape {tuple(self.shape)})"
