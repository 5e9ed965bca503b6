"""Which kernel class a network's kernels are of."""

from __future__ import annotations

from ...errors import DataError
from .images import OfImages
from .normalization import Dropout
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
    if any(isinstance(layer, Dropout) for layer in net.layers[:1]):
        raise DataError(f"{net!r} begins with a Dropout: of points themselves it leaves out some values, and not the "
                        "mean share of infinitely many. Put a Dense or a Conv in front of it.")
    return OfImages(net, which) if net.of_pixels else OfVectors(net, which)
