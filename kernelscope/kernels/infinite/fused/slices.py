"""The compiled loops over slices of covariances; imported where they are run, since they need numba.

A slice holds the covariances of all pixels (h, w) with (h + dh, w + dw). Convolutions and activations take slices to
slices, so that one goes through all layers of a stage without leaving the cache. The offsets dw and dw - W share
a row: their W - dw and dw columns lie side by side, between margins of nought as wide as a window reaches, and rows
follow each other, so that every loop is one long loop over numbers that lie in a row. Roots of variances are laid out
likewise, once for each dw; with dh, only where the loops begin to read moves.
"""

import numpy as np
from numba import njit

from .lanes import address, moved
from .layers import CALLED, PLAIN, WITHIN, added_wide, begun, emptied, lacks, layered

#: Room behind the last number, which loops over whole vectors fill.
BEYOND = 32


@njit(**CALLED)
def laid_out(source, laid, margin, reach, cut, left):
    """Rows of one image, (rows, W + 2 reach), as two pieces side by side, which end and begin at a column.

    On the left the pieces are the columns before ``cut`` and those from it on, on the right they change places; both
    with what a window sees beyond them.
    """
    rows, wide = source.shape
    step = wide + 2 * reach
    first = cut + 2 * reach if left else wide - cut
    second = step - first
    begin = cut if left else 0
    skip = 0 if left else cut
    for h in range(rows):
        at = margin + h * step
        for k in range(first):
            laid[at + k] = source[h, skip + k]
        for k in range(second):
            laid[at + first + k] = source[h, begin + k]


@njit(**CALLED)
def margins_emptied(laid, margin, rows, step, reach, cut):
    """Nought between the pieces, where no pair of pixels stands."""
    for h in range(rows):
        at = margin + h * step
        laid[at:at + reach] = 0
        laid[at + reach + cut:at + 3 * reach + cut] = 0
        laid[at + step - reach:at + step] = 0


@njit(**CALLED)
def read_slice(K, top, rows, lower, dw, reach, out, base, step):
    """A slice of given covariances; nought in the margins."""
    width = K.shape[1]
    cut = width - dw
    for r in range(rows):
        at = base + r * step
        out[at:at + step] = 0
        for w in range(cut):
            out[at + reach + w] = K[top + r, w, lower + r, w + dw]
        for w in range(cut, width):
            out[at + 3 * reach + w] = K[top + r, w, lower + r, w - cut]


@njit(**CALLED)
def deficits(D, a, b, zero, n):
    """Deficits in place of covariances."""
    for k in range(n):
        d = a[k] * b[k] - D[k]
        D[k] = d if d > zero else zero


@njit(**CALLED)
def told(layers, k):
    """The numbers of a layer, held where loops have them at hand."""
    row = layers[k]
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10]


@njit(**WITHIN)
def added_apart(source, at, total, to, pool, begin, end):
    """Every so many numbers, added to sums."""
    for c in range(begin, end):
        total[to + c] += source[at + c * pool]


