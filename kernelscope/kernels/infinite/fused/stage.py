r"""Layers between two poolings, and what each image brings to them alone.

A covariance K is carried as its deficit :math:`D = R - K` from the product :math:`R = P Q` of the roots of the two
variances, :math:`P^2 = q`. A convolution with filter side r, weight variance s and bias variance b takes, with a and c
the roots under the window at either pixel,

.. math::
    P^2 = \frac{s}{r^2} \sum_t a_t^2 + b, \qquad
    \frac{D}{P Q} = \frac{s}{r^2} \frac{\sum_t D_t}{P Q}
    + \frac{1}{2} \sum_t \Bigl(\frac{\tilde a_t}{P} - \frac{\tilde c_t}{Q}\Bigr)^2
    + \frac{b}{2} \Bigl(\frac{1}{P} - \frac{1}{Q}\Bigr)^2, \qquad \tilde a = \frac{\sqrt s}{r} a.

An activation of slopes low and high takes :math:`\sin^2(\theta/2) = D / (2 P Q)`, see :mod:`.angles`. All terms are
sums of what is not negative: nothing cancels, and the angle between two nearly equal images keeps its digits in single
precision. The roots belong to images, not to pairs; they are computed once for each image, in double precision.

References:
    | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)
    | On Exact Computation with an Infinitely Wide Neural Net (Arora et al., 2019)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


@dataclass(frozen=True)
class Affine:
    r"""A convolution, and an activation :math:`\phi(u) = \mathrm{low} \min(u, 0) + \mathrm{high} \max(u, 0)` after it.

    Attributes:
        side: The odd side r of the filter, with stride 1 and zeros around the image; 1 for a dense layer.
        weight: The variance s of the weights.
        bias: The variance b of the biases; 0 for none.
        low: The slope below nought: 0 for a ReLU, -1 for the absolute value.
        high: The slope above nought.
    """

    side: int
    weight: float
    bias: float
    low: float
    high: float

    @property
    def alone(self) -> Affine:
        """The layer where each pixel is an image of its own: the same with a filter of side 1."""
        return Affine(1, self.weight, self.bias, self.low, self.high)

    @property
    def mean(self) -> float:
        """The mean square of the slope, by which the activation multiplies a variance."""
        return (self.low**2 + self.high**2) / 2

    @property
    def bend(self) -> float:
        """How far the activation is from linear; the factor of all terms with the angle."""
        return (self.low - self.high) ** 2 / (2 * math.pi)


@dataclass(frozen=True)
class Stage:
    """Layers and one pooling after them.

    Attributes:
        layers: The layers, in order.
        pool: The side of the average pooling; 1 for none.
    """

    layers: tuple[Affine, ...]
    pool: int


class Sides(NamedTuple):
    """What each of n images brings to a stage alone, where L is the number of layers.

    Attributes:
        units: Pixels as vectors of length 1, or 0, with shape (n, channels, H, W).
        start: The roots of the variances of the input, (n, H, W).
        taps: The scaled roots that a window sees, one for each layer, (n, L, H, W).
        roots: The roots P after each convolution, (n, L, H, W).
        inverse: 1 / P, or 0, (n, L, H, W).
        end: The roots after the last activation, (n, H, W), in float64.
    """

    units: Tensor
    start: Tensor
    taps: Tensor
    roots: Tensor
    inverse: Tensor
    end: Tensor


class Units(NamedTuple):
    """Vectors of one side as units p u, for layers that see no pixels, and what they are in some directions e.

    Attributes:
        vectors: u, with shape (n, d).
        scales: p, nought for a vector of length nought, (n,).
        along: The products u e, (n, 4).
        coordinates: Those of units, p u e, (n, 4).
        squares: The squared lengths of what directions leave of units, (n,).
        roots: The roots of the variances of the input, in double precision, (n,).
        directions: e, orthonormal or nought, and the same for both sides, (4, d).
    """

    vectors: Tensor
    scales: Tensor
    along: Tensor
    coordinates: Tensor
    squares: Tensor
    roots: Tensor
    directions: Tensor

    def part(self, some: slice | Tensor) -> Units:
        """Some of the vectors."""
        parts = {name: values[some] for name, values in self._asdict().items() if name != "directions"}
        return self._replace(**parts)


def of_points(layers: Sequence[Affine], x: Tensor) -> Sides:
    """What images bring, with shape (n, channels, H, W), in their own precision."""
    wide = x.double()
    length = wide.square().sum(1).sqrt()
    units = wide * _inverse(length)[:, None]
    return _sides(layers, units.to(x.dtype), length / math.sqrt(x.shape[1]), x.dtype)


def of_variances(layers: Sequence[Affine], q: Tensor, dtype: torch.dtype = torch.float64) -> Sides:
    """What images bring of which the variances are known, with shape (n, H, W)."""
    return _sides(layers, q.new_zeros(len(q), 0, *q.shape[1:], dtype=dtype), q.double().clamp(min=0).sqrt(), dtype)


def constants(layers: Sequence[Affine]) -> list[tuple[float, ...]]:
    """The numbers of each layer in the order in which programs read them; of one that does nothing, if there is none.

    These are the share of each place of a window, the variance of the biases, the mean square of the slope and the
    bend of the activation; from where and how fast a deficit grows beyond a right angle, and the product of the slopes;
    and 0, 1/4, 1/2 and 1, in the precision of the others.
    """
    return [(layer.weight / layer.side**2, layer.bias, layer.mean, layer.bend, (layer.low + layer.high) ** 2 / 2,
             -2 * layer.low * layer.high, layer.low * layer.high, 0.0, 0.25, 0.5, 1.0)
            for layer in layers or (Affine(1, 1.0, 0.0, 1.0, 1.0),)]


def fields(sides: Sides) -> Tensor:
    """All that images bring, in one tensor of shape (n, channels + 1 + 3 L, H, W).

    Channels, the roots of the input, and for each layer taps, roots and their inverse; without the last roots, which
    have a precision of their own.
    """
    each = torch.stack((sides.taps, sides.roots, sides.inverse), 2).flatten(1, 2)
    return torch.cat((sides.units, sides.start[:, None], each), 1)


def window_sum(x: Tensor, side: int) -> Tensor:
    """Sums over windows of the last two axes, with zeros around; shape (n, H, W)."""
    if side == 1:
        return x
    return avg_pool2d(x[:, None], side, 1, side // 2, divisor_override=1)[:, 0]


def _sides(layers: Sequence[Affine], units: Tensor, start: Tensor, dtype: torch.dtype) -> Sides:
    a, taps, roots = start, [], []
    for layer in layers:
        taps.append(a * (math.sqrt(layer.weight) / layer.side))
        roots.append((window_sum(taps[-1].square(), layer.side) + layer.bias).sqrt())
        a = roots[-1] * math.sqrt(layer.mean)
    n, h, w = start.shape
    stacked = torch.stack(roots, 1) if roots else start.new_zeros(n, 0, h, w)
    seen = torch.stack(taps, 1) if taps else stacked
    return Sides(units, start.to(dtype), seen.to(dtype), stacked.to(dtype), _inverse(stacked).to(dtype), a)


def _inverse(x: Tensor) -> Tensor:
    return torch.where(x > 0, x.reciprocal(), torch.zeros_like(x))
