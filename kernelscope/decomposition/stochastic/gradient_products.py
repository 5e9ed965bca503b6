r"""Sums over places of the products of gradients at two sets of points.

.. math:: K(x, z) = \sum_k \sum_p w_{k,p}\, \langle\psi_{k,p}(x), \phi_{k,p}(z)\rangle

A place k is a point of parameter space, or a step; p are the parameters, each with a weight of its own. The sum goes
place by place and block by block: what is held are the matrix, the gradients of two blocks of points, and the
parameters of a stretch of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...budget import as_words
from ...errors import NonFiniteError, OutOfBudget
from ...layers.products import mirror, multiply
from ...layers.tiles import Tile, aligned
from ...network import Parameters
from ...run.run import Run
from ..query_side import QuerySide

#: How many times the gradients of a block are held while two of them meet: both, and what they are made from.
COPIES = 6


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients at one point of parameter space, or a mean of those at several.

    Attributes:
        points: The weight of each point, its parameters and its buffers.
    """

    points: list[tuple[float, Parameters, Parameters]]

    def rows(self, side: QuerySide) -> list[Tensor]:
        """For each parameter the gradients, with shape (b c, *)."""
        total: list[Tensor] = []
        for weight, parameters, buffers in self.points:
            found = [t if weight == 1.0 else weight * t for t in side.gradients(parameters, buffers)]
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return total

    def tile(self, side: QuerySide, count: int, full: bool) -> Tile | None:
        """The gradients by their factors, if they are taken at one point and have some: a mean of factors has none."""
        if len(self.points) > 1:
            return None
        (_, parameters, buffers), = self.points
        return side.tile(parameters, buffers, count, full)


@dataclass(frozen=True, eq=False)
class Place:
    """One term of the sum.

    Attributes:
        left: The gradients of the points of the rows.
        right: Those of the points of the columns, or ``None`` if they are made alike.
        weights: The weight of each parameter, in the order of the gradients.
    """

    left: Gradients
    right: Gradients | None
    weights: list[float]


@dataclass(frozen=True)
class Plan:
    """How many points meet at once, how many steps are held, and the bytes that this takes."""

    block: int
    length: int
    bytes: int

    @classmethod
    def make(cls, run: Run, a: QuerySide, b: QuerySide, full: bool, dtype: torch.dtype, memory: int) -> Plan:
        """Divides the memory.

        Raises:
            OutOfBudget: If the matrix, or the gradients of two points, do not fit.
        """
        width = len(a.functional.names)
        size = run.parameter_count * dtype.itemsize
        point = COPIES * max(width, 1) * size
        matrix = len(a) * len(b) * (width**2 if full else 1) * torch.float64.itemsize
        # A held step is its parameters as they are stored and as they are read.
        least = matrix + point + 4 * size
        if least > memory:
            outputs = f", of {width} outputs each," if width > 1 else ""
            raise OutOfBudget(
                f"A kernel of {len(a)} by {len(b)} points{outputs} needs about {as_words(least)} here, "
                f"{as_words(matrix)} of them for its matrix, and memory={as_words(memory)} was given. Raise memory, "
                + ("sum over outputs, " if full else "pick one output, " if width > 1 else "")
                + "or ask for fewer points."
            )
        left = memory - matrix
        length = min(max(1, left // (8 * max(size, 1))), max(len(run), 1))
        block = max(1, min((left - 2 * (length + 1) * size) // max(point, 1), max(len(a), len(b))))
        return cls(block, length, matrix + block * point + 2 * (length + 1) * size)


def sum_of_products(places: Iterable[Place], a: QuerySide, b: QuerySide, full: bool, block: int, square: bool,
                    done: Callable[[], object]) -> Tensor:
    """The matrix of the sum, with shape (n, m), or (n, c, m, c).

    Args:
        places: The terms.
        a: The points of the rows.
        b: The points of the columns.
        full: Whether pairs of outputs are kept apart; else they are summed over.
        block: How many points are taken at a time.
        square: Whether rows and columns are the same points; of a symmetric sum half of the blocks are then mirrored.
        done: Called after each place.

    Raises:
        NonFiniteError: If a gradient is NaN or infinite.
    """
    times = len(a.functional.names) if full else 1
    matrix = a.inputs[0].new_zeros(len(a) * times, len(b) * times, dtype=torch.float64)
    rows, columns = (_cuts(len(side), block) for side in (a, b))
    for place in places:
        for i, near in enumerate(rows):
            one = _Block(place.left, a.part(near), times, full)
            for j, far in enumerate(columns):
                entries = _entries(near, times), _entries(far, times)
                alike = square and place.right is None
                if alike and j < i:
                    matrix[entries] = matrix[entries[::-1]].T
                    continue
                other = one if alike and j == i else _Block(place.right or place.left, b.part(far), times, full)
                matrix[entries] += _product(one, other, place.weights)
        done()
    if not bool(matrix.isfinite().all()):
        raise NonFiniteError(
            "The kernel holds NaN or infinite values: the network gives such outputs or gradients for these points at "
            "some step of the run. Look at the points, and at operations like log(0) in the network."
        )
    return matrix.reshape(len(a), times, len(b), times) if full else matrix


def _cuts(count: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, count)) for start in range(0, count, block)]


def _entries(points: slice, times: int) -> slice:
    return slice(points.start * times, points.stop * times)


class _Block:
    """The gradients of some points, by their factors or as rows, each made when it is first asked for."""

    def __init__(self, gradients: Gradients, side: QuerySide, times: int, full: bool):
        self.gradients, self.side, self.times, self.full = gradients, side, times, full

    @cached_property
    def tile(self) -> Tile | None:
        return self.gradients.tile(self.side, len(self.side), self.full)

    @cached_property
    def rows(self) -> list[Tensor]:
        """A matrix for each parameter, with a row for each point, or for each of its outputs."""
        return [t.reshape(len(self.side) * self.times, -1) for t in self.gradients.rows(self.side)]


def _product(one: _Block, other: _Block, weights: list[float]) -> Tensor:
    if one.tile is not None and other.tile is not None:
        return _of_tiles(one.tile, other.tile, dict(zip(one.side.names, weights, strict=True)), one)
    total = one.rows[0].new_zeros(len(one.rows[0]), len(other.rows[0]))
    for left, right, weight in zip(one.rows, other.rows, weights, strict=True):
        if weight:
            total.addmm_(left, right.T, alpha=weight)
    return total


def _of_tiles(one: Tile, other: Tile, weights: dict[str, float], block: _Block) -> Tensor:
    """The product from factors, for the parameters of each weight by themselves."""
    same, c, full = one is other, one.columns, block.full
    one, other = (one, one) if same else aligned(one, other)
    shape = (len(one), c, len(other), c) if full else (len(one), len(other))
    total = one.rows.new_zeros(shape)
    for weight in sorted({*weights.values()} - {0.0}):
        pieces = {piece for piece in (*one.spans, *one.outers) if weights[piece.name] == weight}
        part = torch.zeros_like(total)
        # What a block takes as rows has room beside it.
        room = len(one) * c * sum(t.nbytes for t in block.side.network.parameters.values())
        multiply(one, other, full, room, part, None if len({*weights.values()}) == 1 else pieces)
        total += weight * part
    if same:
        mirror(total)
    return total.reshape(len(one) * block.times, len(other) * block.times)
