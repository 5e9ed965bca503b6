r"""Sums over places of the products of gradients at two sets of points.

.. math:: K(x, z) = \sum_k \sum_p w_{k,p}\, \langle\psi_{k,p}(x), \phi_{k,p}(z)\rangle

A place k is a point of parameter space, or a step; p are the parameters, each with a weight of its own. The sum goes
place by place and block by block: what is held are the matrix, the gradients of two blocks of points, and the
parameters of a stretch of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...budget import as_words
from ...errors import NonFiniteError, OutOfBudget
from ...run.run import Run
from ..query_side import QuerySide

#: Gradients of some points: for each parameter its values, with shape (b c, *).
Gradients = Callable[[QuerySide], list[Tensor]]

#: How many times the gradients of a block are held while two of them meet: both, and what they are made from.
COPIES = 6


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
            one = _flat(place.left(a.part(near)), near, times)
            for j, far in enumerate(columns):
                alike = square and place.right is None
                if alike and j < i:
                    mirrored = matrix[_entries(far, times), _entries(near, times)]
                    matrix[_entries(near, times), _entries(far, times)] = mirrored.T
                    continue
                other = one if alike and j == i else _flat((place.right or place.left)(b.part(far)), far, times)
                matrix[_entries(near, times), _entries(far, times)] += _product(one, other, place.weights)
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


def _flat(gradients: list[Tensor], points: slice, times: int) -> list[Tensor]:
    """A matrix for each parameter, with a row for each point, or for each of its outputs."""
    return [t.reshape((points.stop - points.start) * times, -1) for t in gradients]


def _product(one: list[Tensor], other: list[Tensor], weights: list[float]) -> Tensor:
    total = one[0].new_zeros(len(one[0]), len(other[0]))
    for left, right, weight in zip(one, other, weights, strict=True):
        if weight:
            total.addmm_(left, right.T, alpha=weight)
    return total
