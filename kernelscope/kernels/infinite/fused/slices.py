"""The compiled loops over slices of covariances; imported where they are run, since they need numba.

A slice holds the covariances of all pixels (h, w) with (h + dh, w + dw). Convolutions and activations take slices to
slices, so that one goes through all layers of a stage without leaving the cache. The offsets dw and dw - W share
a row: their W - dw and dw columns lie side by side, between margins of nought as wide as a window reaches, and rows
follow each other, so that every loop is one long loop over numbers that lie in a row. Roots of variances are laid out
likewise, once for each dw; with dh, only where the loops begin to read moves.

A loop writes one or two arrays and reads few, since the compiler can only vectorise where it can tell them apart.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

#: Sums may be contracted, not reordered; what is not a number stays so.
PLAIN: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}

#: Loops go over whole vectors, several at once; what is left over would be done number by number.
LANES = 32

#: How many numbers go through the loops of a layer together.
PIECE = 512


def _bare(context, array):
    """The array without its owner: references to parts of it are not counted, which would take longer than most loops.

    Whoever calls a function that does so has to hold the array.
    """
    def written(context, builder, signature, arguments):
        found = context.make_array(signature.args[0])(context, builder, arguments[0])
        found.meminfo, found.parent = (cgutils.get_null_value(part.type) for part in (found.meminfo, found.parent))
        return found._getvalue()

    return array(array), written


bare: Any = intrinsic(_bare)


@njit(**PLAIN)
def polynomial(y, coefficients):
    """A polynomial, in three loops: longer ones are not unrolled, and loops over them not vectorised."""
    total, count = coefficients[0], len(coefficients)
    for k in range(1, min(8, count)):
        total = total * y + coefficients[k]
    for k in range(8, min(15, count)):
        total = total * y + coefficients[k]
    for k in range(15, count):
        total = total * y + coefficients[k]
    return total


@njit(**PLAIN)
def added(a, b, total, n):
    """The sum of two."""
    for k in range(n):
        total[k] = a[k] + b[k]


@njit(**PLAIN)
def added_three(a, b, c, total, n):
    """The sum of three."""
    for k in range(n):
        total[k] = a[k] + b[k] + c[k]


@njit(**PLAIN)
def line_sum(source, start, step, side, total, n):
    """Sums of ``side`` numbers, ``step`` apart, the first of them at ``start``."""
    if side == 1:
        total[:n] = source[start:start + n]
        return
    added_three(source[start:start + n], source[start + step:start + step + n],
                source[start + 2 * step:start + 2 * step + n], total, n)
    for t in range(3, side):
        added(total, source[start + t * step:start + t * step + n], total, n)


@njit(**PLAIN)
def ratios(P, q, ratio, gap, n):
    """P / Q, so that differences of a / P and b / Q are a - b P / Q but for a factor; and nought for their sum."""
    for k in range(n):
        ratio[k] = P[k] * q[k]
        gap[k] = q[k] - q[k]


@njit(**PLAIN)
def gap_of_one(a, b, ratio, gap, n):
    """One place of a window, added to the sum of squared differences."""
    for k in range(n):
        d = a[k] - b[k] * ratio[k]
        gap[k] += d * d


@njit(**PLAIN)
def gap_of_three(a, b, ratio, gap, n):
    """Three places of a window that lie in a row."""
    for k in range(n):
        d, e, f = a[k] - b[k] * ratio[k], a[k + 1] - b[k + 1] * ratio[k], a[k + 2] - b[k + 2] * ratio[k]
        gap[k] += d * d + e * e + f * f


@njit(**PLAIN)
def gap_of_nine(a, b, c, x, y, z, ratio, gap, n):
    """All places of a window of side 3, in one loop."""
    for k in range(n):
        r = ratio[k]
        d, e, f = a[k] - x[k] * r, a[k + 1] - x[k + 1] * r, a[k + 2] - x[k + 2] * r
        g, h, i = b[k] - y[k] * r, b[k + 1] - y[k + 1] * r, b[k + 2] - y[k + 2] * r
        j, l, m = c[k] - z[k] * r, c[k + 1] - z[k + 1] * r, c[k + 2] - z[k + 2] * r
        gap[k] = d * d + e * e + f * f + g * g + h * h + i * i + j * j + l * l + m * m


@njit(**PLAIN)
def gap_under(a, b, P, q, left, right, step, side, ratio, gap, n):
    """Sums over a window of (a - b P / Q)^2; the window's middle is at left and at right."""
    i, j = left - side // 2 * (step + 1), right - side // 2 * (step + 1)
    ratios(P, q, ratio, gap, n)
    if side == 3:
        gap_of_nine(a[i:], a[i + step:], a[i + 2 * step:], b[j:], b[j + step:], b[j + 2 * step:], ratio, gap, n)
        return
    for s in range(side):
        at, to, t = i + s * step, j + s * step, 0
        if side > 1:
            gap_of_three(a[at:], b[to:], ratio, gap, n)
            t = 3
        while t < side:
            gap_of_one(a[at + t:], b[to + t:], ratio, gap, n)
            t += 1


