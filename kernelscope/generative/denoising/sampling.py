r"""From noise to a sample: the probability-flow equation of a denoiser, stage by stage.

.. math:: \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}, \qquad x_0 \sim N(0, \sigma_0^2 I)

A step to noise level 0 gives :math:`D(x, \sigma)` itself, so the last stage's denoised point is the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_function, what_came
from ...errors import DataError, NonFiniteError

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

    Example:
        >>> sample(lambda y, sigma: y / 2, torch.ones(5, 2), torch.tensor([2.0, 1.0])).final.shape
        torch.Size([5, 2])
    """

    levels: Tensor
    points: Tensor
    denoised: Tensor

    @property
    def final(self) -> Tensor:
        """The samples, with shape (q, *)."""
        return self.denoised[-1]


def sample(denoise: Denoise, z: Tensor, levels: Tensor, method: str = "heun") -> Sampled:
    """Goes down the noise levels from ``z`` times the first of them, in the precision of ``z``.

    Args:
        denoise: The denoiser.
        z: Standard normal numbers, with shape (q, *).
        levels: Noise levels, descending, with shape (N,), without the 0 at which it ends.
        method: ``"heun"`` (order 2) or ``"euler"``.

    Raises:
        DataError: If the levels do not descend or reach 0, z is not of floating point, or the denoiser gives other
            shapes.
        NonFiniteError: If the denoiser gives NaN or infinity.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), algorithm 1.

    Example:
        >>> down = sample(lambda y, sigma: 0 * y, torch.ones(1, 2), torch.tensor([4.0, 2.0, 1.0]))
        >>> down.points[:, 0, 0].tolist(), down.final.tolist()
        ([4.0, 2.0, 1.0], [[0.0, 0.0]])
    """
    heun = as_choice(method, "method", ("heun", "euler")) == "heun"
    denoise = as_function(denoise, "denoise", "(y, sigma) -> D")
    levels = _descending(levels).to(_normal(z))
    x, points, denoised = z * levels[0], [], []
    for k, sigma in enumerate(levels):
        d = _told(denoise, x, sigma)
        points.append(x)
        denoised.append(d)
        if k + 1 < len(levels):
            down = levels[k + 1] - sigma
            slope = (x - d) / sigma
            ahead = x + down * slope
            if heun:
                lower = levels[k + 1]
                slope = (slope + (ahead - _told(denoise, ahead, lower)) / lower) / 2
            x = x + down * slope
    return Sampled(levels, torch.stack(points), torch.stack(denoised))


def _told(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    d = denoise(x, sigma.expand(len(x)))
    if not isinstance(d, Tensor) or d.shape != x.shape:
        came = f"shape {tuple(d.shape)}" if isinstance(d, Tensor) else what_came(d)
        raise DataError(f"The denoiser must give points of shape {tuple(x.shape)}, as it was given; {came} came. Pass "
                        "a function (y, sigma) -> D, such as denoiser.denoised.")
    if not bool(d.isfinite().all()):
        raise NonFiniteError(f"The denoiser gives NaN or infinity at noise level {float(sigma):.3g}, and every later "
                             "stage would. Begin at a lower noise level, or look at the network there.")
    return d


def _descending(levels: Any) -> Tensor:
    if not isinstance(levels, Tensor) or levels.ndim != 1 or not len(levels):
        came = f"shape {tuple(levels.shape)}" if isinstance(levels, Tensor) else what_came(levels)
        raise DataError(f"levels must be a tensor of noise levels with shape (N,), at least one; {came} came. Pass "
                        "for example schedule(18).")
    if not bool((levels > 0).all()) or not bool(levels.isfinite().all()):
        raise DataError(f"Noise levels must be positive and finite; {levels.tolist()[:8]} came. Leave out the 0 at the "
                        "end: the last stage's denoised point is what a step to it gives.")
    if not bool((levels.diff() < 0).all()):
        raise DataError(f"A sampler goes down, so levels must descend; {levels.tolist()[:8]} came. Pass "
                        "levels.sort(descending=True).values, each once.")
    return levels


def _normal(z: Any) -> Tensor:
    if not isinstance(z, Tensor) or z.ndim < 2 or not z.is_floating_point():
        came = f"{z.dtype} with shape {tuple(z.shape)}" if isinstance(z, Tensor) else what_came(z)
        raise DataError(f"z must be standard normal numbers with shape (q, *); {came} came. Pass for example "
                        "torch.randn(8, 64).")
    if not bool(z.isfinite().all()):
        raise NonFiniteError("z has numbers that are NaN or infinite. Draw it by torch.randn.")
    return z
