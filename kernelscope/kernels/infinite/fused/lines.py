"""The compiled loops over pairs of which only a few covariances are needed; imported where they are run.

Without pooling, a network needs the covariances of equal pixels alone: of the slices of a pair, the one in the middle.
A network without convolutions needs one number for each pair, of which a row is one long loop.
"""

from typing import Any

import numpy as np
from numba import njit

from .lanes import address, moved
from .layers import PLAIN, WITHIN, begun, first_alone, layered, layered_alone
from .slices import BEYOND, told

#: Sums may be taken in any order, which only totals of a whole image are.
ORDERLESS: dict[str, Any] = PLAIN | {"fastmath": {"contract", "nsz", "reassoc"}}

#: Sums in any order of differences of rounded products, which are nought where both products are equal.
EXACTLY: dict[str, Any] = PLAIN | {"fastmath": {"nsz", "reassoc"}}

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


@njit(**ORDERLESS)
def along(x, directions):
    """The squared length of a vector, and its products with four directions, in double precision."""
    square, one, two, three, four = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(len(x)):
        wide = np.float64(x[k])
        square += wide * wide
        one += wide * directions[0, k]
        two += wide * directions[1, k]
        three += wide * directions[2, k]
        four += wide * directions[3, k]
    return square, one, two, three, four


@njit(**PLAIN)
def placed(x, directions, squares, products, begin, end):
    """The squared lengths of vectors, and their products with four directions in double precision."""
    for i in range(begin, end):
        squares[i], products[i, 0], products[i, 1], products[i, 2], products[i, 3] = along(x[i], directions)


@njit(**WITHIN)
def read_out(a, b, D, S, K, T, n, readout, tangent):
    """What the readout makes of relative deficits and tangent kernels, for one root and many."""
    weight, bias, by_tangent, by_value, more = readout
    for k in range(n):
        both = a * b[k]
        value = both - both * D[k]
        K[k] = value * weight + bias
        if tangent:
            T[k] = S[k] * by_tangent + value * by_value + more


@njit(**EXACTLY)
def apart(u, v, p, q):
    """The squared length of p u - q v."""
    d = p * u[0] - q * v[0]
    total = d * d
    for k in range(1, len(u)):
        d = p * u[k] - q * v[k]
        total += d * d
    return total


@njit(**EXACTLY)
def together(u, v, p, q):
    """The squared length of p u + q v."""
    d = p * u[0] + q * v[0]
    total = d * d
    for k in range(1, len(u)):
        d = p * u[k] + q * v[k]
        total += d * d
    return total


@njit(**WITHIN)
def parted(products, p, q, own, other, near, far, D, E, n, close, least, half):
    r"""What cosines lack to 1, D, and exceed -1 by, E; and for how many either is not exact enough.

    For units p + r and q + t, of which p and q are in the directions and r and t are not, they are
    :math:`(|r|^2 + |t|^2 + |p - q|^2) / 2 - r \cdot t` and the same with the other sign of q and t.
    """
    count, a, b, c, d, e, f, g, h = 0, own[0], own[1], own[2], own[3], other[0], other[1], other[2], other[3]
    for k in range(n):
        sizes, product = (near + far[k]) * half, products[k] * (p * q[k])
        one, two, three, four = a - e[k], b - f[k], c - g[k], d - h[k]
        D[k] = sizes + (one * one + two * two + three * three + four * four) * half - product
        one, two, three, four = a + e[k], b + f[k], c + g[k], d + h[k]
        E[k] = sizes + (one * one + two * two + three * three + four * four) * half + product
        limit = sizes * close + least
        count += (D[k] < limit) | (E[k] < limit)
    return count


@njit(**PLAIN)
def of_units(K, T, u, v, p, q, own, other, near, far, a, b, a_end, b_end, begin, end, close, least, layers, count,
             tangent, angle, bend, readout):
    """Rows of the matrix of all pairs of units, in place of the products of what directions leave of them.

    Fields have shape (1 + 3 layers, n): what the first taps are short of 1, and for each layer the taps over the roots
    P, the roots, and their inverse.
    """
    m, size, room = K.shape[1], b.shape[1], np.zeros((2, TOGETHER + BEYOND), K.dtype)
    D, S, half = address(room[0]), address(room[1]), layers[0, 9]
    for i in range(begin, end):
        for first in range(0, m, TOGETHER):
            n = min(TOGETHER, m - first)
            some = slice(first, first + n)
            if parted(K[i, some], p[i], q[some], own[i], other[:, some], near[i], far[some], room[0], room[1], n, close,
                      least, half):
                for k in range(n):
                    j = first + k
                    limit = (near[i] + far[j]) * half * close + least
                    if room[0, k] < limit:
                        room[0, k] = apart(u[i], v[j], p[i], q[j]) * half
                    elif room[1, k] < limit:
                        room[1, k] = together(u[i], v[j], p[i], q[j]) * half
            first_alone(D, S, n, a[0, i], a[1, i], a[2, i], a[3, i], moved(address(b), first), size, told(layers, 0),
                        angle, bend, tangent)
            for k in range(1, count):
                f = 1 + 3 * k
                layered_alone(D, S, n, a[f, i], a[f + 1, i], a[f + 2, i], moved(address(b), f * size + first), size,
                              told(layers, k), angle, bend, tangent)
            read_out(a_end[i], b_end[some], room[0], room[1], K[i, some], T[i, some], n, readout, tangent)
