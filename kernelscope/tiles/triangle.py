r"""A symmetric matrix by the tiles of its lower triangle.

The n points are cut into strips of one side; tile (I, J) with :math:`J \le I` holds :math:`K_{IJ} = k(x_I, x_J)`. Each
tile is used twice in a product, so that the matrix is read by half:

.. math:: y_I \mathrel{+}= K_{IJ}\, v_J, \qquad y_J \mathrel{+}= K_{IJ}^T\, v_I \quad (J < I).

The tiles are dealt to a fixed number of lanes, in their order. A lane is added up by one process, tile by tile, and the
lanes are added in their order. So a product has the same bits however many processes share the lanes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError
from ..features.base import check_factor
from ..kernels.base import Kernel
from ..linalg import times
from ..operator import places_of
from ..progress import counting, telling

#: How many lanes the tiles are dealt to: so many processes can share a product.
LANES = 8


class Triangle(ABC):
    r"""A symmetric matrix with shape :math:`(n, n)`, multiplied tile by tile; sums are taken in float64.

    Args:
        kernel: The kernel.
        points: The n points.
        side: The side of a tile; the last strip may be narrower.
        dtype: The precision of the tiles.
        room: About how many bytes of tiles are kept in memory after their first use.

    Attributes:
        side: The side of a tile.
        dtype: The precision of the tiles.
    """

    symmetric = True

    def __init__(self, kernel: Kernel, points: Points, side: int, dtype: torch.dtype, room: int):
        self.kernel, self.points, self.side, self.dtype = kernel, points, side, dtype
        self._room, self._held = room, 0
        self._kept: dict[tuple[int, int], Tensor] = {}

    @abstractmethod
    def _tile(self, i: int, j: int) -> Tensor:
        """Tile (i, j) of the lower triangle."""

    # -- where everything is ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """The number of points n."""
        return len(self.points)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return len(self), len(self)

    @property
    def T(self) -> Triangle:
        """The transpose: the matrix itself."""
        return self

    @property
    def strips(self) -> int:
        """How many strips the points are cut into."""
        return -(-len(self) // self.side)

    def strip(self, i: int) -> slice:
        """The points of a strip."""
        return slice(i * self.side, min((i + 1) * self.side, len(self)))

    @property
    def places(self) -> list[tuple[int, int]]:
        """The tiles of the lower triangle, row by row."""
        return [(i, j) for i in range(self.strips) for j in range(i + 1)]

    def lane(self, number: int) -> list[tuple[int, int]]:
        """The tiles of a lane."""
        places = self.places
        return places[len(places) * number // LANES:len(places) * (number + 1) // LANES]

    # -- products --------------------------------------------------------------------------------------------------

    def __matmul__(self, v: Tensor) -> Tensor:
        check_factor(v, "K @ v", "v")
        if len(v) != len(self):
            raise DataError(f"K @ v needs one entry of v for each column: K has shape {self.shape}, and v has "
                            f"{len(v)} rows.")
        columns = v.double().reshape(len(v), -1)
        with telling(None, "product"), counting(LANES, "K @ v", "lanes") as done:
            total = torch.zeros_like(columns)
            for number in range(LANES):
                total += self.lane_times(number, columns)
                done(1)
        return total.view(v.shape).to(v.dtype if v.is_floating_point() else torch.float64)

    def lane_times(self, number: int, v: Tensor, exact: bool = True) -> Tensor:
        r"""What the tiles of one lane give to :math:`K v`, with shape :math:`(n, m)` in float64.

        Args:
            number: The lane.
            v: With shape (n, m), in float64.
            exact: Whether each tile is multiplied in float64, or in its own precision.
        """
        y = torch.zeros_like(v)
        w = v if exact else v.to(self.dtype)
        for (i, j), tile in self._tiles(self.lane(number), v.device):
            rows, columns, block = self.strip(i), self.strip(j), tile.to(w.dtype)
            y[rows] += times(block, w[columns])
            if i != j:
                y[columns] += times(block.T, w[rows])
        return y

    # -- parts -----------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        rows, columns = key if isinstance(key, tuple) and len(key) == 2 else (key, slice(None))
        near, far = self._places(rows), self._places(columns)
        found = torch.empty(len(near), len(far), dtype=self.dtype)
        for i in torch.unique(near // self.side).tolist():
            mine = (near // self.side == i).nonzero().flatten()
            for j in torch.unique(far // self.side).tolist():
                theirs = (far // self.side == j).nonzero().flatten()
                block = self._at(i, j) if j <= i else self._at(j, i).T
                found[mine[:, None], theirs] = block[(near[mine] % self.side)[:, None], far[theirs] % self.side]
        return found

    def diagonal(self) -> Tensor:
        """The entries k(x_i, x_i), with shape (n,)."""
        return torch.cat([self._at(i, i).diagonal() for i in range(self.strips)])

    def dense(self) -> Tensor:
        """The matrix itself, with shape (n, n)."""
        return self[:, :]

    def _places(self, key: Any) -> Tensor:
        places: Sequence[int] = (range(*key.indices(len(self))) if isinstance(key, slice)
                                 else places_of(key, len(self)))
        return torch.tensor(list(places), dtype=torch.long)

    # -- tiles -----------------------------------------------------------------------------------------------------

    def _tiles(self, places: list[tuple[int, int]],
               device: torch.device) -> Iterator[tuple[tuple[int, int], Tensor]]:
        """Some tiles in their order, on a device; as many as have room stay in memory."""
        found = self._fetched([place for place in places if place not in self._kept])
        for place in places:
            tile = self._kept.get(place)
            if tile is None:
                tile = next(found).to(device)
                if self._held + tile.nbytes <= self._room:
                    self._kept[place] = tile
                    self._held += tile.nbytes
            yield place, tile.to(device)

    def _fetched(self, places: list[tuple[int, int]]) -> Iterator[Tensor]:
        """Tiles that are not in memory, in their order."""
        return (self._tile(i, j) for i, j in places)

    def _at(self, i: int, j: int) -> Tensor:
        tile = self._kept.get((i, j))
        return (self._tile(i, j) if tile is None else tile).cpu()
