r"""How long the entries of a matrix take, and how large a tile is best.

A tile is what is lost when a worker is killed, and what one worker computes alone. With t seconds for an entry a side s
costs :math:`s^2 t`: at most a minute, and at most a small share of the whole, so that several workers have enough to
share. Where the whole takes next to nothing a tile is as large as it may be, since files have a price too.
"""

from __future__ import annotations

import time

import torch

from ..data.points import Points
from ..features.base import points_between
from ..kernels.base import Kernel

#: The sides of the blocks that are timed, the first and the last; and after how many seconds a larger one would tell no
#: more.
FIRST, TIMED, ENOUGH = 8, 512, 0.05

#: The sides of tiles that are chosen from.
SMALLEST, LARGEST = 64, 1024

#: For how many seconds a tile may be computed at most, for how many in any case, and which share of the whole between.
LONG, SHORT, SHARE = 60.0, 1.0, 1 / 32


@torch.no_grad()
def seconds_each(kernel: Kernel, points: Points, most: int = TIMED) -> float:
    """The seconds of one entry apart from the diagonal, by the time that a small block takes.

    Args:
        kernel: The kernel.
        points: The points.
        most: The largest side of a block.
    """
    side, seconds = FIRST // 2, 0.0
    while seconds < ENOUGH and side < min(TIMED, most, len(points)):
        side = min(2 * side, len(points))
        near, far = (points_between(points, i, i + side) for i in (0, len(points) - side))
        # The first time may include preparations.
        seconds = min(_seconds(kernel, near, far) for _ in range(2))
    return seconds / side**2


def suited(each: float, count: int) -> int:
    """The side of a tile for a matrix of some points.

    Args:
        each: The seconds of one entry.
        count: The number of points.

    Example:
        >>> suited(each=1e-8, count=50_000), suited(each=1e-5, count=2000), suited(each=0.01, count=1000)
        (1024, 256, 64)
    """
    whole = each * count**2 / 2
    limit = min(LONG, max(SHORT, SHARE * whole))
    side = LARGEST
    while side > SMALLEST and each * min(side, count)**2 > limit:
        side //= 2
    return side


def _seconds(kernel: Kernel, near: Points, far: Points) -> float:
    start = time.perf_counter()
    # Work on a GPU is done when its answer is there.
    float(kernel(near, far)[0, 0])
    return time.perf_counter() - start
