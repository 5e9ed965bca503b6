"""Covariances of networks on tiny images, by loops over pixels and the textbook's formulas."""

import math
from itertools import product


def covariances(layers, x, z):
    """K and T of two images, nested lists (channels, H, W), by pixels (h, w, h', w')."""
    channels, height, width = len(x), len(x[0]), len(x[0][0])
    places = list(product(range(height), range(width)))

    def first(a, b):
        return {(p, q): sum(a[c][p[0]][p[1]] * b[c][q[0]][q[1]] for c in range(channels)) / channels
                for p, q in product(places, places)}

    own, other, K = first(x, x), first(z, z), first(x, z)
    T = dict.fromkeys(K, 0.0)
    for layer in layers:
        own, other, (K, T) = _layer(layer, own), _layer(layer, other), (_layer(layer, K), _window(layer, T))
        T = {pq: K[pq] + layer.weight * T[pq] for pq in K}
        (own, _), (other, _), (K, slopes) = (_activation(layer, values, left, right) for values, left, right in
                                             ((own, own, own), (other, other, other), (K, own, other)))
        T = {pq: T[pq] * slopes[pq] for pq in K}
    return K, T


def pooled(values, height, width, p):
    """Means over blocks of pixels, as nested lists (H/p, W/p, H/p, W/p)."""
    tall, broad = range(height // p), range(width // p)
    inside = list(product(range(p), repeat=4))
    return [[[[sum(values[(p * s + a, p * t + b), (p * v + c, p * u + d)] for a, b, c, d in inside) / p**4
               for u in broad] for v in tall] for t in broad] for s in tall]


def _window(layer, K):
    reach = range(-(layer.side // 2), layer.side // 2 + 1)
    return {(p, q): sum(K.get(((p[0] + s, p[1] + t), (q[0] + s, q[1] + t)), 0.0) for s in reach for t in reach)
            / layer.side**2 for p, q in K}


def _layer(layer, K):
    return {pq: layer.weight * k + layer.bias for pq, k in _window(layer, K).items()}


def _activation(layer, K, own, other):
    """E phi(u) phi(v) and E phi'(u) phi'(v) by the angle between u and v."""
    bend, mean = (layer.low - layer.high) ** 2 / (2 * math.pi), (layer.low**2 + layer.high**2) / 2
    found, slopes = {}, {}
    for (p, q), k in K.items():
        sine = math.sqrt(max(own[p, p] * other[q, q] - k * k, 0.0))
        slopes[p, q] = mean - bend * (math.atan2(sine, k) if sine or k else math.pi / 2)
        found[p, q] = bend * sine + slopes[p, q] * k
    return found, slopes
