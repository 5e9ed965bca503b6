"""The kernels of networks that look at pixels: images, sequences, graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...budget import as_bytes, as_words
from ...data.points import Points
from ...errors import DataError, OutOfBudget
from ...progress import counting
from ..base import Kernel
from ..tiling import pieces
from ..vectors import checked, common
from .covariances import Beside, Covariances, Side
from .inputs import of_pairs, of_themselves
from .layer import Layer
from .residual import Residual
from .serial import Both, Serial

#: How many numbers of double precision each pair of pixels takes while layers are followed.
BUFFERS = 10

#: How many bytes are worked on at once on a processor; more does not stay in its caches.
CACHE = 32 * 2**20

#: How many points make a band, whose own covariances are computed together with those of the others.
BAND = 512

#: The names by which points bring more than values.
NAMES = ("mask", "pattern")


@dataclass(frozen=True, eq=False)
class Band:
    """Some points, and what the layers know of each by itself."""

    x: Tensor
    beside: Beside
    side: Side
    own: Tensor  # both kernels of each point with itself, with shape (2, n)

    def part(self, some: slice) -> Band:
        """Some of them."""
        return Band(self.x[some], self.beside.part(some), self.side.part(some), self.own[:, some])


class OfImages(Kernel):
    """One of the kernels of a network with convolutions, poolings or attention.

    Args:
        net: The network.
        which: ``"nngp"`` or ``"ntk"``.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
    """

    def __init__(self, net: Serial, which: str, memory: int | str = "1GB"):
        self.net, self.which, self.memory = net, which, as_bytes(memory)
        self._lacking = stays_exact(net)

    def __repr__(self) -> str:
        return f"{self.net!r}.{self.which}"

    def __call__(self, x: Any, z: Any = None) -> Tensor:
        found = self.both(x, z)
        return found.nngp if self.which == "nngp" else found.ntk

    def both(self, x: Any, z: Any = None) -> Both:
        """Both kernel matrices; without the tangent kernel where it is not this one, then it is the first twice."""
        left = self.points(x)
        right = left if z is None or z is x else self.points(z)
        total: Tensor | None = None
        with counting(len(left) * len(right), "kernel", "entries") as done:
            for rows, columns, block in self._tiles(left, right):
                total = block.new_empty(2, len(left), len(right)) if total is None else total
                total[:, rows, columns] = block
                done(block[0].numel())
        assert total is not None
        return Both(total[0], total[1])

    def blocks(self, x: Any, z: Any = None) -> Iterator[tuple[slice, slice, Tensor]]:
        left = self.points(x)
        right = left if z is None or z is x else self.points(z)
        for rows, columns, block in self._tiles(left, right):
            yield rows, columns, block[int(self.which == "ntk")]

    def diagonal(self, x: Any) -> Tensor:
        points = self.points(x)
        found = []
        for rows in pieces(0, len(points), BAND):
            band = self._band(points, rows)
            found.append(band.own[int(self.which == "ntk")].to(band.x.dtype))
        return torch.cat(found)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _tiles(self, left: Points, right: Points) -> Iterator[tuple[slice, slice, Tensor]]:
        """Both matrices in tiles, with shape (2, r, c); of symmetric ones each is computed once."""
        halved = right is left
        for wide in pieces(0, len(right), BAND):
            far = self._band(right, wide)
            for high in pieces(0, wide.stop if halved else len(left), BAND):
                near = far if halved and high == wide else self._band(left, high)
                side = self._side_of_a_tile(near, far)
                for rows in pieces(high.start, high.stop, side):
                    one = near.part(_within(rows, high))
                    for columns in pieces(wide.start, wide.stop, side):
                        if halved and columns.start < rows.start:
                            continue
                        same = halved and rows == columns
                        block = self._block(one, one if same else far.part(_within(columns, wide)), same)
                        yield rows, columns, block
                        if halved and not same:
                            yield columns, rows, block.mT

    def _block(self, near: Band, far: Band, same: bool) -> Tensor:
        """Both kernels of some points with others, or with themselves."""
        dtype = common(near.x, far.x)
        x, z = (band.x.to(dtype if self._lacking else torch.float64) for band in (near, far))
        c = of_pairs(x, z, near.beside, far.beside, self.net.paired, self._lacking, self.which == "ntk", self._standard)
        block = _stacked(self.net(c, near.side, far.side)).to(dtype)
        if same:
            block = block.triu(1) + block.triu(1).mT + torch.diag_embed(near.own.to(block))
        return block

    def _band(self, points: Points, rows: slice) -> Band:
        """Some points, prepared; few at a time, since each has as many covariances with itself as a pair has."""
        x, beside = read(points, rows)
        shape = tuple(x.shape[2:])
        if x.ndim < 3 or self.net.pixels(shape) != ():
            raise DataError(
                "Points with pixels have shape (n, channels, h, w), or (n, channels, length), and a network ends them "
                f"with Flatten() or GlobalAvgPool(). {tuple(x.shape)} came, for {self.net!r}. Reshape the points, or "
                "add such a layer before the readout."
            )
        found, sides = [], []
        for some in pieces(0, len(x), max(1, self._room(x))):
            c = of_themselves(x[some].double(), beside.part(some), self.net.paired, self._lacking, self.which == "ntk",
                              self._standard)
            c, side = self.net.own(c)
            found.append(_stacked(c))
            sides.append(side)
        return Band(x, beside, joined(sides), torch.cat(found, 1))

    def _room(self, x: Tensor) -> int:
        """For how many pairs of points there is room at a time."""
        pixels = x[0, 0].numel()
        each = BUFFERS * 8 * pixels ** (2 if self.net.paired else 1)
        if each > self.memory:
            raise OutOfBudget(
                f"Two points of {pixels} pixels need {as_words(each)} at a time, and memory allows "
                f"{as_words(self.memory)}. Raise memory, or make the points smaller."
            )
        return min(self.memory, CACHE) // each if each < CACHE else self.memory // each

    def _side_of_a_tile(self, near: Band, far: Band) -> int:
        return max(1, int(self._room(near.x) ** 0.5))

    @property
    def _standard(self) -> bool:
        return self.net.parameterization == "standard"


def stays_exact(net: Layer) -> bool:
    """Whether every layer up to the first pooling keeps what covariances lack, so that single precision suffices."""
    match net:
        case Serial():
            return all(stays_exact(layer) for layer in _through_the_first(net.layers))
        case Residual():
            return stays_exact(net.branch) and stays_exact(net.skip)
    return net.keeps or net.paired


def _through_the_first(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """Layers up to the first that does not keep what covariances lack, and this one."""
    for layer in layers:
        yield layer
        if not layer.keeps:
            return


def read(points: Points, rows: slice) -> tuple[Tensor, Beside]:
    """Some points and what they bring: a tensor, with a mask after it; or both, and a pattern, by name."""
    part = points.part(rows.start, rows.stop)
    named = dict(part.kwargs)
    values = [*part.args, *(named.pop(name) for name in list(named) if name not in NAMES)]
    if len(part.args) == 2 and not named:
        values, named = [part.args[0]], {"mask": part.args[1]}
    if len(values) != 1 or not isinstance(values[0], Tensor):
        raise DataError(f"A network of pixels takes one tensor for each point, and beside it, by name, {NAMES}; "
                        f"{len(values)} tensors came. Pass for example {{'x': x, 'mask': mask}}.")
    return checked(values[0], rows.start), Beside(**named)


def joined(sides: list[Side]) -> Side:
    """What layers know of points, from what they know of some at a time."""
    more = None if sides[0].more is None else torch.cat([side.more for side in sides if side.more is not None])
    inner = tuple(joined(list(parts)) for parts in zip(*(side.inner for side in sides), strict=True))
    return Side(torch.cat([side.root for side in sides]), more, inner)


def _stacked(c: Covariances) -> Tensor:
    """Both kernels; the first one twice where the other is not asked for."""
    value = c.value
    return torch.stack([value, value if c.tangent is None else c.tangent])


def _within(some: slice, band: slice) -> slice:
    return slice(some.start - band.start, some.stop - band.start)
