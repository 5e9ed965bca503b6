"""How a kernel matrix is cut so that what a product needs stays within a memory budget.

Points are read and prepared in bands; the matrix is computed in tiles, small enough to stay in the cache of a processor
from the product that makes them to the product that uses them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..budget import as_words
from ..errors import OutOfBudget

#: The sides of a tile on a processor, of a tile of a symmetric matrix, and of one on a GPU.
TILE, SQUARE, LARGE = (512, 1024), (512, 512), (4096, 4096)

#: The sides for points of so many numbers that their products take longer than all that is done with them: what begins
#: and ends with each tile counts for more than what stays in the cache.
LONG, NUMBERS = (2048, 2048), 512

#: How many bytes a tile and what is computed of it fill on a processor: about what its caches hold.
CACHE = 8 * 2**20

#: How many copies of its numbers a point takes while it is prepared and kept.
COPIES = 8

#: The smallest side that is worth computing.
LEAST = 16


@dataclass(frozen=True)
class Cut:
    """How many points make a band, and the rows and columns of a tile."""

    band: int
    rows: int
    columns: int


def planned(count: int, d: int, size: int, buffers: int, memory: int, sides: tuple[int, int]) -> Cut:
    """The largest tiles and bands that have room.

    Args:
        count: How many points there are on the longer side.
        d: The numbers of a point.
        size: The bytes of a number.
        buffers: How many numbers each entry of a tile takes.
        memory: The budget in bytes.
        sides: The rows and columns of a tile that are aimed at.

    Raises:
        OutOfBudget: If not even a small tile has room.
    """
    point = COPIES * (d + 2) * size
    rows, columns = sides
    room = min(memory // 2, CACHE) if sides in (TILE, SQUARE) else memory // 2
    while buffers * size * rows * columns > room and columns > LEAST:
        # The tiles of a symmetric matrix are square, so that each has its mirror image.
        rows, columns = (columns // 2, columns // 2) if rows == columns else (rows, columns // 2)
    # A band of rows and one of columns share what the tile leaves.
    band = min((memory - buffers * size * rows * columns) // (2 * point), count)
    if band < min(LEAST, count):
        least = 2 * max(buffers * size * LEAST**2, 2 * LEAST * point)
        raise OutOfBudget(
            f"A product with points of {d} numbers needs at least {as_words(least)} at a time, and memory allows "
            f"{as_words(memory)}. Give the kernel memory={as_words(2 * least).replace(' ', '')!r} or more."
        )
    return Cut(band, min(rows, band), min(columns, band))


def pieces(start: int, stop: int, size: int) -> Iterator[slice]:
    """The numbers from ``start`` to ``stop`` in pieces of a size."""
    for i in range(start, stop, size):
        yield slice(i, min(i + size, stop))
