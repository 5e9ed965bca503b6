r"""The product of a kernel of distances with a matrix, on a GPU, without its entries ever being written.

.. math:: (K w)_i = \sum_j \varphi(|x_i - z_j|)\, w_j

Vectors are centred, divided by the length in which the kernel is a plain power of two, and rounded once; their squares
are those of the rounded vectors, so that what is computed is the kernel itself, at points that have moved by rounding.
The columns are shared out among programs where there are few rows; each writes its part, and the parts are added in a
second step, in one order: twice the same call gives twice the same numbers.

References:
    | FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness (Dao et al., 2022)
"""

from __future__ import annotations

from importlib.util import find_spec
from os import environ
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distances import TOLERATED

#: How vectors are rounded, and how their products are taken. Values of the kernel and weights are not rounded so, since
#: errors in them are not those of a kernel: they keep 22 bits in all precisions, in two halves.
PRECISIONS = {"exact": (torch.float32, "ieee"), "tf32x3": (torch.float32, "tf32x3"), "bf16": (torch.bfloat16, "tf32")}

#: Up to how many dimensions distances are computed from differences, which then costs less than a product.
DIRECT = 4

#: How many programs for each processor of the GPU are enough to keep it busy, and how many columns are a share's least.
WAVES, SHARE = 4, 2048


class Profile(NamedTuple):
    r"""A kernel as a function of distance, in a unit of length.

    Attributes:
        name: The function, as the program calls it.
        unit: The unit in bandwidths.
        slope: How fast it falls at most with the squared distance; with the distance, where it is steep.
        steep: Whether it falls like the distance near nought, so that rounding of small distances is seen.
    """

    name: str
    unit: float
    slope: float
    steep: bool = False


class Tiles(NamedTuple):
    """The rows, columns, dimensions and outputs of a tile, and how many warps compute it in how many stages."""

    rows: int
    columns: int
    inner: int
    outputs: int
    warps: int = 8
    stages: int = 2


class Vectors(NamedTuple):
    """Vectors in the kernel's unit, rounded once, with shape (n, d), and their squares."""

    rounded: Tensor
    squares: Tensor


def ready(device: torch.device) -> bool:
    """Whether products can be computed so: on a GPU, where triton is installed."""
    return device.type == "cuda" and find_spec("triton") is not None


def prepared(vectors: Tensor, center: Tensor | None, length: Tensor | float, precision: str) -> Vectors:
    """Vectors as the program takes them: centred, divided by a length, rounded."""
    moved = vectors if center is None else vectors - center
    rounded = (moved / length).to(PRECISIONS[precision][0]).contiguous()
    return Vectors(rounded, rounded.float().square().sum(1))


def multiplied(x: Vectors, z: Vectors, w: Tensor, profile: Profile, precision: str, room: int = 2**26,
               tiles: Tiles | None = None, shares: int | None = None) -> Tensor:
    """The product, with shape (n, c), in float32.

    Args:
        x: The vectors of the rows.
        z: The vectors of the columns.
        w: The weights, with shape (m, c), in float32.
        profile: The kernel.
        precision: One of ``PRECISIONS``.
        room: How many numbers the parts of a product may fill.
        tiles: How the work is cut; chosen by the sizes if not given.
        shares: Among how many programs the columns are shared out; chosen by the sizes if not given.
    """
    # Imported here, since triton is no part of what the package needs.
    from triton.runtime.errors import OutOfResources

    d, c = z.rounded.shape[1], w.shape[1]
    several = [tiles] if tiles is not None else chosen(d, c, precision)
    for one in several:
        try:
            return _launched(x, z, w.contiguous(), profile, precision, room, one, shares)
        except OutOfResources:
            # A GPU with less memory in its processors takes smaller tiles.
            if one is several[-1]:
                raise
    raise AssertionError("there is at least one size of tiles")


def chosen(d: int, c: int, precision: str) -> list[Tiles]:
    """Sizes of tiles for a problem, the fastest first; the last fits everywhere."""
    outputs = 1 if c == 1 else min(32, max(16, 1 << (c - 1).bit_length()))
    inner = max(16, 1 << (d - 1).bit_length())
    # The largest that the registers of an H100 hold, as its assembler tells.
    most = {"exact": 32, "tf32x3": 64 if inner <= 64 else 32, "bf16": 128}[precision]
    return [Tiles(128, 64, min(inner, most), outputs), Tiles(64, 32, min(inner, 32), min(outputs, 16), 4)]


def parted(n: int, m: int, c: int, tiles: Tiles, room: int, processors: int) -> int:
    """Among how many programs the columns are shared out, so that the GPU is busy."""
    others = -(-n // tiles.rows) * -(-c // tiles.outputs)
    return max(1, min(-(-WAVES * processors // others), m // SHARE, room // (n * c)))


def _launched(x: Vectors, z: Vectors, w: Tensor, profile: Profile, precision: str, room: int,
              tiles: Tiles, shares: int | None) -> Tensor:
    from . import programs

    (n, d), m, c = x.rounded.shape, len(z.rounded), w.shape[1]
    if shares is None:
        shares = parted(n, m, c, tiles, room, _processors(w.device))
    # Whole tiles, so that none is cut by the end of a share.
    each = -(-m // (shares * tiles.columns)) * tiles.columns
    shares = -(-m // each)
    partial, (high, low, scale) = w.new_empty(shares, n, c), halves(w) if tiles.outputs > 1 else (w, w, None)
    # A product is off by some eps of |x|^2 + |z|^2. Pairs are too close where that is many eps of the kernel, and where
    # they may be copies of one point, for which it is 1.
    edge = (profile.slope / (2 * TOLERATED)) ** 2 if profile.steep else TOLERATED / profile.slope
    least = (8 + d / 4) * torch.finfo(torch.float32).eps
    grid = -(-n // tiles.rows), shares, -(-c // tiles.outputs)
    # A program starts on the GPU that is current, which need not be the one that holds the vectors.
    with torch.cuda.device_of(w):
        programs.multiply[grid](
            x.rounded, z.rounded, x.squares, z.squares, high, low, partial, n, m, d, c, each, edge, least,
            **constants(d, profile, precision, tiles), num_warps=tiles.warps, num_stages=tiles.stages)
    total = partial[0] if shares == 1 else partial.sum(0)
    return total if scale is None else total * scale


def halves(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights as a sum of two in half precision, of which each column is multiplied by a power of two, (c,)."""
    scale = torch.ldexp(torch.ones_like(w[0]), torch.frexp(w.abs().amax(0)).exponent)
    scaled = w / scale
    high = scaled.half()
    return high, (scaled - high.float()).half(), scale


def constants(d: int, profile: Profile, precision: str, tiles: Tiles) -> dict[str, Any]:
    """What the program is compiled for."""
    return {"PROFILE": profile.name, "FIRST": PRECISIONS[precision][1], "DIRECT": d <= DIRECT,
            "STEEP": profile.steep, "WHOLE": d <= tiles.inner, "EVEN": d % tiles.inner == 0,
            # The interpreter would take bfloat16 for whole numbers in a product.
            "WIDE": environ.get("TRITON_INTERPRET") == "1", "BM": tiles.rows,
            "BN": tiles.columns, "BD": tiles.inner, "BC": tiles.outputs}


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