@njit(**PLAIN)
def half_lacks(u, gap, p, q, half_share, bias, zero, quarter, one, n):
    """The squared sine of half the angle, D / 2 P Q, in place of the sums of deficits."""
    for k in range(n):
        d = p[k] - q[k]
        v = half_share * u[k] * p[k] * q[k] + quarter * (gap[k] * p[k] * p[k] + bias * d * d)
        v = zero if v < zero else v
        u[k] = one if v > one else v


@njit(**PLAIN)
def covariance_added(inner, u, P, Q, share, one, n):
    """The tangent kernel before the activation, K + s A[T], in place of the sums of T."""
    for k in range(n):
        inner[k] = share * inner[k] + P[k] * Q[k] * (one - u[k] - u[k])


@njit(**PLAIN)
def activated(u, P, Q, D, layer, angle, bend, n):
    """Deficits after the activation, and the mean product of slopes in place of u; both 0 where P is."""
    mean, turn, start, slope, both = layer[2], layer[3], layer[4], layer[5], layer[6]
    zero, half, one, near = layer[7], layer[9], layer[10], mean + mean
    for k in range(n):
        far = u[k] > half
        y = one - u[k] if far else u[k]
        root = turn * math.sqrt(y)
        by_angle = root * polynomial(y, angle)
        D[k] = P[k] * Q[k] * ((start + slope * y if far else near * y) - root * y * polynomial(y, bend))
        slopes = both + by_angle if far else mean - by_angle
        u[k] = slopes if P[k] > zero else zero


@njit(**PLAIN)
def multiplied(a, b, product, n):
    """The product of two."""
    for k in range(n):
        product[k] = a[k] * b[k]


@njit(**PLAIN)
def layered(D, T, newD, newT, base, step, n, side, a, b, left, right, P, Q, p, q, layer, angle, bend, work, tangent):
    """One layer on a slice, of which the numbers begin at ``base`` in D and T, by pieces that the cache keeps."""
    column, u, inner, ratio, gap = bare(work[0]), bare(work[1]), bare(work[2]), bare(work[3]), bare(work[4])
    share, bias, zero, quarter, one = layer[0], layer[1], layer[7], layer[8], layer[10]
    reach = side // 2
    for first in range(0, n, PIECE):
        m, at = min(PIECE, n - first), base + first
        some = slice(first, first + m)
        line_sum(D, at - reach * (step + 1), step, side, column, m + 2 * reach)
        line_sum(column, 0, 1, side, u, m)
        gap_under(a, b, P[some], q[some], left + first, right + first, step, side, ratio, gap, m)
        half_lacks(u, gap, p[some], q[some], layer[9] * share, bias, zero, quarter, one, m)
        if tangent:
            line_sum(T, at - reach * (step + 1), step, side, column, m + 2 * reach)
            line_sum(column, 0, 1, side, inner, m)
            covariance_added(inner, u, P[some], Q[some], share, one, m)
        activated(u, P[some], Q[some], newD[at:at + m], layer, angle, bend, m)
        if tangent:
            multiplied(inner, u, newT[at:at + m], m)


@njit(**PLAIN)
def room_for(n, kind):
    """Arrays for the loops of a layer to work in."""
    return np.zeros(n, kind), np.zeros(n, kind), np.zeros(n, kind), np.zeros(n, kind), np.zeros(n, kind)


