"""The Triton program of a product; imported where one is run, since only GPUs have use for it.

A program makes some rows of the product from some of the columns. It goes over them tile by tile: squared distances
from one product of vectors, kernel values in registers, their product with the weights. Nothing of the kernel's matrix
is written. Where two vectors of a tile are so close that the product would tell their distance by its rounding alone,
the tile is computed once more, from differences.
"""

import triton
import triton.language as tl

#: Minus the binary logarithm of e.
DECAY = tl.constexpr(-1.4426950408889634)

#: From which share of |x|^2 + |z|^2 on a squared distance is exact enough for a kernel of any bandwidth.
CLOSE = tl.constexpr(1e-2)


@triton.jit
def values(t, PROFILE: tl.constexpr):
    """The kernel from squared distances in its unit of length."""
    if PROFILE == "gaussian":
        k = tl.exp2(-t)
    else:
        r = tl.sqrt(t)
        if PROFILE == "exponential":
            k = tl.exp2(-r)
        else:
            decay = tl.exp2(r * DECAY)
            if PROFILE == "matern 3/2":
                k = (1.0 + r) * decay
            else:
                k = (1.0 + r + t * (1.0 / 3.0)) * decay
    return k


@triton.jit
def differences(x, z, rows, columns, d, BM: tl.constexpr, BN: tl.constexpr):
    """Squared distances of all pairs of a tile, in which nothing cancels."""
    t = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, d):
        a = tl.load(x + rows.to(tl.int64) * d + k).to(tl.float32)
        b = tl.load(z + columns.to(tl.int64) * d + k).to(tl.float32)
        gap = a[:, None] - b[None, :]
        t += gap * gap
    return t


@triton.jit
def some(points, numbers, inner, d, EVEN: tl.constexpr, WIDE: tl.constexpr):
    """Entries of vectors, with shape (numbers, inner); nought beyond their end."""
    places = points + numbers.to(tl.int64)[:, None] * d + inner[None, :]
    if EVEN:
        found = tl.load(places)
    else:
        found = tl.load(places, mask=inner[None, :] < d, other=0.0)
    if WIDE:
        found = found.to(tl.float32)
    return found


@triton.jit
def products(x, z, rows, columns, d, FIRST: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr,
             BN: tl.constexpr, BD: tl.constexpr):
    """The products of all pairs of vectors of a tile."""
    found = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, d, BD):
        inner = start + tl.arange(0, BD)
        found = tl.dot(some(x, rows, inner, d, EVEN, WIDE), tl.trans(some(z, columns, inner, d, EVEN, WIDE)), found,
                       input_precision=FIRST)
    return found


@triton.jit
def parts(t, PROFILE: tl.constexpr, SPLIT: tl.constexpr):
    """The kernel from squared distances; where it is split, as a sum of two in half precision."""
    k = values(t, PROFILE)
    if SPLIT:
        upper = k.to(tl.float16)
        lower = (k - upper.to(tl.float32)).to(tl.float16)
    else:
        upper, lower = k, k
    return upper, lower


@triton.jit
def multiply(x, z, x_squares, z_squares, high, low, partial, n, m, d, c, each, edge, least,
             PROFILE: tl.constexpr, FIRST: tl.constexpr, DIRECT: tl.constexpr, STEEP: tl.constexpr,
             WHOLE: tl.constexpr, EVEN: tl.constexpr, WIDE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
             BD: tl.constexpr, BC: tl.constexpr):
    """Some rows and outputs of the product, from ``each`` of the columns; all of these are added in a second step.

    One column of weights is ``high``, and multiplied as it is. Of several, ``high + low`` are the weights, both in half
    precision, as are the two parts that each value of the kernel is split into: together they hold 22 bits.
    """
    places = tl.program_id(0) * BM + tl.arange(0, BM)
    # Beyond the end the last one is taken again, and not used: so nothing close comes in that is not there.
    rows = tl.minimum(places, n - 1)
    share = tl.program_id(1)
    outputs = tl.program_id(2) * BC + tl.arange(0, BC)
    near = tl.load(x_squares + rows)
    inner = tl.arange(0, BD)
    if WHOLE:
        # Vectors that fit are read once for all tiles.
        own = some(x, rows, inner, d, EVEN, WIDE)
    total = tl.zeros((BM, BC), dtype=tl.float32)
    for start in range(share * each, tl.minimum(m, (share + 1) * each), BN):
        numbers = start + tl.arange(0, BN)
        columns = tl.minimum(numbers, m - 1)
        if DIRECT:
            upper, lower = parts(differences(x, z, rows, columns, d, BM, BN), PROFILE, BC > 1)
        else:
            if WHOLE:
                found = tl.dot(own, tl.trans(some(z, columns, inner, d, EVEN, WIDE)), input_precision=FIRST)
            else:
                found = products(x, z, rows, columns, d, FIRST, EVEN, WIDE, BM, BN, BD)
            far = tl.load(z_squares + columns)
            t = near[:, None] + far[None, :] - 2.0 * found
            size = tl.max(near, 0) + tl.max(far, 0)
            if STEEP:
                # The root is steep at nought, where rounding would be seen.
                limit = tl.minimum(edge * size * size, size * CLOSE)
            else:
                limit = tl.where(size > edge, size * CLOSE, 0.0)
            # Where no pair is closer than this, distances are exact enough, and positive.
            if tl.min(tl.min(t, 1), 0) < tl.maximum(limit, least * size):
                upper, lower = parts(differences(x, z, rows, columns, d, BM, BN), PROFILE, BC > 1)
            else:
                upper, lower = parts(t, PROFILE, BC > 1)
        if BC == 1:
            weights = tl.load(high + numbers, mask=numbers < m, other=0.0)
            total += tl.sum(upper * weights[None, :], 1)[:, None]
        else:
            entries = numbers.to(tl.int64)[:, None] * c + outputs[None, :]
            there = (numbers[:, None] < m) & (outputs[None, :] < c)
            first = tl.load(high + entries, mask=there, other=0.0)
            second = tl.load(low + entries, mask=there, other=0.0)
            total = tl.dot(upper, first, total)
            total = tl.dot(upper, second, total)
            total = tl.dot(lower, first, total)
    cells = (share.to(tl.int64) * n + places.to(tl.int64)[:, None]) * c + outputs[None, :]
    tl.store(partial + cells, total, mask=(places[:, None] < n) & (outputs[None, :] < c))
