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
def differences(x, z, rows, columns, n, m, d, BM: tl.constexpr, BN: tl.constexpr):
    """Squared distances of all pairs of a tile, in which nothing cancels."""
    t = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, d):
        a = tl.load(x + rows.to(tl.int64) * d + k, mask=rows < n, other=0.0).to(tl.float32)
        b = tl.load(z + columns.to(tl.int64) * d + k, mask=columns < m, other=0.0).to(tl.float32)
        gap = a[:, None] - b[None, :]
        t += gap * gap
    return t


@triton.jit
def some(points, numbers, inner, count, d):
    """Entries of vectors, with shape (numbers, inner); nought beyond their end."""
    return tl.load(points + numbers.to(tl.int64)[:, None] * d + inner[None, :],
                   mask=(numbers[:, None] < count) & (inner[None, :] < d), other=0.0)


@triton.jit
def products(x, z, rows, columns, n, m, d, FIRST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
             BD: tl.constexpr):
    """The products of all pairs of vectors of a tile."""
    found = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, d, BD):
        inner = start + tl.arange(0, BD)
        found = tl.dot(some(x, rows, inner, n, d), tl.trans(some(z, columns, inner, m, d)), found,
                       input_precision=FIRST)
    return found


@triton.jit
def multiply(x, z, x_squares, z_squares, w, partial, n, m, d, c, each, edge, snap,
             PROFILE: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, DIRECT: tl.constexpr,
             STEEP: tl.constexpr, WHOLE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
             BC: tl.constexpr):
    """Some rows and outputs of the product, from ``each`` of the columns; all of these are added in a second step."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    share = tl.program_id(1)
    outputs = tl.program_id(2) * BC + tl.arange(0, BC)
    near = tl.load(x_squares + rows, mask=rows < n, other=0.0)
    inner = tl.arange(0, BD)
    if WHOLE:
        # Vectors that fit are read once for all tiles.
        own = some(x, rows, inner, n, d)
    total = tl.zeros((BM, BC), dtype=tl.float32)
    for start in range(share * each, tl.minimum(m, (share + 1) * each), BN):
        columns = start + tl.arange(0, BN)
        if DIRECT:
            t = differences(x, z, rows, columns, n, m, d, BM, BN)
        else:
            far = tl.load(z_squares + columns, mask=columns < m, other=0.0)
            sizes = near[:, None] + far[None, :]
            if WHOLE:
                found = tl.dot(own, tl.trans(some(z, columns, inner, m, d)), input_precision=FIRST)
            else:
                found = products(x, z, rows, columns, n, m, d, FIRST, BM, BN, BD)
            t = sizes - 2.0 * found
            if STEEP:
                # The root is steep at nought, where rounding would be seen.
                limits = tl.maximum(tl.minimum(edge * sizes * sizes, CLOSE * sizes), snap * sizes)
            else:
                limits = tl.where(sizes > edge, CLOSE * sizes, 0.0)
            if tl.max(tl.max((t < limits).to(tl.int32), 1), 0) > 0:
                t = differences(x, z, rows, columns, n, m, d, BM, BN)
            elif not STEEP:
                # Copies of one point are at distance nought.
                t = tl.where(t <= snap * sizes, 0.0, t)
            t = tl.maximum(t, 0.0)
        k = values(t, PROFILE)
        if BC == 1:
            weights = tl.load(w + columns, mask=columns < m, other=0.0)
            total += tl.sum(k * weights[None, :], 1)[:, None]
        else:
            weights = tl.load(w + columns.to(tl.int64)[:, None] * c + outputs[None, :],
                              mask=(columns[:, None] < m) & (outputs[None, :] < c), other=0.0)
            total = tl.dot(k, weights, total, input_precision=SECOND)
    places = (share.to(tl.int64) * n + rows.to(tl.int64)[:, None]) * c + outputs[None, :]
    tl.store(partial + places, total, mask=(rows[:, None] < n) & (outputs[None, :] < c))
