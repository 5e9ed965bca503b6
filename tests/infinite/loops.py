"""Networks of infinite width as loops over pairs of pixels: a dictionary of covariances, one number at a time."""

import itertools
import math

import torch

from kernelscope.kernels.infinite import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, ReLU, Residual


def kernels(layers, x, z):
    """The covariance and the tangent kernel of two points with shape (channels, *pixels)."""
    (k, t), = through(layers, start(x, x), start(x, z), start(z, z))[1].values()
    return k, t


def start(x, z):
    places = list(itertools.product(*map(range, x.shape[1:])))
    return {(p, r): (sum(x[(c, *p)] * z[(c, *r)] for c in range(len(x))) / len(x), 0.0)
            for p in places for r in places}


def through(layers, xx, xz, zz):
    for layer in layers:
        xx, xz, zz = one(layer, xx, xz, zz)
    return xx, xz, zz


def one(layer, xx, xz, zz):
    match layer:
        case Conv():
            return tuple(convolved(layer, pairs) for pairs in (xx, xz, zz))
        case Dense():
            return tuple({at: weighted(layer, [kt]) for at, kt in pairs.items()} for pairs in (xx, xz, zz))
        case ReLU():
            return rectified(xx, xx, xx), rectified(xx, xz, zz), rectified(zz, zz, zz)
        case Residual():
            branch, skip = through(layer.branch.layers, xx, xz, zz), through(layer.skip.layers, xx, xz, zz)
            return tuple({at: (f[at][0] + s[at][0], f[at][1] + s[at][1]) for at in f}
                         for f, s in zip(branch, skip, strict=True))
        case AvgPool():
            return tuple(pooled(layer, pairs) for pairs in (xx, xz, zz))
        case GlobalAvgPool():
            return tuple({((), ()): mean(pairs.values())} for pairs in (xx, xz, zz))
        case Flatten():
            return tuple({((), ()): mean(kt for (p, r), kt in pairs.items() if p == r)} for pairs in (xx, xz, zz))


def mean(values):
    values = list(values)
    return tuple(math.fsum(part) / len(values) for part in zip(*values, strict=True))


def weighted(layer, seen, count=None):
    """Weights and biases, for the covariances that a window sees; those outside of the image are nought."""
    k, t = (layer.W_std**2 * math.fsum(part) / (count or len(seen)) for part in zip(*seen, (0.0, 0.0), strict=True))
    return k + layer.b_std**2, k + layer.b_std**2 + t


def sizes(pairs):
    places = [p for p, _ in pairs]
    return tuple(1 + max(p[d] for p in places) for d in range(len(places[0])))


def by_direction(value, n):
    return (value,) * n if isinstance(value, int) else value


def convolved(layer, pairs):
    shape = sizes(pairs)
    sides, strides = by_direction(layer.side, len(shape)), by_direction(layer.stride, len(shape))
    after, low = [], []
    for n, side, stride in zip(shape, sides, strides, strict=True):
        if layer.padding == "valid":
            after.append((n - side) // stride + 1)
            low.append(0)
        else:
            # What is added is as little as lets every stride begin, the odd pixel at the end.
            after.append(math.ceil(n / stride))
            low.append(max((math.ceil(n / stride) - 1) * stride + side - n, 0) // 2)
    places, windows = list(itertools.product(*map(range, after))), list(itertools.product(*map(range, sides)))

    def moved(place, offset):
        at = tuple(p * stride - first + o for p, stride, first, o in zip(place, strides, low, offset, strict=True))
        return tuple(a % n for a, n in zip(at, shape, strict=True)) if layer.padding == "circular" else at

    return {(p, r): weighted(layer, [pairs.get((moved(p, o), moved(r, o)), (0.0, 0.0)) for o in windows], len(windows))
            for p in places for r in places}


def pooled(layer, pairs):
    shape = sizes(pairs)
    sides = by_direction(layer.side, len(shape))
    within = lambda p: tuple(a // side for a, side in zip(p, sides, strict=True))
    groups = {}
    for (p, r), kt in pairs.items():
        groups.setdefault((within(p), within(r)), []).append(kt)
    return {at: mean(values) for at, values in groups.items()}


def rectified(xx, xz, zz):
    found = {}
    for (p, r), (k, t) in xz.items():
        size = math.sqrt(xx[p, p][0] * zz[r, r][0])
        angle = math.acos(max(-1.0, min(1.0, k / size))) if size > 0 else math.pi / 2
        slope = (math.pi - angle) / (2 * math.pi)
        found[p, r] = size * math.sin(angle) / (2 * math.pi) + slope * k, t * slope
    return found


def matrices(net, x, z):
    """Both kernel matrices, by loops over points."""
    pairs = [[kernels(net.layers, p.numpy(), q.numpy()) for q in z] for p in x]
    return torch.tensor(pairs, dtype=torch.float64).unbind(-1)
