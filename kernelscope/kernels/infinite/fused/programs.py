"""The Triton programs of a stage; imported where one is run, since only GPUs have use for them.

A program takes one pair of images and one offset (dh, dw), and all pixels (h, w) of one image with the pixels
(h + dh, w + dw) of the other, round its border: so all numbers of its block are in use, and a window sums those that
are on the same side of the border. Sums over windows are products with matrices of nought and one, from both sides.
"""

import triton
import triton.language as tl


@triton.jit
def polynomial(y, coefficients, count):
    """A polynomial, the highest power first."""
    total = tl.zeros_like(y) + tl.load(coefficients)
    for k in range(1, count):
        total = total * y + tl.load(coefficients + k)
    return total


@triton.jit
def activated(u, both, inner, numbers, series, count, TANGENT: tl.constexpr):
    """Deficits and tangent kernels after an activation, from the squared sine of half the angle."""
    share, mean, turn = tl.load(numbers), tl.load(numbers + 2), tl.load(numbers + 3)
    start, slope, product = tl.load(numbers + 4), tl.load(numbers + 5), tl.load(numbers + 6)
    far = u > 0.5
    y = tl.where(far, 1 - u, u)
    root = turn * tl.sqrt(y)
    lack = both * (tl.where(far, start + slope * y, 2 * mean * y) - root * y * polynomial(y, series + count, count))
    if TANGENT:
        angle = root * polynomial(y, series, count)
        inner = (share * inner + both * (1 - 2 * u)) * tl.where(far, product + angle, mean - angle)
    return lack, inner


@triton.jit
def window_sum(values, tall, broad, KIND: tl.constexpr):
    """Sums over windows, by two matrices of nought and one."""
    return tl.dot(tl.dot(tall, values, input_precision="ieee", out_dtype=KIND), broad, input_precision="ieee",
                  out_dtype=KIND)


@triton.jit
def near(one, other, shift, length, reach, KIND: tl.constexpr):
    """Which places see each other through a window, on the same side of the border."""
    seen = (one - other <= reach) & (other - one <= reach) & (one < length) & (other < length)
    return (seen & ((one + shift >= length) == (other + shift >= length))).to(KIND)


