"""The kernel matrix that a fit reads from a folder."""

from __future__ import annotations

from typing import Any

from ..data.points import Points
from ..errors import DataError
from ..kernels.base import Kernel
from ..tiles import Tiles
from ..tiles.identity import Identity

#: The share of fit's memory that tiles may fill once they were read.
SHARE = 0.5


def opened(tiles: Any, kernel: Kernel, x: Points, z: Points, memory: int) -> Tiles:
    """The tiles of all points.

    Args:
        tiles: Where they are, or tiles that were opened before.
        kernel: The kernel.
        x: The points.
        z: The centers.
        memory: The memory of the fit.

    Raises:
        DataError: If not all points are centers, or the tiles are of other points or another kernel.
    """
    if z is not x:
        raise DataError("Tiles are those of a kernel matrix whose rows and columns are all points, and centers were "
                        "given apart from them. Leave out centers, or tiles.")
    if not isinstance(tiles, Tiles):
        return Tiles(kernel, x, tiles, memory=int(SHARE * memory))
    own = Identity.made(kernel, x, tiles.side, tiles.dtype)
    if len(tiles) != len(x) or own.strips != tiles.identity.strips or own.kernel != tiles.identity.kernel:
        raise DataError(f"{tiles!r} came, which is not the matrix of {kernel!r} on these {len(x):,} points. Pass the "
                        "folder of the tiles, or make them of the points and the kernel of this fit.")
    return tiles
