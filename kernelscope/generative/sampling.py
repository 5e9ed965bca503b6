r"""From noise to a sample: the probability-flow equation of a denoiser, stage by stage.

.. math:: \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}, \qquad x_0 \sim N(0, \sigma_0^2 I)

A step to noise level 0 gives :math:`D(x, \sigma)` itself, so the last stage's denoised point is the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import as_choice

__all__ = ["Denoise", "Sampled", "sample"]

#: Noisy points with shape (q, *) and noise levels with shape (q,) to denoised points.
Denoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Sampled:
    """A sampler's way down.

    Attributes:
        levels: The noise levels of the N stages, descending, with shape (N,).
        points: The noisy point at each stage, with shape (N, q, *).
        denoised: What the denoiser makes of it, with shape (N, q, *); the last one is the sample.
    """

    levels: Tensor
    points: Tensor
    denoised: Tensor

    @property
    def final(self) -> Tensor:
        """The samples, with shape (q, *)."""
        return self.denoised[-1]


def sample(denoise: Denoise, z: Tensor, levels: Tensor, method: str = "heun") -> Sampled:
    """Goes down the noise levels from ``z`` times the first of them.

    Args:
        denoise: The denoiser.
        z: Standard normal numbers, with shape (q, *).
        levels: Noise levels, descending, with shape (N,).
        method: ``"heun"`` (order 2) or ``"euler"``.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), algorithm 1.

    Example:
        >>> down = sample(lambda y, sigma: 0 * y, torch.ones(1, 2), torch.tensor([4.0, 2.0, 1.0]))
        >>> down.points[:, 0, 0].tolist(), down.final.tolist()
        ([4.0, 2.0, 1.0], [[0.0, 0.0]])
    """
    heun = as_choice(method, "method", ("heun", "euler")) == "heun"
    levels = levels.to(z)
    x, points, denoised = z * levels[0], [], []
    for k, sigma in enumerate(levels):
        d = denoise(x, sigma.expand(len(x)))
        points.append(x)
        denoised.append(d)
        if k + 1 < len(levels):
            down = levels[k + 1] - sigma
            slope = (x - d) / sigma
            ahead = x + down * slope
            if heun:
                lower = levels[k + 1]
                slope = (slope + (ahead - denoise(ahead, lower.expand(len(x)))) / lower) / 2
            x = x + down * slope
    return Sampled(levels, torch.stack(points), torch.stack(denoised))
