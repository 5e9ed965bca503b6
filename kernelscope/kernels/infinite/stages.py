r"""Which part of a network runs slice by slice, in compiled code.

Between two poolings, covariances of pixels at one offset go their own way, so a stage of convolutions and rectifiers
stays in the cache (see :mod:`.fused`). A network of such stages is planned for images of a given shape; what comes
after its pixels have ended is followed layer by layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .affine import Conv, Dense
from .angular import HalfLines
from .covariances import Beside, Covariances, Layout, Side
from .fused import Affine, Stage, compiled, of_covariances, of_images, of_pixels
from .inputs import of_themselves
from .layer import Layer
from .pooling import AvgPool, Flatten, GlobalAvgPool
from .serial import Serial

#: By how much a covariance is lifted so that rounding cannot bring it below the product of two roots.
SETTLED = 1e-15

#: What pooled covariances of single precision are off by, the share of the tangent kernel that may be lost by it, and
#: how many pairs are looked at together.
ROUNDED, LOST, TOGETHER = 2e-8, 1e-7, 2


@dataclass(frozen=True)
class Plan:
    """How a network is followed.

    Attributes:
        stages: What runs slice by slice.
        paired: Whether all pairs of pixels are needed; otherwise there is one stage, which ends in their mean.
        before: The layers that are in the stages.
        rest: The layers after them.
    """

    stages: tuple[Stage, ...]
    paired: bool
    before: Serial
    rest: Serial

    def own(self, x: Tensor, tangent: bool) -> tuple[Covariances, Side]:
        """The covariances of images with themselves at the end, and the variances that stages begin with."""
        if not self.paired:
            c, _ = self.before.own(of_themselves(x, Beside(), False, True, tangent, False))
            root = c.a
            c, side = self.rest.own(c)
            return c, Side(root, None, (side,))
        i = torch.arange(len(x), device=x.device)
        k, t = of_images(self.stages[0], x, x, i, i, tangent)
        begun = []
        for stage in self.stages[1:]:
            variances = _diagonal(k).clone()
            begun.append(Side(variances))
            # A pixel lacks nothing to itself, and rounding of the root of its variance shall not say otherwise.
            _diagonal(k).mul_(1 + SETTLED)
            k, t = of_covariances(stage, k, t, variances, variances, i, i)
        value, slope = _diagonal(k).flatten(1).mean(1), None if t is None else _diagonal(t).flatten(1).mean(1)
        root = value.clamp(min=0).sqrt()
        c = Covariances(root, root, value, False, slope, Layout(0, False, False), 1)
        c, side = self.rest.own(c)
        return c, Side(root, None, (side, *begun))

    def pairs(self, x: Tensor, z: Tensor, left: Side, right: Side, same: bool, tangent: bool) -> Covariances:
        """The covariances of all pairs of images at the end; of one set with itself those of the upper triangle."""
        n, m = len(x), len(z)
        if not self.paired:
            value, slope = of_pixels(self.stages[0].layers, x, z, tangent)
        else:
            i, j = torch.triu_indices(n, n) if same else torch.cartesian_prod(torch.arange(n), torch.arange(m)).T
            i, j = i.to(x.device), j.to(x.device)
            k, t = of_images(self.stages[0], x, z, i, j, tangent)
            if t is not None and self._turns_again and x.dtype == z.dtype == torch.float32:
                some = spoiled(k, left.inner[1].root, right.inner[1].root, i, j).nonzero().flatten()
                if len(some):
                    again, slopes = of_images(self.stages[0], x.double(), z.double(), i[some], j[some])
                    assert slopes is not None
                    k[some], t[some] = again, slopes
            for stage, one, other in zip(self.stages[1:], left.inner[1:], right.inner[1:], strict=True):
                k, t = of_covariances(stage, k, t, one.root, other.root, i, j)
            value = k.new_zeros(n, m).index_put_((i, j), _diagonal(k).flatten(1).mean(1))
            slope = None if t is None else t.new_zeros(n, m).index_put_((i, j), _diagonal(t).flatten(1).mean(1))
        a, b = left.root.to(value), right.root.to(value)
        c = Covariances(a, b, value, False, slope, Layout(0, False, True), 1)
        return self.rest(c, left.inner[0], right.inner[0])

    @property
    def _turns_again(self) -> bool:
        """Whether angles are taken of what the first pooling leaves."""
        return len(self.stages) > 1

    def room(self, shape: tuple[int, ...]) -> int:
        """The bytes that each pair of images takes."""
        if not self.paired:
            return 64
        pooled = prod(n // self.stages[0].pool for n in shape)
        # Both kernels before and after a stage, and both again where digits were lost.
        return 6 * 8 * pooled**2 + 64


def spoiled(k: Tensor, left: Tensor, right: Tensor, i: Tensor, j: Tensor) -> Tensor:
    r"""Of which pairs pooled covariances in single precision are not exact enough for the angles to come.

    A mean over pixels has an error :math:`\epsilon` of its own, beside which what it lacks may be small: the cosine
    :math:`1 - \lambda` then gives an angle that is off by :math:`\epsilon / \sqrt{2 \lambda}`, or
    :math:`\sqrt{2 \epsilon}` at most. The mean of that over all pairs of pixels tells how much of the tangent kernel is
    lost; it is large for near-duplicates alone.

    Args:
        k: Pooled covariances, with shape (B, h, w, h', w').
        left: Variances of the images on the left, with shape (n, h, w).
        right: Those on the right, with shape (m, h, w).
        i: Which image each pair takes on the left.
        j: Which on the right.

    Returns:
        A truth value for each pair, with shape (B,).
    """
    # A pixel of nought lacks everything.
    a, b = (torch.where(q > 0, q.clamp(min=0).rsqrt(), 0.0) for q in (left, right))
    found = []
    for some in torch.arange(len(k), device=k.device).split(TOGETHER):
        cosine = (k[some] * a[i[some]][:, :, :, None, None]).mul_(b[j[some]][:, None, None])
        lack = cosine.neg_().add_(1).clamp_(min=ROUNDED)
        found.append(lack.rsqrt_().flatten(1).mean(1) * (ROUNDED / (math.pi * math.sqrt(2))) > LOST)
    return torch.cat(found)


def planned(net: Serial, x: Tensor) -> Plan | None:
    """How a network is followed for images like these; ``None`` where it has other layers, or nothing compiles them."""
    shape = tuple(x.shape[2:])
    if len(shape) != 2 or net.parameterization != "ntk" or not compiled(x.device):
        return None
    stages: list[Stage] = []
    layers: list[Affine] = []
    pixels, rest = shape, list(net.layers)
    while rest:
        layer = rest.pop(0)
        if isinstance(layer, Dense) and rest and isinstance(rest[0], HalfLines):
            affine = _affine(layer, rest.pop(0))
            if affine is None:
                return None
            layers.append(affine)
        elif isinstance(layer, AvgPool | GlobalAvgPool):
            side = _side(layer, pixels)
            if side is None:
                return None
            pixels = pixels[0] // side, pixels[1] // side
            if layers:
                stages.append(Stage(tuple(layers), side))
                layers = []
            elif stages:
                # A mean of means of windows is one of larger windows.
                stages[-1] = Stage(stages[-1].layers, stages[-1].pool * side)
            else:
                return None
            if layer.flattens:
                break
        elif isinstance(layer, Flatten):
            if layers:
                stages.append(Stage(tuple(layers), 1))
            break
        else:
            return None
    if not stages or any(layer.spatial for layer in rest):
        return None
    paired = any(stage.pool > 1 for stage in stages) or len(stages) > 1
    if not paired and not all(isinstance(layer, Dense) for layer in rest):
        # Later rectifiers would need what covariances lack, and a slice gives covariances.
        return None
    return Plan(tuple(stages), paired, Serial(*net.layers[:len(net.layers) - len(rest)]), Serial(*rest))


def dense_layers(net: Serial) -> tuple[tuple[Affine, ...], Serial] | None:
    """The layers of a network of vectors that one pass can follow, and the readout; ``None`` where it has others."""
    layers, rest = [], list(net.layers)
    while len(rest) > 1:
        layer, activation = rest[:2]
        if type(layer) is not Dense or not isinstance(activation, HalfLines):
            break
        layers.append(Affine(1, layer.W_std**2, layer.b_std**2, activation.low, activation.high))
        rest = rest[2:]
    if net.parameterization != "ntk" or not layers or not all(type(layer) is Dense for layer in rest):
        return None
    return tuple(layers), Serial(*rest)


def _affine(layer: Dense, activation: Layer) -> Affine | None:
    assert isinstance(activation, HalfLines)
    side: object = 1
    if isinstance(layer, Conv):
        side = layer.side if isinstance(layer.side, int) or len(set(layer.side)) > 1 else layer.side[0]
        if layer.stride not in (1, (1, 1)) or layer.padding != "same":
            return None
    if not isinstance(side, int) or side % 2 == 0:
        return None
    return Affine(side, layer.W_std**2, layer.b_std**2, activation.low, activation.high)


def _side(layer: AvgPool | GlobalAvgPool, pixels: tuple[int, ...]) -> int | None:
    """The side of a pooling window, where it is a square that tiles the image."""
    side = pixels[0] if isinstance(layer, GlobalAvgPool) else layer.side
    whole = isinstance(side, int) and all(n % side == 0 for n in pixels)
    if not whole or (isinstance(layer, GlobalAvgPool) and pixels[0] != pixels[1]):
        return None
    assert isinstance(side, int)
    return side


def _diagonal(values: Tensor) -> Tensor:
    """Of values for all pairs of pixels those of each with itself, a view with shape (B, h, w)."""
    return torch.einsum("bhwhw->bhw", values)