@njit(**CALLED)
def gathered(K, T, sumK, sumT, dw, reach, pool, tangent):
    """Sums over rows of pixels, for one dw, added to those over blocks, with shape (H/p, H/p, offsets, W/p)."""
    low, line, cells = K.shape[1], K.shape[2], sumK.shape[3]
    flatK, flatT, intoK, intoT = K.reshape(-1), T.reshape(-1), sumK.reshape(-1), sumT.reshape(-1)
    for block in range(K.shape[0] * low):
        for r in range(pool):
            # A column of pixels is beyond the cut from this block on.
            cut = max(0, cells - (r + dw) // pool)
            at, to = block * line + reach + r, (block * cells + (r + dw) // pool % cells) * cells
            added_apart(flatK, at, intoK, to, pool, 0, cut)
            added_apart(flatK, at + 2 * reach, intoK, to, pool, cut, cells)
            if tangent:
                added_apart(flatT, at, intoT, to, pool, 0, cut)
                added_apart(flatT, at + 2 * reach, intoT, to, pool, cut, cells)


@njit(**CALLED)
def concluded(sumK, sumT, a, b, share, tangent, K, T):
    """Means from sums over blocks, and covariances from deficits and means of roots, each at its own place."""
    high, wide = a.shape
    for s in range(high):
        for c in range(wide):
            for t in range(high):
                for d in range(wide):
                    at = d - c if d >= c else d - c + wide
                    K[s, c, t, d] = a[s, c] * b[t, d] - share * sumK[s, t, at, c]
                    if tangent:
                        T[s, c, t, d] = share * sumT[s, t, at, c]


@njit(**CALLED)
def of_pair(x, z, x_end, z_end, channels, sides, layers, reach, pool, K, T, given, tangent, angle, bend, room, outK,
            outT):
    """All slices of one pair: its pooled covariances, written to outK and outT.

    Args:
        x: Fields of one image, with shape (fields, H + 2 reach, W + 2 reach): channels, the roots of the input, and for
            each layer taps, roots and their inverse.
        z: Fields of the other.
        x_end: The last roots of one image, pooled, in float64, with shape (H/p, W/p).
        z_end: The last roots of the other.
        channels: How many of the fields are channels.
        sides: The sides of the filters.
        layers: The numbers of each layer, as ``constants`` orders them.
        reach: How far the largest filter reaches.
        pool: The side of the pooling.
        K: Covariances with shape (H, W, H, W), where they are given.
        T: Tangent kernels likewise.
        given: Whether they are.
        tangent: Whether tangent kernels are wanted.
        angle: Coefficients of a polynomial.
        bend: Coefficients of another.
        room: Arrays that are filled for one dw or one slice.
        outK: Pooled covariances, with shape (H/p, W/p, H/p, W/p).
        outT: Pooled tangent kernels.
    """
    left, right, first, totalK, totalT, blocksK, blocksT = room
    fields, rows, size = x.shape[0], x.shape[1], left.shape[1]
    step, height, width = x.shape[2] + 2 * reach, rows - 2 * reach, x.shape[2] - 2 * reach
    margin, count, line, low = 2 * reach, len(sides), totalK.shape[2], totalK.shape[1]
    base, zero, half = margin + reach * step, layers[0, 7], layers[0, 9]
    blocksK[:] = 0
    blocksT[:] = 0
    for dw in range(width):
        cut = width - dw
        for f in range(fields):
            laid_out(x[f], left[f], margin, reach, cut, True)
            laid_out(z[f], right[f], margin, reach, dw, False)
        margins_emptied(left[channels], margin, rows, step, reach, cut)
        for k in range(count):
            margins_emptied(left[channels + 2 + 3 * k], margin, rows, step, reach, cut)
        totalK[:] = 0
        totalT[:] = 0
        sumK, sumT = address(totalK), address(totalT)
        for dh in range(1 - height, height):
            top, depth = max(0, -dh), height - abs(dh)
            exact = depth * step
            a, b = moved(address(left), base + top * step), moved(address(right), base + (top + dh) * step)
            D, S = moved(address(first[0]), base), moved(address(first[1]), base)
            newD, newS = moved(address(first[2]), base), moved(address(first[3]), base)
            fresh = not given
            if given:
                read_slice(K, top, depth, top + dh, dw, reach, first[0], base, step)
                lacks(D, moved(a, channels * size), moved(b, channels * size), exact, zero)
                if tangent:
                    read_slice(T, top, depth, top + dh, dw, reach, first[1], base, step)
                    emptied(moved(S, exact), reach * step + reach, zero)
            else:
                begun(D, a, b, channels, size, exact, half, zero)
            emptied(moved(D, exact), reach * step + reach, zero)
            for k in range(count):
                f = (channels + 1 + 3 * k) * size
                layered(D, S, newD, newS, step, exact, sides[k], moved(a, f), moved(b, f), size, told(layers, k), angle,
                        bend, fresh, tangent)
                emptied(moved(newD, exact), reach * step + reach, zero)
                if tangent:
                    emptied(moved(newS, exact), reach * step + reach, zero)
                D, newD, S, newS, fresh = newD, D, newS, S, False
            for r in range(depth):
                at = ((top + r) // pool * low + (top + r + dh) // pool) * line
                added_wide(moved(sumK, at), moved(D, r * step), step)
                if tangent and not fresh:
                    added_wide(moved(sumT, at), moved(S, r * step), step)
        gathered(totalK, totalT, blocksK, blocksT, dw, reach, pool, tangent)
    concluded(blocksK, blocksT, x_end, z_end, 1 / pool**4, tangent, outK, outT)


@njit(**PLAIN)
def of_pairs(x, z, x_end, z_end, i, j, channels, sides, layers, reach, pool, K, T, given, tangent, angle, bend, outK,
             outT):
    """Pairs of images one after the other, in arrays that are made once."""
    fields, rows = x.shape[1], x.shape[2]
    step = x.shape[3] + 2 * reach
    size = rows * step + 4 * reach + BEYOND
    left, right = np.zeros((fields, size), x.dtype), np.zeros((fields, size), x.dtype)
    # Sums are in lines of whole vectors.
    totals = outK.shape[1], outK.shape[3], (step + 7) // 8 * 8
    blocks = outK.shape[1], outK.shape[3], outK.shape[2], outK.shape[2]
    room = (left, right, np.zeros((4, size), x.dtype), np.zeros(totals, np.float64), np.zeros(totals, np.float64),
            np.zeros(blocks, np.float64), np.zeros(blocks, np.float64))
    for k in range(len(i)):
        at = k if given else 0
        of_pair(x[i[k]], z[j[k]], x_end[i[k]], z_end[j[k]], channels, sides, layers, reach, pool, K[at], T[at], given,
                tangent, angle, bend, room, outK[k], outT[k])
