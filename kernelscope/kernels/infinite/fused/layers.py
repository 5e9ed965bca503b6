r"""The compiled loop over the numbers of a slice that takes them through one layer; imported where it is run.

One loop does all: it reads the deficits and the tangent kernels under the window of a vector of numbers, adds how far
the roots under the window are from proportional, and writes what the activation makes of both. See :mod:`.stage` for
the formulas, and :mod:`.lanes` for the vectors.
"""

from typing import Any

from numba import njit

from .lanes import lanes_of, load, load_wide, polynomial, root, spread, store, where_above

#: Sums may be contracted, not reordered; what is not a number stays so.
PLAIN: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}

#: What is part of a loop of another function.
WITHIN: dict[str, Any] = PLAIN | {"forceinline": True, "no_cpython_wrapper": True}

#: What other functions call, and nothing else.
CALLED: dict[str, Any] = PLAIN | {"no_cpython_wrapper": True}


@njit(**WITHIN)
def row_of_three(source, at):
    """The sum of three numbers in a row."""
    return load(source, at) + load(source, at + 1) + load(source, at + 2)


@njit(**WITHIN)
def window_sum(source, at, step, side):
    """The sum under a window of which ``at`` is the middle."""
    if side == 1:
        return load(source, at)
    corner = at - side // 2 * (step + 1)
    if side == 3:
        return (row_of_three(source, corner) + row_of_three(source, corner + step)
                + row_of_three(source, corner + 2 * step))
    total = row_of_three(source, corner)
    for s in range(side):
        for t in range(0 if s else 3, side):
            total = total + load(source, corner + s * step + t)
    return total


@njit(**WITHIN)
def squared(a, b, i, j, ratio):
    """The squared difference of what two images have at one place of the window."""
    d = load(a, i) - load(b, j) * ratio
    return d * d


@njit(**WITHIN)
def row_squared(a, b, i, j, ratio):
    """The squared differences at three places in a row."""
    return squared(a, b, i, j, ratio) + squared(a, b, i + 1, j + 1, ratio) + squared(a, b, i + 2, j + 2, ratio)


@njit(**WITHIN)
def window_gap(a, b, i, j, step, side, ratio):
    """The sum under a window of (a - b P / Q)^2."""
    if side == 1:
        return squared(a, b, i, j, ratio)
    corner = side // 2 * (step + 1)
    i, j = i - corner, j - corner
    if side == 3:
        return (row_squared(a, b, i, j, ratio) + row_squared(a, b, i + step, j + step, ratio)
                + row_squared(a, b, i + 2 * step, j + 2 * step, ratio))
    total = row_squared(a, b, i, j, ratio)
    for s in range(side):
        for t in range(0 if s else 3, side):
            total = total + squared(a, b, i + s * step + t, j + s * step + t, ratio)
    return total


@njit(**WITHIN)
def limited(u, layer):
    """What rounding has not put outside [0, 1]."""
    zero, one = layer[7], layer[10]
    u = where_above(zero, u, zero, u)
    return where_above(u, one, one, u)


@njit(**WITHIN)
def half_lack(lack, gap, p, q, layer):
    """The squared sine of half the angle, D / 2 P Q, from the sum of deficits."""
    d = p - q
    return limited((layer[9] * layer[0]) * lack * p * q + (gap * p * p + d * d * layer[1]) * layer[8], layer)


@njit(**WITHIN)
def activated(D, T, k, u, rest, both, inner, layer, angle, bend, tangent):
    """What the activation makes of deficits, in units of both roots, and of tangent kernels; written to place k.

    The squared cosine of half the angle, ``rest``, is given beside the squared sine u, since one of both has digits
    that the difference of the other to 1 has not.
    """
    mean, turn, half = layer[2], layer[3], layer[9]
    y = where_above(u, half, rest, u)
    turned = root(y) * turn
    lack = where_above(u, half, y * layer[5] + layer[4], y * (mean + mean))
    store(D, k, both * (lack - turned * y * polynomial(y, bend)))
    if tangent:
        by_angle = turned * polynomial(y, angle)
        store(T, k, inner * where_above(u, half, by_angle + layer[6], mean - by_angle))


