r"""An input as a picture, when its shape allows one, and as words when it does not.

An input of shape (h, w), (1, h, w) or (3, h, w) is an image, and so is a flat vector of h² values with h ≥ 8, as
64 = 8 × 8 and 784 = 28 × 28. Values between ``low`` and ``high`` become grey levels or colours; the limits are the same
for all inputs of one answer, so that dark means the same everywhere.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib

import torch
from torch import Tensor

from .errors import DataError

#: The smallest side of a flat vector that is read as a square image.
SMALLEST_SIDE = 8


def picture_shape(shape: torch.Size | tuple[int, ...]) -> tuple[int, int, int] | None:
    """The channels, height and width of the picture an input of this shape is, or ``None`` if it is none.

    Example:
        >>> picture_shape((64,)), picture_shape((3, 32, 32)), picture_shape((5,))
        ((1, 8, 8), (3, 32, 32), None)
    """
    match tuple(shape):
        case (length,) if length >= SMALLEST_SIDE**2 and math.isqrt(length) ** 2 == length:
            return 1, math.isqrt(length), math.isqrt(length)
        case (height, width) if min(height, width) > 1:
            return 1, height, width
        case (1 | 3 as channels, height, width) if min(height, width) > 1:
            return channels, height, width
    return None


def limits(*inputs: Tensor) -> tuple[float, float]:
    """The smallest and largest finite value of all inputs: what black and white stand for."""
    values = torch.cat([x.detach().to("cpu", torch.float64).flatten() for x in inputs])
    values = values[values.isfinite()]
    if len(values) == 0 or values.min() == values.max():
        return 0.0, 1.0
    return float(values.min()), float(values.max())


def png(x: Tensor, low: float = 0.0, high: float = 1.0, side: int = 64) -> bytes:
    """A picture of one input as PNG, no larger than ``side`` pixels; the same input gives the same bytes.

    Raises:
        DataError: If the input has no shape of a picture; ask :func:`picture_shape` first.
    """
    shape = picture_shape(x.shape)
    if shape is None:
        raise DataError(
            f"A picture needs an input of shape (h, w), (1, h, w), (3, h, w) or (h*h,); got {tuple(x.shape)}. "
            "Ask picture_shape first, and show other inputs in words."
        )
    image = x.detach().to("cpu", torch.float64).reshape(shape)
    image = image.nan_to_num(nan=low, posinf=high, neginf=low)
    reduction = min(1.0, side / max(shape[1:]))
    if reduction < 1:
        height, width = (max(1, round(length * reduction)) for length in shape[1:])
        image = torch.nn.functional.adaptive_avg_pool2d(image, (height, width))
    levels = ((image - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def data_uri(picture: bytes) -> str:
    """A PNG as an address that holds the picture itself, so that showing it asks nobody for anything."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def words(x: Tensor, count: int = 6) -> str:
    """The first values of an input, for inputs that are not pictures.

    Example:
        >>> words(torch.arange(9.0))
        '0, 1, 2, 3, 4, 5 and 3 more'
    """
    values = x.detach().cpu().flatten()
    shown = ", ".join(f"{value:.4g}" for value in values[:count].tolist())
    return shown if len(values) <= count else f"{shown} and {len(values) - count} more"
