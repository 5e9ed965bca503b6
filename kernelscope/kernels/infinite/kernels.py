"""Which kernel class a network's kernels are of."""

from __future__ import annotations

from ...errors import DataError
from .images import OfImages
from .pooling import Flatten
from .serial import Serial
from .vectors import OfVectors

#: A kernel of an infinitely wide network.
Infinite = OfVectors | OfImages


def kernel_of(net: Serial, which: str) -> Infinite:
    """The kernel of a network, ``"nngp"`` or ``"ntk"``.

    Raises:
        DataError: If the network cannot have one.
    """
    if not net.normal(False):
        raise DataError(f"The kernels of a network are those of its readout, a Dense or a Conv after the last "
                        f"activation; {net!r} ends without one. Add Dense().")
    layers = list(net.layers)
    while layers and isinstance(layers[0], Flatten):
        layers.pop(0)
    if not any(layer.spatial for layer in layers):
        return OfVectors(Serial(*layers, parameterization=net.parameterization), which)
    return OfImages(net, which)
