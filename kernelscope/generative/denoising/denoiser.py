r"""Denoisers: networks that are trained to take Gaussian noise out of a point.

A noisy point is :math:`y = x + \sigma n`. What a network is regressed on is rarely the clean point itself; its output
:math:`o` and the denoised point are affinely related,

.. math:: D_\theta(y, \sigma) = a(\sigma)\, y + b(\sigma)\, o_\theta(y, \sigma),

with coefficients that depend on the noise level alone. So shares, kernels and gradients of :math:`o` are those of D
divided by :math:`b(\sigma)`, and the training target is :math:`(x - a y) / b`.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...arguments import as_positive
from ...errors import DataError

__all__ = ["Denoiser", "along"]


class Denoiser(nn.Module):
    r"""The preconditioning of EDM around a core network: the core sees and gives numbers of variance one.

    .. math:: D_\theta(y, \sigma) = \frac{s^2}{\sigma^2 + s^2}\, y + \frac{\sigma s}{\sqrt{\sigma^2 + s^2}}\,
              F_\theta\Big(\frac{y}{\sqrt{\sigma^2 + s^2}}, \tfrac14 \ln\sigma\Big)

    Calling the module gives F, the number that is regressed: with the weight of EDM the loss is the plain mean square
    :math:`|F_\theta - (x - a y) / b|^2`. Kernels are taken in this space: that of D carries the factor
    :math:`b(\sigma) b(\sigma')`, which looks like locality in noise and is none.

    Args:
        core: A module called as ``core(y, c)`` with points of shape :math:`(n, *)` and noise words of shape
            :math:`(n,)`, that gives the shape of the points.
        spread: The standard deviation s of the data, over all numbers of all points.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), equations 7 and 8.

    Example:
        >>> import torch
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> denoiser = Denoiser(NoiseMLP(4, width=8), spread=0.5)
        >>> x, sigma = torch.zeros(3, 4), torch.tensor([0.1, 1.0, 10.0])
        >>> y = x + along(sigma, x) * torch.ones(3, 4)
        >>> denoiser(y, sigma).shape, denoiser.denoised(y, sigma).shape
        (torch.Size([3, 4]), torch.Size([3, 4]))
        >>> a, b = denoiser.coefficients(sigma)
        >>> torch.allclose(a * y.T + b * denoiser.target(x, y, sigma).T, x.T, atol=1e-6)
        True
    """

    def __init__(self, core: nn.Module, spread: float):
        super().__init__()
        self.core = core
        self.spread = as_positive(spread, "spread", "0.5")

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        """What the core gives for noisy points of shape (n, *) at noise levels of shape (n,)."""
        scale = (sigma**2 + self.spread**2).rsqrt()
        return self.core(along(scale, y) * y, sigma.log() / 4)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients a and b of each noise level."""
        total = sigma**2 + self.spread**2
        return self.spread**2 / total, sigma * self.spread * total.rsqrt()

    def denoised(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points D, with the shape of ``y``."""
        a, b = self.coefficients(sigma)
        return along(a, y) * y + along(b, y) * self(y, sigma)

    def target(self, x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
        """What the network is regressed on where the clean points are ``x``."""
        a, b = self.coefficients(sigma)
        return (x - along(a, y) * y) / along(b, y)


def along(numbers: Tensor, points: Tensor) -> Tensor:
    """One number for each point, shaped to multiply the points.

    Raises:
        DataError: If there is not one number for each.

    Example:
        >>> import torch
        >>> along(torch.ones(2), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    if numbers.ndim != 1 or len(numbers) != len(points):
        raise DataError(
            f"There must be one noise level for each of the {len(points)} points; shape {tuple(numbers.shape)} came. "
            f"Pass sigma with shape ({len(points)},), for example torch.full(({len(points)},), 0.5)."
        )
    return numbers.view(-1, *[1] * (points.ndim - 1))
