"""The kernels that are compared, and the nulls beside them."""

import torch

import kernelscope as ks
from kernelscope.kernels.infinite import AvgPool, Conv, Dense, Flatten, ReLU, Serial, named

WIDE = 2**0.5


def small_myrtle() -> Serial:
    """Myrtle-5 for images of 8 × 8 pixels: the last of its poolings is one of 2 × 2, and not three."""
    conv = lambda: (Conv(3, WIDE), ReLU())
    return Serial(*conv(), *conv(), AvgPool(2), *conv(), AvgPool(2), *conv(), AvgPool(2), Flatten(), Dense(WIDE))


def networks() -> dict[str, Serial]:
    """Three networks of infinite width: of vectors, of pixels that meet only themselves, of all pairs of pixels."""
    return {"fc3": named("fc3"), "cnn3": named("cnn3"), "myrtle5": small_myrtle()}


def both_kernels(names: list[str]) -> dict[str, ks.kernels.Kernel]:
    """The NNGP and the NTK of some of them."""
    return {f"{name} {kind}": kernel for name, net in networks().items() if name in names
            for kind, kernel in (("NNGP", net.nngp), ("NTK", net.ntk))}


def nulls() -> dict[str, object]:
    """What needs no network: a kernel of distances, and the nearest training point."""
    return {"Laplacian": ks.kernels.Laplacian(), "nearest": nearest}


def nearest(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The targets of the nearest training point."""
    return y[torch.cdist(z.flatten(1).double(), x.flatten(1).double()).argmin(1)]
