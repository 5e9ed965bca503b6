"""The compiled loops over pairs of which only a few covariances are needed; imported where they are run.

Without pooling, a network needs the covariances of equal pixels alone: of the slices of a pair, the one in the middle.
A network without convolutions needs one number for each pair, of which a row is one long loop.
"""

from typing import Any

import numpy as np
from numba import njit

from .lanes import address, moved
from .layers import PLAIN, WITHIN, begun, layered, layered_alone
from .slices import BEYOND, told

#: Sums may be taken in any order, which only totals of a whole image are.
ORDERLESS: dict[str, Any] = PLAIN | {"fastmath": {"contract", "nsz", "reassoc"}}

#: How many pairs go through all layers together; what they need stays in the cache.
TOGETHER = 1024


@njit(**ORDERLESS)
def total_of(a, b, D, n):
    """The sum of covariances, from roots and deficits."""
    total = 0.0
    for k in range(n):
        total += a[k] * b[k] - D[k]
    return total


@njit(**ORDERLESS)
def sum_of(T, n):
    """The sum of numbers, in double precision."""
    total = 0.0
    for k in range(n):
        total += np.float64(T[k])
    return total


@njit(**PLAIN)
def of_pixels(x, z, x_end, z_end, begin, end, row, column, channels, sides, layers, reach, step, pixels, tangent,
              angle, bend, K, T):
    """A block of the matrix of all pairs of images, from a row and a column on; fields have shape (n, fields, size).

    Rows of pixels stand ``step`` apart, with ``reach`` numbers of nought between them and as many such rows around.
    """
    base, count, size = (reach + 1) * step, len(sides), x.shape[2]
    n = size - 2 * base - BEYOND
    room = np.zeros((4, size), x.dtype)
    inside = slice(base, base + n)
    for i in range(begin, end):
        a = moved(address(x[i]), base)
        for j in range(len(z)):
            b = moved(address(z[j]), base)
            one, other = 0, 2
            begun(moved(address(room), base), a, b, channels, size, n, layers[0, 9], layers[0, 7])
            for k in range(count):
                f = (channels + 1 + 3 * k) * size
                layered(moved(address(room[one]), base), moved(address(room[one + 1]), base),
                        moved(address(room[other]), base), moved(address(room[other + 1]), base), step, n, sides[k],
                        moved(a, f), moved(b, f), size, told(layers, k), angle, bend, k == 0, tangent)
                one, other = other, one
            K[row + i, column + j] = total_of(x_end[i, inside], z_end[j, inside], room[one, inside], n) / pixels
            if tangent and count:
                T[row + i, column + j] = sum_of(room[one + 1, inside], n) / pixels


@njit(**WITHIN)
def relative(lack, a, b, D, n):
    """Deficits as parts of the product of two roots, from their inverses."""
    for k in range(n):
        D[k] = lack[k] * a * b[k]


@njit(**WITHIN)
def rounded(a, b, D, K, n):
    """Covariances from relative deficits, for one root and many."""
    for k in range(n):
        both = a * b[k]
        K[k] = both - both * D[k]


@njit(**PLAIN)
def of_vectors(lack, T, a, b, a_end, b_end, begin, end, layers, count, tangent, angle, bend):
    """Rows of the matrix of all pairs of vectors, in place of their deficits.

    Fields have shape (1 + 3 layers, n): the inverse of the root of the input, and for each layer the taps over the
    roots P, the roots, and their inverse.
    """
    m, size, room = lack.shape[1], b.shape[1], np.zeros((2, TOGETHER + BEYOND), lack.dtype)
    D, S = address(room[0]), address(room[1])
    for i in range(begin, end):
        for first in range(0, m, TOGETHER):
            n = min(TOGETHER, m - first)
            some = slice(first, first + n)
            relative(lack[i, some], a[0, i], b[0, some], room[0], n)
            for k in range(count):
                f = 1 + 3 * k
                layered_alone(D, S, n, a[f, i], a[f + 1, i], a[f + 2, i], moved(address(b), f * size + first), size,
                              told(layers, k), angle, bend, k == 0, tangent)
            rounded(a_end[i], b_end[some], room[0], lack[i, some], n)
            if tangent and count:
                T[i, some] = room[1, :n]
