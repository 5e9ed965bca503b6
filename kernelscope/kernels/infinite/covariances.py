r"""What one layer of an infinitely wide network hands to the next: covariances of its values, for pairs of points.

In a layer of infinite width the values of two points are normal, with the covariance :math:`K(x, z)` and the variances
:math:`K(x, x)` and :math:`K(z, z)`. Beside K goes the kernel T of the gradients by all parameters so far. Where x and z
are images or sequences, there is a covariance for each pixel (if only the same pixel of both is ever compared) or for
each pair of pixels.

Near-duplicates have :math:`\sqrt{K(x, x) K(z, z)} - K(x, z)` close to nought, and the angle between them is the root of
that: a difference in single precision loses it. So this *lack* is carried itself, as long as layers keep it:
each of its terms is a sum of numbers that are not negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which axes a covariance has: those of the points, then those of their pixels.

    Attributes:
        spatial: The number of axes of pixels of each point: 0 for vectors, 1 for sequences and graphs, 2 for images.
        paired: Whether every pixel of one point meets every pixel of the other, or only the same one.
        crossed: Whether every point on the left meets every one on the right, or only itself.
    """

    spatial: int
    paired: bool
    crossed: bool

    @property
    def first(self) -> int:
        """The number of the first axis of pixels."""
        return 2 if self.crossed else 1

    @property
    def axes(self) -> list[tuple[int, ...]]:
        """For each spatial direction its axis; with that of the other point, where pixels are paired."""
        start = self.first
        return [(start + k, start + self.spatial + k) if self.paired else (start + k,) for k in range(self.spatial)]

    def left(self, values: Tensor) -> Tensor:
        """Values of the points on the left, with shape (n, *pixels), as they meet those on the right."""
        if self.crossed:
            values = values.unsqueeze(1)
        return values[(..., *[None] * self.spatial)] if self.paired else values

    def right(self, values: Tensor) -> Tensor:
        """Values of the points on the right, with shape (m, *pixels), as they meet those on the left."""
        lead, rest = values.shape[:1], values.shape[1:]
        pixels = (*[1] * self.spatial, *rest) if self.paired else rest
        return values.reshape(*([1] if self.crossed else []), *lead, *pixels)

    def diagonal(self, values: Tensor) -> Tensor:
        """Of values for all pairs of pixels those of each pixel with itself."""
        if not self.paired or not self.spatial:
            return values
        start, s = self.first, self.spatial
        count = int(torch.Size(values.shape[start:start + s]).numel())
        flat = values.reshape(*values.shape[:start], count, count).diagonal(dim1=-2, dim2=-1)
        return flat.reshape(*values.shape[:start + s])


@dataclass(frozen=True, eq=False)
class Beside:
    """What points bring beside their values.

    Attributes:
        mask: Which positions there are, 1 or 0, with shape (n, *pixels).
        pattern: Which nodes of a graph feed which, with shape (n, nodes, nodes).
    """

    mask: Tensor | None = None
    pattern: Tensor | None = None

    def part(self, some: slice | Tensor) -> Beside:
        """What some of the points bring."""
        return Beside(*(None if t is None else t[some] for t in (self.mask, self.pattern)))


@dataclass(frozen=True, eq=False)
class Side:
    """What a layer knows of each point by itself.

    Attributes:
        root: The roots of the variances after the layer, with shape (n, *pixels).
        more: What else the layer needs, one row for each point.
        inner: What the layers inside of it know.
    """

    root: Tensor
    more: Tensor | None = None
    inner: tuple[Side, ...] = ()

    def part(self, some: slice | Tensor) -> Side:
        """What it knows of some of the points."""
        more = None if self.more is None else self.more[some]
        return Side(self.root[some], more, tuple(side.part(some) for side in self.inner))


@dataclass(frozen=True, eq=False)
class Covariances:
    r"""The covariances of a layer, and the tangent kernel so far.

    Attributes:
        a: The roots of the variances of the points on the left, with shape (n, *pixels).
        b: Those on the right, with shape (m, *pixels).
        given: K, or the lack :math:`a b - K`, with the axes of the layout.
        lacking: Whether it is the lack.
        tangent: T, with the same axes; ``None`` where nobody asks for it.
        layout: The axes.
        channels: How many channels the layer has, which counts in the standard parameterisation alone.
        standard: Whether the network has the standard parameterisation.
        x: What the points on the left bring.
        z: What those on the right bring.
    """

    a: Tensor
    b: Tensor
    given: Tensor
    lacking: bool
    tangent: Tensor | None
    layout: Layout
    channels: int
    standard: bool = False
    x: Beside = Beside()
    z: Beside = Beside()

    @property
    def left(self) -> Tensor:
        """The roots on the left, as they meet those on the right."""
        return self.layout.left(self.a)

    @property
    def right(self) -> Tensor:
        """The roots on the right, as they meet those on the left."""
        return self.layout.right(self.b)

    @property
    def value(self) -> Tensor:
        """K."""
        return self.left * self.right - self.given if self.lacking else self.given

    @property
    def lack(self) -> Tensor:
        """What K lacks to the product of the roots."""
        return self.given if self.lacking else (self.left * self.right - self.given).clamp(min=0)

    def after(self, a: Tensor, b: Tensor, given: Tensor, tangent: Tensor | None, *, lacking: bool | None = None,
              layout: Layout | None = None, channels: int | None = None) -> Covariances:
        """Those after a layer."""
        return replace(self, a=a, b=b, given=given, tangent=tangent,
                       lacking=self.lacking if lacking is None else lacking,
                       layout=self.layout if layout is None else layout,
                       channels=self.channels if channels is None else channels)

    def scaled(self, x: Tensor | None, z: Tensor | None) -> Covariances:
        """Those of values that are multiplied with numbers from 0 on, which is as exact for what they lack.

        Args:
            x: The numbers for the points on the left, one for each pixel or for each point; ``None`` for 1.
            z: Those for the points on the right.
        """
        given, tangent, roots = self.given, self.tangent, [self.a, self.b]
        for k, (number, spread) in enumerate(((x, self.layout.left), (z, self.layout.right))):
            if number is not None:
                factor = spread(number.to(given))
                given, tangent = given * factor, None if tangent is None else tangent * factor
                roots[k] = roots[k] * number.to(roots[k])
        return replace(self, a=roots[0], b=roots[1], given=given, tangent=tangent)

    def settled(self) -> Covariances:
        """Of points with themselves those in which each pixel lacks nothing to itself, which a difference would."""
        if self.lacking:
            return self
        own = self.a.square()
        if self.layout.paired and self.layout.spatial:
            flat = self.given.reshape(len(own), own[0].numel(), -1)
            own = flat.diagonal_scatter(own.flatten(1), dim1=-2, dim2=-1).reshape(self.given.shape)
        return replace(self, given=own)

    def double(self) -> Covariances:
        """In double precision, as K itself."""
        a, b = self.a.double(), self.b.double()
        wide = replace(self, a=a, b=b, given=self.given.double(),
                       tangent=None if self.tangent is None else self.tangent.double())
        return replace(wide, given=wide.value, lacking=False)