@njit(**CALLED)
def layered(D, T, newD, newT, step, n, side, a, b, size, layer, angle, bend, fresh, tangent):
    """One layer on n numbers of a slice, rounded up to whole vectors.

    Args:
        D: Deficits.
        T: Tangent kernels; not read where they are fresh.
        newD: Where deficits are written.
        newT: Where tangent kernels are written.
        step: From one row to the next.
        n: How many numbers.
        side: The side of the filter.
        a: What one image brings: taps, the roots P, and their inverse.
        b: What the other brings.
        size: From taps to roots, and from these to their inverse.
        layer: The numbers of the layer, as ``constants`` orders them.
        angle: Coefficients of a polynomial.
        bend: Coefficients of another.
        fresh: Whether there are no tangent kernels yet.
        tangent: Whether they are wanted.
    """
    share, zero, one = layer[0], layer[7], layer[10]
    for k in range(0, n, lanes_of(D)):
        P, Q, p, q = load(a, size + k), load(b, size + k), load(a, 2 * size + k), load(b, 2 * size + k)
        gap = window_gap(a, b, k, k, step, side, P * q)
        u = half_lack(window_sum(D, k, step, side), gap, p, q, layer)
        both = P * Q
        inner = both * (one - u - u)
        if tangent and not fresh:
            # Around an image there are sums but no pixels, of which the roots are nought.
            inner = where_above(P, zero, inner + window_sum(T, k, step, side) * share, both)
        activated(newD, newT, k, u, one - u, both, inner, layer, angle, bend, tangent)


@njit(**WITHIN)
def layered_alone(D, T, n, a, P, p, b, size, layer, angle, bend, tangent):
    """One dense layer on n numbers of a row, in place: for one vector and others.

    Deficits are relative to both roots here, and taps to the roots P: numbers that are the same in all layers would be
    rounded in the same direction in each of them.
    """
    share, half, one = layer[0], layer[9], layer[10]
    inverse = one / layer[2] if layer[2] > layer[7] else layer[7]
    for k in range(0, n, lanes_of(D)):
        c, Q, q = load(b, k), load(b, size + k), load(b, 2 * size + k)
        d, e, both = c - a, q - p, Q * P
        u = limited((half * a) * c * load(D, k) + (d * d + e * e * layer[1]) * layer[8], layer)
        inner = both * (one - u - u)
        if tangent:
            inner = inner + load(T, k) * share
        activated(D, T, k, u, one - u, inverse, inner, layer, angle, bend, tangent)


@njit(**WITHIN)
def first_alone(D, T, n, short, a, P, p, b, size, layer, angle, bend, tangent):
    r"""The first dense layer on n numbers of a row, in place, where T brings what deficits lack to 2, E = 2 - D.

    The squared cosine of half the angle has digits of its own by it, for vectors that are nearly opposite: it is
    :math:`(1 - a c + v p q + a c E) / 2`, in which v is the variance of the biases and :math:`1 - a c` is a sum too, of
    what each of both taps is short of 1; ``short`` and the first row of b are that.
    """
    half, one = layer[9], layer[10]
    inverse = one / layer[2] if layer[2] > layer[7] else layer[7]
    for k in range(0, n, lanes_of(D)):
        less, c, Q, q = load(b, k), load(b, size + k), load(b, 2 * size + k), load(b, 3 * size + k)
        d, e, both = c - a, q - p, Q * P
        u = limited((half * a) * c * load(D, k) + (d * d + e * e * layer[1]) * layer[8], layer)
        rest = limited(((less + short * (one - less)) + q * p * layer[1] + c * a * load(T, k)) * half, layer)
        activated(D, T, k, u, rest, inverse, both * (rest - u), layer, angle, bend, tangent)


@njit(**CALLED)
def begun(D, x, z, channels, size, n, half, zero):
    """Deficits of pixels, |x| |z| |x/|x| - z/|z||^2 / 2, from channels and the roots that stand after them."""
    for k in range(0, n, lanes_of(D)):
        a, b = load(x, channels * size + k), load(z, channels * size + k)
        total = spread(D, zero)
        for c in range(channels):
            d = load(x, c * size + k) - load(z, c * size + k)
            total = total + d * d
        store(D, k, total * a * b * half)


@njit(**CALLED)
def lacks(D, a, b, n, zero):
    """Deficits in place of covariances, from roots."""
    for k in range(0, n, lanes_of(D)):
        d = load(a, k) * load(b, k) - load(D, k)
        store(D, k, where_above(zero, d, zero, d))


@njit(**CALLED)
def emptied(D, n, zero):
    """Nought in n places, rounded up to whole vectors."""
    for k in range(0, n, lanes_of(D)):
        store(D, k, spread(D, zero))


@njit(**CALLED)
def added_wide(total, D, n):
    """Numbers added to sums in double precision, in n places, rounded up to whole vectors."""
    for k in range(0, n, lanes_of(total)):
        store(total, k, load(total, k) + load_wide(D, k))