@njit(**PLAIN)
def squared_distance_added(x, z, total, n):
    """One channel of squared distances."""
    for k in range(n):
        d = x[k] - z[k]
        total[k] += d * d


@njit(**PLAIN)
def scaled(D, a, b, half, n):
    """Squared distances times half the product of two roots, in place."""
    for k in range(n):
        D[k] *= half * a[k] * b[k]


@njit(**PLAIN)
def begun(D, x, z, channels, left, right, half, n):
    """Deficits of pixels: |x| |z| |x/|x| - z/|z||^2 / 2 over channels; the roots stand after the channels."""
    D[:n] = 0
    for c in range(channels):
        squared_distance_added(x[c, left:left + n], z[c, right:right + n], D, n)
    scaled(D, x[channels, left:left + n], z[channels, right:right + n], half, n)


@njit(**PLAIN)
def lacking_added(total, a, b, D, n):
    """Covariances, from roots and deficits, added to sums in double precision."""
    for k in range(n):
        total[k] += a[k] * b[k] - D[k]


@njit(**PLAIN)
def wide_added(total, T, n):
    """Numbers added to sums in double precision."""
    for k in range(n):
        total[k] += T[k]


@njit(**PLAIN)
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


@njit(**PLAIN)
def margins_emptied(laid, margin, rows, step, reach, cut):
    """Nought between the pieces, where no pair of pixels stands."""
    for h in range(rows):
        at = margin + h * step
        laid[at:at + reach] = 0
        laid[at + reach + cut:at + 3 * reach + cut] = 0
        laid[at + step - reach:at + step] = 0


@njit(**PLAIN)
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


@njit(**PLAIN)
def deficits(D, a, b, zero, n):
    """Deficits in place of covariances."""
    for k in range(n):
        d = a[k] * b[k] - D[k]
        D[k] = d if d > zero else zero


@njit(**PLAIN)
def gathered(total, out, dw, reach, pool, share):
    """Sums over rows of pixels, for one dw, added to the pooled covariances, which have shape (H/p, W/p, H/p, W/p)."""
    high, low = total.shape[0], total.shape[1]
    width, pooled = out.shape[1] * pool, out.shape[3]
    cut = width - dw
    places, cells = np.empty(width, np.int64), np.empty(width, np.int64)
    for w in range(width):
        places[w] = w + (reach if w < cut else 3 * reach)
        cells[w] = w // pool * low * pooled + (w + dw if w < cut else w - cut) // pool
    for s in range(high):
        row = out[s].ravel()
        for t in range(low):
            line = total[s, t]
            for w in range(width):
                row[cells[w] + t * pooled] += share * line[places[w]]