@triton.jit
def stage(x, z, x_end, z_end, i, j, sides, numbers, series, K, T, outK, outT, height, width, channels, layers, count,
          columns, WHOLE: tl.constexpr, GIVEN: tl.constexpr, TANGENT: tl.constexpr, KIND: tl.constexpr,
          BH: tl.constexpr, BW: tl.constexpr):
    """One slice of a pair, (dh, dw, h, w) of (pairs, H, W, H, W); or, where there is one, its mean for each pair.

    Fields of images have shape (n, fields, H, W), as the processor has them, and ``series`` two rows of coefficients.
    """
    pair = tl.program_id(0).to(tl.int64)
    dh, dw = tl.program_id(1) // width, tl.program_id(1) % width
    size, fields = height * width, channels + 1 + 3 * layers
    if WHOLE:
        one, other = tl.load(i + pair), tl.load(j + pair)
    else:
        one, other = pair // columns, pair % columns
    h, w = tl.arange(0, BH)[:, None], tl.arange(0, BW)[None, :]
    v, u = (h + dh) % height, (w + dw) % width
    inside = (h < height) & (w < width)
    a, b = x + one * fields * size, z + other * fields * size
    here, there = h * width + w, v * width + u
    both = (tl.load(a + channels * size + here, mask=inside, other=0.0)
            * tl.load(b + channels * size + there, mask=inside, other=0.0))
    inner = tl.zeros((BH, BW), dtype=KIND)
    if GIVEN:
        place = ((pair * height + h) * width + w) * size + there
        lack = tl.maximum(both - tl.load(K + place, mask=inside, other=0.0), 0.0)
        if TANGENT:
            inner = tl.load(T + place, mask=inside, other=0.0)
    else:
        lack = tl.zeros((BH, BW), dtype=KIND)
        for c in range(0, channels):
            d = tl.load(a + c * size + here, mask=inside, other=0.0) - tl.load(b + c * size + there, mask=inside,
                                                                             other=0.0)
            lack += d * d
        lack = lack * both / 2
    for k in range(0, layers):
        reach, row = tl.load(sides + k) // 2, numbers + 11 * k
        share, bias = tl.load(row), tl.load(row + 1)
        taps, roots = a + (channels + 1 + 3 * k) * size, b + (channels + 1 + 3 * k) * size
        P = tl.load(taps + size + here, mask=inside, other=0.0)
        Q = tl.load(roots + size + there, mask=inside, other=0.0)
        p = tl.load(taps + 2 * size + here, mask=inside, other=0.0)
        q = tl.load(roots + 2 * size + there, mask=inside, other=0.0)
        gap = tl.zeros((BH, BW), dtype=KIND)
        for s in range(-reach, reach + 1):
            for t in range(-reach, reach + 1):
                left = inside & (h + s >= 0) & (h + s < height) & (w + t >= 0) & (w + t < width)
                right = inside & (v + s >= 0) & (v + s < height) & (u + t >= 0) & (u + t < width)
                d = (tl.load(taps + here + s * width + t, mask=left, other=0.0) * p
                     - tl.load(roots + there + s * width + t, mask=right, other=0.0) * q)
                gap += d * d
        tall = near(h, tl.arange(0, BH)[None, :], dh, height, reach, KIND)
        broad = near(tl.arange(0, BW)[:, None], w, dw, width, reach, KIND)
        sine = share / 2 * window_sum(lack, tall, broad, KIND) * p * q + (gap + bias * (p - q) * (p - q)) / 4
        if TANGENT:
            inner = window_sum(inner, tall, broad, KIND)
        lack, inner = activated(tl.minimum(tl.maximum(sine, 0.0), 1.0), P * Q, inner, row, series, count, TANGENT)
    found = (tl.load(x_end + one * size + here, mask=inside, other=0.0)
             * tl.load(z_end + other * size + there, mask=inside, other=0.0) - lack)
    if WHOLE:
        place = ((pair * height + dh) * width + dw) * size + here
        tl.store(outK + place, found, mask=inside)
        if TANGENT:
            tl.store(outT + place, inner, mask=inside)
    else:
        tl.store(outK + pair, tl.sum(tl.sum(found, 1), 0) / size)
        if TANGENT:
            tl.store(outT + pair, tl.sum(tl.sum(inner.to(tl.float64), 1), 0) / size)


@triton.jit
def vectors(lack, inner, a, b, a_end, b_end, numbers, series, n, m, layers, count, TANGENT: tl.constexpr,
            B: tl.constexpr):
    """Some entries of one row, through all layers, in place; fields of vectors have shape (3 layers, n)."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * B + tl.arange(0, B)
    inside = columns < m
    place = row * m + columns
    D = tl.load(lack + place, mask=inside, other=0.0)
    S = tl.zeros_like(D)
    for k in range(0, layers):
        own, theirs, each = a + 3 * k * n + row, b + 3 * k * m + columns, numbers + 11 * k
        P, p = tl.load(own + n), tl.load(own + 2 * n)
        Q = tl.load(theirs + m, mask=inside, other=0.0)
        q = tl.load(theirs + 2 * m, mask=inside, other=0.0)
        d = tl.load(own) * p - tl.load(theirs, mask=inside, other=0.0) * q
        sine = tl.load(each) / 2 * D * p * q + (d * d + tl.load(each + 1) * (p - q) * (p - q)) / 4
        D, S = activated(tl.minimum(tl.maximum(sine, 0.0), 1.0), P * Q, S, each, series, count, TANGENT)
    tl.store(lack + place, tl.load(a_end + row) * tl.load(b_end + columns, mask=inside, other=0.0) - D, mask=inside)
    if TANGENT:
        tl.store(inner + place, S, mask=inside)
