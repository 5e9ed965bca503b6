"""Small reference networks: cores of denoisers, generators and critics.

They are smooth, so that integrals along steps converge fast, have no batch statistics, and are described by a few plain
numbers, so that a run on disk can be opened without their code. Points are vectors, or images as (channels, height,
width); a network for images takes vectors as well and folds them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["NoiseConv", "NoiseMLP", "critic", "generator"]


class NoiseWord(nn.Module):
    """A noise word c as sines and cosines of a few multiples of it, with shape (n, 2 frequencies)."""

    multiples: Tensor

    def __init__(self, frequencies: int = 8):
        super().__init__()
        # The words of noise levels from 0.002 to 80 span three units.
        self.register_buffer("multiples", 2.0 ** torch.linspace(-1, 3, frequencies) * math.pi / 4, persistent=False)

    def forward(self, c: Tensor) -> Tensor:
        """The waves at the words ``c`` with shape (n,)."""
        angles = c[:, None] * self.multiples
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class NoiseMLP(nn.Module):
    """A fully connected core for vectors: two hidden layers, the noise word added to the first of them.

    Args:
        size: The number of entries of a point.
        width: The number of hidden units.

    Example:
        >>> NoiseMLP(4, width=8)(torch.zeros(3, 4), torch.zeros(3)).shape
        torch.Size([3, 4])
    """

    def __init__(self, size: int, width: int = 128):
        super().__init__()
        self.size, self.width = size, width
        self.word = NoiseWord()
        self.inner = nn.Linear(size, width)
        self.noise = nn.Linear(16, width, bias=False)
        self.middle = nn.Linear(width, width)
        self.outer = nn.Linear(width, size)

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        """One point for each of ``y`` with shape (n, *)."""
        h = nn.functional.silu(self.inner(y.flatten(1)) + self.noise(self.word(c)))
        return self.outer(nn.functional.silu(self.middle(h))).view_as(y)


class NoiseConv(nn.Module):
    """A convolutional core for square images of one channel or several: four 3 x 3 layers, the noise word added.

    Args:
        side: The height and width of an image.
        channels: The number of its channels.
        width: The number of hidden channels.

    Example:
        >>> NoiseConv(8, width=4)(torch.zeros(3, 64), torch.zeros(3)).shape
        torch.Size([3, 64])
    """

    def __init__(self, side: int, channels: int = 1, width: int = 24):
        super().__init__()
        self.side, self.channels, self.width = side, channels, width
        self.word = NoiseWord()
        self.inner = nn.Conv2d(channels, width, 3, padding=1)
        self.noise = nn.Linear(16, width, bias=False)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, y: Tensor, c: Tensor) -> Tensor:
        """One image for each of ``y``, folded or as vectors."""
        images = y.reshape(-1, self.channels, self.side, self.side)
        h = nn.functional.silu(self.inner(images) + self.noise(self.word(c))[:, :, None, None])
        h = h + nn.functional.silu(self.first(h))
        return self.outer(nn.functional.silu(self.second(h))).view_as(y)


def generator(latents: int, size: int, width: int = 128) -> nn.Sequential:
    """A fully connected generator of points with ``size`` entries, the last layer without bound."""
    return nn.Sequential(nn.Linear(latents, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                         nn.Linear(width, size))


def critic(size: int, width: int = 128) -> nn.Sequential:
    """A fully connected critic, which gives a score with shape (n, 1)."""
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