@njit(**PLAIN)
def of_pair(x, z, x_end, z_end, channels, sides, layers, reach, pool, K, T, given, tangent, angle, bend, room, work,
            outK, outT):
    """All slices of one pair: its pooled covariances, added to outK and outT.

    Args:
        x: Fields of one image, with shape (fields, H + 2 reach, W + 2 reach): channels, the roots of the input, and for
            each layer taps, roots and their inverse.
        z: Fields of the other.
        x_end: The last roots of one image, in float64.
        z_end: The last roots of the other.
        channels: How many of the fields are channels.
        sides: The sides of the filters.
        layers: The numbers of each layer, as the processor's ``_constants`` orders them.
        reach: How far the largest filter reaches.
        pool: The side of the pooling.
        K: Covariances with shape (H, W, H, W), where they are given.
        T: Tangent kernels likewise.
        given: Whether they are.
        tangent: Whether tangent kernels are wanted.
        angle: Coefficients of a polynomial.
        bend: Coefficients of another.
        room: Arrays that are filled for one dw or one slice.
        work: Arrays to work in.
        outK: Pooled covariances, with shape (H/p, W/p, H/p, W/p).
        outT: Pooled tangent kernels.
    """
    # Read only, or held by the caller.
    x, z, x_end, z_end, layers, K, T = bare(x), bare(z), bare(x_end), bare(z_end), bare(layers), bare(K), bare(T)
    outK, outT, left, right = bare(outK), bare(outT), bare(room[0]), bare(room[1])
    left_end, right_end, D, S = bare(room[2]), bare(room[3]), bare(room[4]), bare(room[5])
    newD, newS, totalK, totalT, sides = bare(room[6]), bare(room[7]), bare(room[8]), bare(room[9]), bare(sides)
    fields, rows = x.shape[0], x.shape[1]
    step, height, width = x.shape[2] + 2 * reach, rows - 2 * reach, x.shape[2] - 2 * reach
    margin, count = 2 * reach, len(sides)
    base, share = margin + reach * step, 1 / pool**4
    for dw in range(width):
        cut = width - dw
        for f in range(fields):
            laid_out(x[f], left[f], margin, reach, cut, True)
            laid_out(z[f], right[f], margin, reach, dw, False)
        laid_out(x_end, left_end, margin, reach, cut, True)
        laid_out(z_end, right_end, margin, reach, dw, False)
        margins_emptied(left_end, margin, rows, step, reach, cut)
        margins_emptied(left[channels], margin, rows, step, reach, cut)
        for k in range(count):
            margins_emptied(left[channels + 2 + 3 * k], margin, rows, step, reach, cut)
        totalK[:] = 0
        totalT[:] = 0
        for dh in range(1 - height, height):
            top, depth = max(0, -dh), height - abs(dh)
            i, j, exact = base + top * step, base + (top + dh) * step, depth * step
            n = (exact + LANES - 1) // LANES * LANES
            beyond = slice(base + exact, base + n + reach * step)
            S[base:base + n + reach * step] = 0
            if given:
                read_slice(K, top, depth, top + dh, dw, reach, D, base, step)
                deficits(D[base:base + n], left[channels, i:i + n], right[channels, j:j + n], layers[0, 7], n)
                if tangent:
                    read_slice(T, top, depth, top + dh, dw, reach, S, base, step)
            else:
                begun(D[base:base + n], left, right, channels, i, j, layers[0, 9], n)
            D[beyond] = 0
            for k in range(count):
                f = channels + 1 + 3 * k
                layered(D, S, newD, newS, base, step, n, sides[k], left[f], right[f], i, j, left[f + 1, i:i + n],
                        right[f + 1, j:j + n], left[f + 2, i:i + n], right[f + 2, j:j + n], layers[k], angle, bend,
                        work, tangent)
                newD[beyond] = 0
                if tangent:
                    newS[beyond] = 0
                D, newD, S, newS = newD, D, newS, S
            for r in range(depth):
                at, s, t = r * step, (top + r) // pool, (top + r + dh) // pool
                lacking_added(totalK[s, t], left_end[i + at:i + at + step], right_end[j + at:j + at + step],
                              D[base + at:base + at + step], step)
                if tangent:
                    wide_added(totalT[s, t], S[base + at:base + at + step], step)
        gathered(totalK, outK, dw, reach, pool, share)
        if tangent:
            gathered(totalT, outT, dw, reach, pool, share)


@njit(**PLAIN)
def of_pairs(x, z, x_end, z_end, i, j, channels, sides, layers, reach, pool, K, T, given, tangent, angle, bend, outK,
             outT):
    """Pairs of images one after the other, in arrays that are made once."""
    fields, rows = x.shape[1], x.shape[2]
    step = x.shape[3] + 2 * reach
    size = rows * step + 4 * reach + 2 * LANES
    left, right = np.zeros((fields, size), x.dtype), np.zeros((fields, size), x.dtype)
    left_end, right_end = np.zeros(size, np.float64), np.zeros(size, np.float64)
    work = room_for(PIECE + 2 * reach, x.dtype)
    totals = outK.shape[1], outK.shape[3], step
    room = (left, right, left_end, right_end, np.zeros(size, x.dtype), np.zeros(size, x.dtype),
            np.zeros(size, x.dtype), np.zeros(size, x.dtype), np.zeros(totals, np.float64),
            np.zeros(totals, np.float64))
    for k in range(len(i)):
        at = k if given else 0
        of_pair(x[i[k]], z[j[k]], x_end[i[k]], z_end[j[k]], channels, sides, layers, reach, pool, K[at], T[at], given,
                tangent, angle, bend, room, work, outK[k], outT[k])
