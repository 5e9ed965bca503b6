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
from .exactness import opposite, sees_pixels_alone, stays_exact
from .graph import checked_pattern
from .inputs import of_pairs, of_themselves
from .masks import checked_mask
from .overflow import representable
from .serial import Both, Serial
from .stages import Plan, planned

#: How many numbers of double precision each pair of pixels takes while layers are followed, and a pixel of each point
#: while compiled code prepares it.
BUFFERS, FIELDS = 34, 60

#: How many bytes are worked on at once on a processor; more does not stay in its caches.
CACHE = 96 * 2**20

#: How many points make a band, whose own covariances are computed together with those of the others.
BAND = 512

#: How many pairs compiled code takes at once, at least, where there is room for them.
MANY = 256

#: The names by which points bring more than values.
NAMES = ("mask", "pattern")


@dataclass(frozen=True, eq=False)
class Band:
    """Some points, and what the layers know of each by itself."""

    x: Tensor
    beside: Beside
    side: Side
    own: Tensor  # both kernels of each point with itself, with shape (2, n)

    def part(self, some: slice | Tensor) -> Band:
        """Some of them."""
        return Band(self.x[some], self.beside.part(some), self.side.part(some), self.own[:, some])


class OfImages(Kernel):
    """One of the kernels of a network with convolutions, poolings or attention.

    ``k(x, z)`` of tensors that require a gradient can be differentiated by the points of both sides: layer by layer and
    as a whole, which needs the room for all pairs at once. Points that come with masks or patterns are not
    differentiated; derivatives at kinks and at pixels of nought are taken as nought.

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
        z = None if z is x else z
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, z)):
            return Both(*self._differentiable(x, z))
        left = self.points(x)
        right = left if z is None else self.points(z)
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
        for rows in pieces(0, len(points), self._band_size(points)):
            band = self._band(points, rows)
            found.append(representable(band.own[int(self.which == "ntk")].to(band.x.dtype), self.net))
        return torch.cat(found)

    # -- differentiated ----------------------------------------------------------------------------------------------

    def _differentiable(self, x: Any, z: Any) -> Tensor:
        """Both matrices as a whole, layer by layer, from tensors whose gradients are kept."""
        near, at = self._kept(x)
        far, to = (near, at) if z is None else self._kept(z)
        check_shapes(near, far)
        dtype = common(near, far)
        sides = [self.net.own(self._of_themselves(t, beside)) for t, beside in ((near, at), (far, to))]
        c = self.net(self._of_pairs(near.double(), far.double(), at, to), sides[0][1], sides[1][1])
        block = _stacked(c)
        if z is None:
            # A kink at which a point meets itself is no affair of its own kernel.
            same = torch.eye(len(near), dtype=torch.bool, device=near.device)
            block = torch.where(same, _stacked(sides[0][0])[:, None], block)
        return representable(block.to(dtype), self.net)

    def _kept(self, x: Any) -> tuple[Tensor, Beside]:
        """All points and what they bring, tensors with their gradients."""
        if not isinstance(x, Tensor):
            points = self.points(x)
            found, beside = read(points, slice(0, len(points)), self.net.patterned)
        else:
            found, beside = checked(x), Beside()
        self._check_pixels(found)
        return found, beside

    # -- inside ------------------------------------------------------------------------------------------------------

    def _tiles(self, left: Points, right: Points) -> Iterator[tuple[slice, slice, Tensor]]:
        """Both matrices in tiles, with shape (2, r, c); of symmetric ones each is computed once."""
        halved, size = right is left, self._band_size(right)
        for wide in pieces(0, len(right), size):
            far = self._band(right, wide)
            for high in pieces(0, wide.stop if halved else len(left), size):
                near = far if halved and high == wide else self._band(left, high)
                check_shapes(near.x, far.x)
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
        block = self._followed(near, far, same, torch.float64 if self._collinear(near.x, far.x) else dtype).to(dtype)
        if dtype != torch.float64:
            # Angles near a straight one lose digits, as what cosines lack to 1 is rounded.
            for k, some in opposite(near.x, far.x):
                one = near.part(torch.tensor([k], device=near.x.device))
                block[:, k, some] = self._followed(one, far.part(some), False, torch.float64)[:, 0].to(dtype)
        if same:
            block = block.triu(1) + block.triu(1).mT + torch.diag_embed(near.own.to(block))
        return representable(block, self.net)

    def _followed(self, near: Band, far: Band, same: bool, dtype: torch.dtype) -> Tensor:
        """Both kernels, followed through the layers; of one set with itself the upper triangle, at least."""
        plan = self._planned(near.x, near.beside)
        if plan is not None:
            return _stacked(plan.pairs(near.x.to(dtype), far.x.to(dtype), near.side, far.side, same,
                                       self.which == "ntk"))
        # Behind poolings, what near-duplicates lack would be rounding.
        working = dtype if self._lacking and not self.net.paired else torch.float64
        x, z = (band.x.to(working) for band in (near, far))
        return _stacked(self.net(self._of_pairs(x, z, near.beside, far.beside), near.side, far.side))

    def _collinear(self, x: Tensor, z: Tensor) -> bool:
        """Whether weights see numbers of either sign one by one, which are equal or opposite."""
        return x.shape[1] == 1 and sees_pixels_alone(self.net) and bool((x.amin() < 0) | (z.amin() < 0))

    def _band(self, points: Points, rows: slice) -> Band:
        """Some points, prepared; few at a time, since each has as many covariances with itself as a pair has."""
        x, beside = read(points, rows, self.net.patterned)
        self._check_pixels(x)
        found, sides = [], []
        plan = self._planned(x, beside)
        for some in pieces(0, len(x), self._room(x, plan, own=True)):
            if plan is not None:
                c, side = plan.own(x[some].double(), self.which == "ntk")
            else:
                c, side = self.net.own(self._of_themselves(x[some], beside.part(some)))
            found.append(_stacked(c))
            sides.append(side)
        return Band(x, beside, joined(sides), torch.cat(found, 1))

    def _check_pixels(self, x: Tensor) -> None:
        shape = tuple(x.shape[2:])
        if x.ndim < 3 or self.net.pixels(shape) != ():
            raise DataError(
                "Points with pixels have shape (n, channels, h, w), or (n, channels, length), and a network ends them "
                f"with Flatten() or GlobalAvgPool(). {tuple(x.shape)} came, for {self.net!r}. Reshape the points, or "
                "add such a layer before the readout."
            )

    def _of_themselves(self, x: Tensor, beside: Beside) -> Covariances:
        return of_themselves(x.double(), beside, self.net.paired, self._lacking, self.which == "ntk", self._standard)

    def _of_pairs(self, x: Tensor, z: Tensor, at: Beside, to: Beside) -> Covariances:
        return of_pairs(x, z, at, to, self.net.paired, self._lacking, self.which == "ntk", self._standard)

    def _band_size(self, points: Points) -> int:
        """How many points make a band: fewer where much has to be known of each."""
        x, beside = read(points, slice(0, 1), self.net.patterned)
        pixels = x[0].numel() // x.shape[1] if x.ndim > 2 else 1
        # Of two bands, each of which is copied when its parts are joined.
        each = 4 * 8 * (self.net.remembers * pixels**2 + self.net.notes * pixels + x[0].numel())
        if self._planned(x, beside) is not None:
            each += 8 * FIELDS * pixels
        # Half is left for what is computed of them.
        return min(BAND, max(1, self.memory // 2 // each))

    def _planned(self, x: Tensor, beside: Beside) -> Plan | None:
        """How the points are followed in compiled code, if they are."""
        plain = beside.mask is None and beside.pattern is None
        return planned(self.net, x) if plain else None

    def _room(self, x: Tensor, plan: Plan | None, own: bool = False) -> int:
        """For how many pairs of points there is room at a time, or for how many points with themselves."""
        pixels = x[0, 0].numel()
        if plan is not None and (plan.paired or not own):
            each = plan.room(tuple(x.shape[2:]))
        else:
            each = 8 * (BUFFERS * pixels ** (2 if self.net.paired else 1) + 2 * self.net.notes * pixels)
        if each > self.memory:
            raise OutOfBudget(
                f"Two points of {pixels} pixels need {as_words(each)} at a time, and memory allows "
                f"{as_words(self.memory)}. Raise memory, or make the points smaller."
            )
        # Half of it is for bands; few pairs would leave threads without work.
        most = max(1, self.memory // 2 // each)
        return min(max(MANY if plan is not None else 1, CACHE // each), most) if each < CACHE else most

    def _side_of_a_tile(self, near: Band, far: Band) -> int:
        return int(self._room(near.x, self._planned(near.x, near.beside)) ** 0.5)

    @property
    def _standard(self) -> bool:
        return self.net.parameterization == "standard"


def check_shapes(x: Tensor, z: Tensor) -> None:
    """Whether points have the same channels and pixels.

    Raises:
        DataError: If they have not.
    """
    if x.shape[1:] != z.shape[1:]:
        raise DataError(
            "A kernel compares points of one size: images of shape (n, channels, h, w), or sequences of shape (n, "
            f"channels, length), with as many channels and pixels on both sides. Those of x have shape "
            f"{tuple(x.shape[1:])}, those of z {tuple(z.shape[1:])}. Crop or pad them, and where images have one "
            "channel, keep its axis: x[:, None]."
        )


def read(points: Points, rows: slice, patterned: bool) -> tuple[Tensor, Beside]:
    """Some points and what they bring: a tensor, with a mask after it, of graphs a pattern; or all of it by name."""
    part = points.part(rows.start, rows.stop)
    named = dict(part.kwargs)
    values = [*part.args, *(named.pop(name) for name in list(named) if name not in NAMES)]
    if len(part.args) == 2 and not named:
        values, named = [part.args[0]], {NAMES[patterned]: part.args[1]}
    if len(values) != 1 or not isinstance(values[0], Tensor):
        raise DataError(f"A network of pixels takes one tensor for each point, and beside it, by name, {NAMES}; "
                        f"{len(values)} tensors came. Pass for example {{'x': x, 'mask': mask}}.")
    x = checked(values[0], rows.start)
    if ("pattern" in named) != patterned:
        came, do = ("no pattern", "Pass one") if patterned else ("a pattern", "Leave it out, or add such a layer")
        raise DataError("Networks with Aggregate(), and no others, take points with patterns, (x, pattern) or "
                        f"{{'x': x, 'pattern': pattern}}; {came} came. {do}.")
    if x.ndim < 3:
        return x, Beside()
    mask = checked_mask(named["mask"], x) if "mask" in named else None
    pattern = checked_pattern(named["pattern"], x) if patterned else None
    return x if mask is None else x * mask[:, None], Beside(mask, pattern)


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
