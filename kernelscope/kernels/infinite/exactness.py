r"""Where single precision suffices for networks of pixels, and where it would lose digits of an angle.

What a covariance lacks to the product of two roots is exact where it is small, for points that are nearly equal. At the
other end, for points that are nearly opposite, it is rounded, and so is the angle :math:`\pi - \sqrt{2 (2 - D)}`.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ..distances import units
from .affine import Conv
from .layer import Layer
from .residual import Residual
from .serial import Serial
from .vectors import OPPOSITE


def stays_exact(net: Layer) -> bool:
    """Whether every layer up to the first pooling keeps what covariances lack, so that single precision suffices."""
    match net:
        case Serial():
            return all(stays_exact(layer) for layer in _through_the_first(net.layers))
        case Residual():
            return stays_exact(net.branch) and stays_exact(net.skip)
    return net.keeps or net.paired


def sees_pixels_alone(net: Layer) -> bool:
    """Whether the first weights see one pixel each."""
    match net:
        case Serial():
            return bool(net.layers) and sees_pixels_alone(net.layers[0])
        case Residual():
            return sees_pixels_alone(net.branch) or sees_pixels_alone(net.skip)
        case Conv():
            return net.side == 1 or isinstance(net.side, tuple) and set(net.side) == {1}
    return True


def opposite(x: Tensor, z: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The points on the left that are nearly opposite to some on the right, each with the numbers of these."""
    one, other = (units(points.flatten(1))[0] for points in (x, z))
    there = one @ other.mT < OPPOSITE - 1
    for k in there.any(1).nonzero()[:, 0].tolist():
        yield k, there[k].nonzero()[:, 0]


def _through_the_first(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """Layers up to the first that does not keep what covariances lack, and this one."""
    for layer in layers:
        yield layer
        if not layer.keeps:
            return
