r"""Covariances of pairs of images through a stage, in plain torch.

All pixels of one image with all of the other, as one tensor of shape (H, W, H', W') for each pair: what the compiled
programs do slice by slice is here a shift of both pixels at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from .angles import turned
from .stage import Affine, Sides, Stage, of_points, of_variances


def of_images(stage: Stage, x: Tensor, z: Tensor, i: Tensor, j: Tensor,
              tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    left, right = of_points(stage.layers, x), of_points(stage.layers, z)
    made = [_of_pair(stage, _one(left, p), _one(right, q), None, tangent)
            for p, q in zip(i.tolist(), j.tolist(), strict=True)]
    return _stacked(made, stage, x, z, tangent)


def of_covariances(stage: Stage, K: Tensor, T: Tensor | None, left: Tensor, right: Tensor, i: Tensor,
                   j: Tensor) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    near, far = of_variances(stage.layers, left), of_variances(stage.layers, right)
    made = [_of_pair(stage, _one(near, p), _one(far, q), (K[k], None if T is None else T[k]), T is not None)
            for k, (p, q) in enumerate(zip(i.tolist(), j.tolist(), strict=True))]
    return _stacked(made, stage, left, right, T is not None)


def of_pixels(layers: Sequence[Affine], x: Tensor, z: Tensor, tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    left, right = of_points(layers, x), of_points(layers, z)
    K = x.new_zeros(len(x), len(z), dtype=torch.float64)
    T = torch.zeros_like(K) if tangent else None
    for row in range(len(x)):
        a = _one(left, row)
        lack = (a.units - right.units).square().sum(1) * (a.start * right.start) / 2
        inner = torch.zeros_like(lack) if tangent else None
        for k, layer in enumerate(layers):
            p, q = a.inverse[:, k], right.inverse[:, k]
            seen = _moved(a.taps[:, k], layer.side), _moved(right.taps[:, k], layer.side)
            gap = _total((c * p - d * q).square() for c, d in zip(*seen, strict=True))
            lack, inner = _activated(layer, _total(_moved(lack, layer.side)), gap, p, q, a.roots[:, k],
                                     right.roots[:, k], None if inner is None else _total(_moved(inner, layer.side)))
        K[row] = (a.end * right.end - lack).mean((1, 2))
        if T is not None and inner is not None:
            T[row] = inner.double().mean((1, 2))
    return K, T


def of_vectors(layers: Sequence[Affine], lack: Tensor, a: Tensor, b: Tensor,
               tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    flat = [layer.alone for layer in layers]
    left, right = (of_variances(flat, r.double().square()[:, None, None], lack.dtype) for r in (a, b))
    inner = torch.zeros_like(lack) if tangent else None
    for k, layer in enumerate(flat):
        p, q = left.inverse[:, k, :, 0], right.inverse[:, k, 0, 0]
        gap = (left.taps[:, k, :, 0] * p - right.taps[:, k, 0, 0] * q).square()
        lack, inner = _activated(layer, lack, gap, p, q, left.roots[:, k, :, 0], right.roots[:, k, 0, 0], inner)
    return (left.end[:, :, 0] * right.end[:, 0, 0] - lack).to(lack.dtype), inner


def _of_pair(stage: Stage, a: Sides, b: Sides, given: tuple[Tensor, Tensor | None] | None,
             tangent: bool) -> tuple[Tensor, Tensor | None]:
    """The pooled covariances of one pair, with shape (1, H/p, W/p, H'/p, W'/p)."""
    def outer(u: Tensor, v: Tensor) -> Tensor:
        return u[..., None, None] * v[..., None, None, :, :]

    def ours(u: Tensor) -> Tensor:
        return u[..., None, None]

    def theirs(u: Tensor) -> Tensor:
        return u[..., None, None, :, :]

    T: Tensor | None
    if given is None:
        D = (a.units[..., None, None] - b.units[:, :, None, None]).square().sum(1) * outer(a.start, b.start) / 2
        T = torch.zeros_like(D) if tangent else None
    else:
        D, T = (outer(a.start, b.start) - given[0]).clamp(min=0), None if given[1] is None else given[1][None]
    for k, layer in enumerate(stage.layers):
        p, q = ours(a.inverse[:, k]), theirs(b.inverse[:, k])
        seen = zip(_moved(a.taps[:, k], layer.side), _moved(b.taps[:, k], layer.side), strict=True)
        gap = _total((ours(c) * p - theirs(d) * q).square() for c, d in seen)
        D, T = _activated(layer, _total(_both_moved(D, layer.side)), gap, p, q, ours(a.roots[:, k]),
                          theirs(b.roots[:, k]), None if T is None else _total(_both_moved(T, layer.side)))
    K = outer(a.end, b.end) - D
    return _pooled(K, stage.pool), None if T is None else _pooled(T.double(), stage.pool)


def _activated(layer: Affine, lacks: Tensor, gap: Tensor, p: Tensor, q: Tensor, P: Tensor, Q: Tensor,
               inner: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Deficits and tangent kernels after one layer, from their sums under the window and the gap of the roots.

    Args:
        layer: The layer.
        lacks: Sums of deficits.
        gap: Sums of squared differences of the scaled roots.
        p: 1 / P.
        q: 1 / Q.
        P: The roots of one image.
        Q: The roots of the other.
        inner: Sums of tangent kernels; ``None`` where they are not wanted.
    """
    share, both = layer.weight / layer.side**2, P * Q
    u = (share / 2 * lacks * (p * q) + (gap + layer.bias * (p - q).square()) / 4).clamp(0, 1)
    far = u > 0.5
    y = torch.where(far, 1 - u, u)
    angle, bend = turned(y)
    start, slope = (layer.low + layer.high) ** 2 / 2, -2 * layer.low * layer.high
    D = both * (torch.where(far, start + slope * y, 2 * layer.mean * y) - layer.bend * bend)
    if inner is None:
        return D, None
    derivative = torch.where(far, layer.low * layer.high + layer.bend * angle, layer.mean - layer.bend * angle)
    return D, (both * (1 - 2 * u) + share * inner) * derivative


