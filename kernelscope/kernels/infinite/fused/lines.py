"""The compiled loops over pairs of which only a few covariances are needed; imported where they are run.

Without pooling, a network needs the covariances of equal pixels alone: of the slices of a pair, the one in the middle.
A network without convolutions needs one number for each pair, of which a row is one long loop.
"""

from typing import Any

import numpy as np
from numba import njit

from .slices import PIECE, PLAIN, activated, begun, covariance_added, half_lacks, layered, multiplied, room_for

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
    base, count = (reach + 1) * step, len(sides)
    n = x.shape[2] - 2 * base
    D, S = np.zeros(n + 2 * base, x.dtype), np.zeros(n + 2 * base, x.dtype)
    newD, newS = np.zeros(n + 2 * base, x.dtype), np.zeros(n + 2 * base, x.dtype)
    work = room_for(PIECE + 2 * reach, x.dtype)
    inside = slice(base, base + n)
    for i in range(begin, end):
        a = x[i]
        for j in range(len(z)):
            b = z[j]
            S[inside] = 0
            begun(D[inside], a, b, channels, base, base, layers[0, 9], n)
            for k in range(count):
                f = channels + 1 + 3 * k
                layered(D, S, newD, newS, base, step, n, sides[k], a[f], b[f], base, base, a[f + 1, inside],
                        b[f + 1, inside], a[f + 2, inside], b[f + 2, inside], layers[k], angle, bend, work, tangent)
                D, newD, S, newS = newD, D, newS, S
            K[row + i, column + j] = total_of(x_end[i, inside], z_end[j, inside], D[inside], n) / pixels
            if tangent:
                T[row + i, column + j] = sum_of(S[inside], n) / pixels


@njit(**PLAIN)
def gap_of_vectors(a, P, p, b, q, gap, wide, near, n):
    """The gap of one root and many; and the root of one repeated, for loops that expect as many."""
    for k in range(n):
        d = a - b[k] * P * q[k]
        gap[k] = d * d
        wide[k] = P
        near[k] = p


@njit(**PLAIN)
def rounded(a, b, D, n):
    """Covariances in place of deficits, for one root and many."""
    for k in range(n):
        D[k] = a * b[k] - D[k]


@njit(**PLAIN)
def of_vectors(lack, T, a, b, a_end, b_end, begin, end, layers, count, tangent, angle, bend):
    """Rows of the matrix of all pairs of vectors, in place of their deficits; fields have shape (3 layers, n)."""
    m, kind = lack.shape[1], lack.dtype
    u, gap, inner = np.empty(TOGETHER, kind), np.empty(TOGETHER, kind), np.empty(TOGETHER, kind)
    wide, near = np.empty(TOGETHER, kind), np.empty(TOGETHER, kind)
    for i in range(begin, end):
        for first in range(0, m, TOGETHER):
            n = min(TOGETHER, m - first)
            some = slice(first, first + n)
            D, S = lack[i, some], T[i if tangent else 0, some]
            for k in range(count):
                layer = layers[k]
                f, Q, q = 3 * k, b[3 * k + 1, some], b[3 * k + 2, some]
                gap_of_vectors(a[f, i], a[f + 1, i], a[f + 2, i], b[f, some], q, gap, wide, near, n)
                u[:n] = D
                half_lacks(u, gap, near, q, layer[9] * layer[0], layer[1], layer[7], layer[8], layer[10], n)
                if tangent:
                    inner[:n] = S
                    covariance_added(inner, u, wide, Q, layer[0], layer[10], n)
                activated(u, wide, Q, D, layer, angle, bend, n)
                if tangent:
                    multiplied(inner, u, S, n)
            rounded(a_end[i], b_end[some], D, n)
