"""Small reference networks: cores of denoisers, generators and critics.

They are smooth, so that integrals along steps converge fast, have no batch statistics, and are described by a few plain
numbers, so that a run on disk can be opened without their code. Points are vectors, or images as (channels, height,
width); a network for images takes vectors as well and folds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arguments import as_count
from ..errors import DataError

__all__ = ["NoiseConv", "NoiseMLP", "critic", "critic_of_images", "generator", "generator_of_images", "matched_width",
           "parameters_of"]

#: The widest network that is looked at.
WIDEST = 2**20


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


def generator_of_images(latents: int, side: int, channels: int = 1, width: int = 32) -> nn.Sequential:
    """A convolutional generator of square images with an even side, as vectors, the last layer without bound.

    Example:
        >>> generator_of_images(16, 8)(torch.zeros(3, 16)).shape
        torch.Size([3, 64])
    """
    half = _half(side)
    return nn.Sequential(
        nn.Linear(latents, width * half**2), nn.SiLU(), nn.Unflatten(1, (width, half, half)),
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1),
        nn.Flatten(),
    )


def critic_of_images(side: int, channels: int = 1, width: int = 32) -> nn.Sequential:
    """A convolutional critic of square images with an even side, as vectors, which gives a score with shape (n, 1).

    Example:
        >>> critic_of_images(8)(torch.zeros(3, 64)).shape
        torch.Size([3, 1])
    """
    half = _half(side)
    return nn.Sequential(
        nn.Unflatten(1, (channels, side, side)), nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(width * half**2, 1),
    )


def parameters_of(module: nn.Module) -> int:
    """The number of parameters of a module.

    Example:
        >>> parameters_of(nn.Linear(3, 2))
        8
    """
    return sum(p.numel() for p in module.parameters())


def matched_width(make: Callable[[int], nn.Module], parameters: int) -> int:
    """The width at which a network has about as many parameters as another one, to compare the two fairly.

    Args:
        make: ``width -> network``, which has more parameters the wider it is.
        parameters: The number that is wanted.

    Returns:
        The width whose number is nearest; of widths from 16 on it is within about 5 %.

    Raises:
        DataError: If ``parameters`` is not a number from 1 on.

    Example:
        >>> width = matched_width(lambda width: generator(16, 64, width), parameters_of(NoiseMLP(64)))
        >>> width, parameters_of(generator(16, 64, width)), parameters_of(NoiseMLP(64))
        (151, 35247, 35136)
    """
    wanted = as_count(parameters, "parameters", least=1)
    with torch.device("meta"), torch.random.fork_rng():
        low, high = 0, 1
        while parameters_of(make(high)) < wanted and high < WIDEST:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters_of(make(middle)) < wanted else (low, middle)
        return min((width for width in (low, high) if width),
                   key=lambda width: abs(parameters_of(make(width)) - wanted))


def _half(side: int) -> int:
    if side < 2 or side % 2:
        raise DataError(f"These networks halve an image once, so its side must be even; {side} came. Cut or pad the "
                        "images, or use the fully connected networks.")
    return side // 2