def _total(several: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, several)


def _moved(x: Tensor, side: int) -> list[Tensor]:
    """An image, or several, as each place of a window sees it; of the last two axes."""
    reach, (h, w) = side // 2, x.shape[-2:]
    wide = pad(x, (reach,) * 4)
    return [wide[..., s:s + h, t:t + w] for s in range(side) for t in range(side)]


def _both_moved(x: Tensor, side: int) -> list[Tensor]:
    """Covariances of pixels as each place of a window sees them, both pixels moved alike; of the last four axes."""
    reach, (h, w, v, u) = side // 2, x.shape[-4:]
    wide = pad(x, (reach,) * 8)
    return [wide[:, s:s + h, t:t + w, s:s + v, t:t + u] for s in range(side) for t in range(side)]


def _pooled(x: Tensor, p: int) -> Tensor:
    n, h, w, v, u = x.shape
    return x.reshape(n, h // p, p, w // p, p, v // p, p, u // p, p).mean((2, 4, 6, 8))


def _one(sides: Sides, k: int) -> Sides:
    return Sides(*(field[k:k + 1] for field in sides))


def _stacked(made: list[tuple[Tensor, Tensor | None]], stage: Stage, x: Tensor, z: Tensor,
             tangent: bool) -> tuple[Tensor, Tensor | None]:
    (h, w), (v, u), p = x.shape[-2:], z.shape[-2:], stage.pool
    none = x.new_zeros(0, h // p, w // p, v // p, u // p, dtype=torch.float64)
    K = torch.cat([none] + [k for k, _ in made])
    return K, torch.cat([none] + [t for _, t in made if t is not None]) if tangent else None
