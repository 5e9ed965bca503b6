"""Kernels in closed form: one of each kind for the laws, and what double loops say they are."""

import math

import mpmath
import torch
from scipy.spatial import distance

from kernelscope.kernels import (
    ArcCosine,
    Cauchy,
    Cosine,
    Dispersal,
    Gaussian,
    Laplacian,
    Matern,
    Polynomial,
    RationalQuadratic,
    ReLUNTK,
)
from tests.networks import vectors


def angle(x, z):
    """By the angle's sine and cosine from the part of z that is orthogonal to x, in which nothing cancels."""
    a, b = math.hypot(*x), math.hypot(*z)
    if a == 0 or b == 0:
        return math.pi / 2
    u, w = [value / a for value in x], [value / b for value in z]
    return 2 * math.atan2(math.dist(u, w), math.hypot(*(p + q for p, q in zip(u, w, strict=True))))


def relu_ntk(x, z, depth, w, c):
    """The recursion as it is printed, by covariances, with so many digits that what cancels does not matter."""
    with mpmath.workdps(60):
        return float(_relu_ntk([mpmath.mpf(p) for p in x], [mpmath.mpf(q) for q in z], depth, w, c))


def _relu_ntk(x, z, depth, w, c):
    dot = lambda p, q: w**2 * sum(s * t for s, t in zip(p, q, strict=True)) / len(x) + c**2
    xx, xz, zz, pi = dot(x, x), dot(x, z), dot(z, z), mpmath.pi
    tangent = xz
    for _ in range(depth):
        scale = mpmath.sqrt(xx * zz)
        theta = mpmath.acos(max(-1, min(1, xz / scale))) if scale else pi / 2
        tangent *= w**2 * (pi - theta) / (2 * pi)
        xz = w**2 * scale * (mpmath.sin(theta) + (pi - theta) * mpmath.cos(theta)) / (2 * pi) + c**2
        xx, zz = w**2 * xx / 2 + c**2, w**2 * zz / 2 + c**2
        tangent += xz
    return tangent


def arc_cosine(x, z, order):
    theta, scale = angle(x, z), (math.hypot(*x) * math.hypot(*z)) ** order
    sine, cosine, rest = math.sin(theta), math.cos(theta), math.pi - theta
    return scale / math.pi * (rest, sine + rest * cosine, 3 * sine * cosine + rest * (1 + 2 * cosine**2))[order]


def r(x, z):
    return distance.euclidean(x, z)


#: From a name to a kernel of a bandwidth, and its value for two vectors and that bandwidth.
MEASURED = {
    "Gaussian": (lambda b: Gaussian(b), lambda x, z, b: math.exp(-distance.sqeuclidean(x, z) / (2 * b**2))),
    "Laplacian": (lambda b: Laplacian(b), lambda x, z, b: math.exp(-r(x, z) / b)),
    "Matern of 1/2": (lambda b: Matern(0.5, b), lambda x, z, b: math.exp(-r(x, z) / b)),
    "Matern of 3/2": (lambda b: Matern(1.5, b), lambda x, z, b: (1 + math.sqrt(3) * r(x, z) / b)
                      * math.exp(-math.sqrt(3) * r(x, z) / b)),
    "Matern of 5/2": (lambda b: Matern(2.5, b), lambda x, z, b: (1 + math.sqrt(5) * r(x, z) / b
                      + 5 * r(x, z)**2 / (3 * b**2)) * math.exp(-math.sqrt(5) * r(x, z) / b)),
    "Cauchy": (lambda b: Cauchy(b), lambda x, z, b: 1 / (1 + (r(x, z) / b)**2)),
    "rational quadratic": (lambda b: RationalQuadratic(0.7, b),
                           lambda x, z, b: (1 + r(x, z)**2 / (1.4 * b**2)) ** -0.7),
    "dispersal": (lambda b: Dispersal(1.3, b), lambda x, z, b: math.exp(-(r(x, z) / b) ** 1.3)),
    "polynomial": (lambda b: Polynomial(3, 0.5, b),
                   lambda x, z, b: (sum(p * q for p, q in zip(x, z, strict=True)) / b**2 + 0.5)**3),
}
WITHOUT = {
    "cosine": (Cosine(), lambda x, z: 1 - distance.cosine(x, z)),
    "arc-cosine of order 0": (ArcCosine(0), lambda x, z: arc_cosine(x, z, 0)),
    "arc-cosine of order 1": (ArcCosine(1), lambda x, z: arc_cosine(x, z, 1)),
    "arc-cosine of order 2": (ArcCosine(2), lambda x, z: arc_cosine(x, z, 2)),
    "ReLU NTK": (ReLUNTK(), lambda x, z: relu_ntk(x, z, 1, math.sqrt(2), 0.0)),
    "deep ReLU NTK with biases": (ReLUNTK(4, 1.2, 0.3), lambda x, z: relu_ntk(x, z, 4, 1.2, 0.3)),
}


def all_of(bandwidth):
    """Every kernel, and its oracle, with this bandwidth where it has one."""
    return {name: (make(bandwidth), lambda x, z, true=true: true(x, z, bandwidth))
            for name, (make, true) in MEASURED.items()} | WITHOUT


NAMES = list(all_of(1.0))
STATIONARY = [name for name in MEASURED if name != "polynomial"]


def loops(true, x, z):
    """The matrix by two loops, in float64."""
    x, z = x.double().flatten(1).tolist(), z.double().flatten(1).tolist()
    return torch.tensor([[true(p, q) for q in z] for p in x], dtype=torch.float64)


def plain(n, dtype, device):
    return vectors(n).to(device, dtype)


#: As the laws take them: from a dtype and a device to a kernel and the maker of its points.
KERNELS = {name: (lambda *on, k=k: (k, plain)) for name, (k, _) in all_of(1.7).items()} | {
    "Laplacian in little memory": lambda *on: (Laplacian(1.7, memory=30_000), plain)}
