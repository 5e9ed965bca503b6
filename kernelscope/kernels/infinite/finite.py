r"""The same architecture at finite width: modules of torch, whose random outputs and gradients tend to the kernels.

In the NTK parameterisation weights and biases are drawn with variance 1 and multiplied on the way,
:math:`y = \sigma_w W x / \sqrt{\text{fan-in}} + \sigma_b c`; in the standard one they are drawn with the variances
:math:`\sigma_w^2 / \text{fan-in}` and :math:`\sigma_b^2`. So over random draws the outputs have the covariance
``nngp``, and the products of their gradients tend to ``ntk``, as widths grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .windows import Window, around


class Shape(NamedTuple):
    """What a layer is given, for each point: channels and pixels."""

    channels: int
    pixels: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Widths:
    """How wide layers are, and how their parameters are drawn.

    Attributes:
        all: The number of channels of every layer; ``None`` for each layer's own.
        standard: Whether parameters are drawn in the standard parameterisation.
        generator: Where random numbers come from.
    """

    all: int | None
    standard: bool
    generator: torch.Generator


class Affine(nn.Module):
    """Weights and biases: of each pixel alone, or of the window around it.

    Args:
        channels: How many channels come in.
        units: How many go out.
        window: What a weight sees; ``None`` for the pixel alone.
        deviations: The standard deviations of weights and biases.
        widths: How they are drawn.
    """

    def __init__(self, channels: int, units: int, window: Window | None, deviations: tuple[float, float],
                 widths: Widths):
        super().__init__()
        self.window = window
        sides = () if window is None else window.sides
        W_std, b_std = deviations
        fan, drawn = (channels * prod(sides)) ** -0.5, lambda *shape: torch.randn(shape, generator=widths.generator)
        weight, bias = drawn(units, channels, *sides), drawn(units) if b_std else None
        if widths.standard:
            weight, bias = W_std * fan * weight, None if bias is None else b_std * bias
            self.before = self.after = 1.0
        else:
            # The bias is multiplied with what comes out, so that parameters go into the product as they are.
            self.after = b_std or 1.0
            self.before = W_std * fan / self.after
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """The values after it, with shape (n, units, *pixels)."""
        x = x * self.before
        if self.window is None:
            return F.linear(x.movedim(1, -1), self.weight, self.bias).movedim(-1, 1) * self.after
        for k in range(len(self.window.sides)):
            x = around(x, 2 + k, self.window, k)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.window.sides) - 1]
        return convolve(x, self.weight, self.bias, stride=self.window.strides) * self.after

    def extra_repr(self) -> str:
        """What stands in brackets after its name."""
        return f"{self.weight.shape[1]} channels, {self.weight.shape[0]} units"


class Waiting(nn.Module):
    """A network that is made when it is called first, of the shape that its points have then.

    Args:
        make: From the shape of a point to the network.
        words: What it will be.
    """

    def __init__(self, make: Callable[[tuple[int, ...]], nn.Module], words: str):
        super().__init__()
        self.make, self.words = make, words
        self.made: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, with shape (n, outputs)."""
        if self.made is None:
            self.made = self.make(tuple(x.shape[1:])).to(x)
        return self.made(x)

    def extra_repr(self) -> str:
        return "" if self.made is not None else f"{self.words}, made at its first call"


class Applied(nn.Module):
    """A function without parameters.

    Args:
        function: From values with shape (n, channels, *pixels) to what they become.
        words: What is shown of it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], words: str):
        super().__init__()
        self.function, self.words = function, words

    def forward(self, x: Tensor) -> Tensor:
        """The values after it."""
        return self.function(x)

    def extra_repr(self) -> str:
        """What stands in brackets after its name."""
        return self.words


class Added(nn.Module):
    """What two branches make of one input, added.

    Args:
        branch: The one.
        skip: The other.
    """

    def __init__(self, branch: nn.Module, skip: nn.Module):
        super().__init__()
        self.branch, self.skip = branch, skip

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.branch(x) + self.skip(x)


def normalized(x: Tensor, whole: bool, eps: float) -> Tensor:
    """Values less their mean, divided by their deviation: over channels, or over pixels too."""
    if whole:
        return F.layer_norm(x, x.shape[1:], eps=eps)
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=eps).movedim(-1, 1)


def averaged(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """The means of windows that lie side by side."""
    for k, side in enumerate(sides):
        x = x.unflatten(2 + k, (-1, side)).mean(3 + k)
    return x


def global_mean(x: Tensor) -> Tensor:
    """The mean of all pixels, where there are any."""
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def global_sum(x: Tensor) -> Tensor:
    """The sum of all pixels, where there are any."""
    return x.flatten(2).sum(2) if x.ndim > 2 else x


def flattened(x: Tensor) -> Tensor:
    """One row of values for each point."""
    return x.flatten(1)
