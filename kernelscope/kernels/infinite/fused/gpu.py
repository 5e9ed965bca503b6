r"""Covariances of pairs of images through a stage, by Triton programs on a GPU.

A program takes one slice of a pair through all layers and writes it; slices are then put in their places and pooled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .angles import polynomials
from .stage import Affine, Sides, Stage, constants, fields, of_points, of_variances

#: How many numbers the slices of the pairs that are computed together may fill.
ROOM = 2**27

#: How many entries of a row a program takes.
ENTRIES = 1024


def of_images(stage: Stage, x: Tensor, z: Tensor, i: Tensor, j: Tensor,
              tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    return _of_pairs(stage, of_points(stage.layers, x), of_points(stage.layers, z), i, j, None, None, tangent)


def of_covariances(stage: Stage, K: Tensor, T: Tensor | None, left: Tensor, right: Tensor, i: Tensor,
                   j: Tensor) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    near, far = of_variances(stage.layers, left), of_variances(stage.layers, right)
    return _of_pairs(stage, near, far, i, j, K.double().contiguous(), None if T is None else T.double().contiguous(),
                     T is not None)


def of_pixels(layers: Sequence[Affine], x: Tensor, z: Tensor, tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    near, far = of_points(layers, x), of_points(layers, z)
    K = x.new_empty(len(x), len(z), dtype=torch.float64)
    T = torch.empty_like(K) if tangent else None
    if K.numel():
        _launched(layers, near, far, None, None, None, T is not None, K, T, (K.numel(), 1), len(z))
    return K, T


def of_vectors(layers: Sequence[Affine], lack: Tensor, a: Tensor, b: Tensor,
               tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    from . import programs

    layers = [layer.alone for layer in layers]
    near, far = (of_variances(layers, root.double().square()[:, None, None], lack.dtype) for root in (a, b))
    rows, columns = (fields(sides)[:, 1:, 0, 0].T.contiguous() for sides in (near, far))
    near_end, far_end = (sides.end[:, 0, 0].to(lack.dtype) for sides in (near, far))
    K = lack.contiguous()
    T, (n, m) = torch.empty_like(K) if tangent else None, K.shape
    _, numbers, series = _told(layers, lack)
    if K.numel():
        with torch.cuda.device_of(K):
            programs.vectors[n, -(-m // ENTRIES)](
                K, K if T is None else T, rows, columns, near_end, far_end, numbers, series, n, m, len(layers),
                series.shape[1], TANGENT=tangent, B=ENTRIES)
    return K, T


def _of_pairs(stage: Stage, near: Sides, far: Sides, i: Tensor, j: Tensor, K: Tensor | None, T: Tensor | None,
              tangent: bool) -> tuple[Tensor, Tensor | None]:
    (height, width), device = near.start.shape[-2:], near.start.device
    size, kind = height * width, near.start.dtype
    both: list[tuple[Tensor, Tensor | None]] = []
    each = max(1, ROOM // size**2)
    for first in range(0, max(len(i), 1), each):
        some = slice(first, first + each)
        pairs = i[some].to(device), j[some].to(device)
        givenK, givenT = None if K is None else K[some], None if T is None else T[some]
        slices = torch.empty(len(pairs[0]), height, width, height, width, dtype=torch.float64, device=device)
        inner = torch.empty_like(slices, dtype=kind) if tangent else None
        if len(pairs[0]):
            _launched(stage.layers, near, far, pairs, givenK, givenT, tangent, slices, inner, (len(pairs[0]), size), 1)
        both.append((_pooled(slices, stage.pool), None if inner is None else _pooled(inner, stage.pool)))
    return torch.cat([k for k, _ in both]), torch.cat([t for _, t in both if t is not None]) if tangent else None


def _launched(layers: Sequence[Affine], near: Sides, far: Sides, pairs: tuple[Tensor, Tensor] | None, K: Tensor | None,
              T: Tensor | None, tangent: bool, outK: Tensor, outT: Tensor | None, grid: tuple[int, int],
              columns: int) -> None:
    # Imported here, since triton is no part of what the package needs.
    import triton
    import triton.language as tl

    from . import programs

    (height, width), channels = near.start.shape[-2:], near.units.shape[1]
    sides, numbers, series = _told(layers, near.start)
    i, j = pairs or (sides, sides)
    # The sides of what a GPU multiplies as matrices are at least 16.
    blocks = {"BH": max(16, triton.next_power_of_2(height)), "BW": max(16, triton.next_power_of_2(width))}
    # A program starts on the GPU that is current, which need not be the one that holds the images.
    with torch.cuda.device_of(outK):
        programs.stage[grid](
            fields(near), fields(far), near.end.contiguous(), far.end.contiguous(), i, j, sides, numbers, series,
            outK if K is None else K, outK if T is None else T, outK, outK if outT is None else outT, height, width,
            channels, len(layers), series.shape[1], columns, WHOLE=pairs is not None, GIVEN=K is not None,
            TANGENT=tangent, KIND=tl.float32 if numbers.dtype == torch.float32 else tl.float64, **blocks)


def _told(layers: Sequence[Affine], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sides of the filters, the numbers of the layers, and two rows of coefficients."""
    return (torch.tensor([layer.side for layer in layers] or [1], device=like.device),
            like.new_tensor(constants(layers)), like.new_tensor(polynomials(like.dtype)))


def _pooled(slices: Tensor, p: int) -> Tensor:
    """Covariances of pixels from slices, with shape (n, H, W, H, W) for offsets and pixels, as means over blocks."""
    n, height, width = slices.shape[:3]
    if p == height == width:
        return slices.double().mean((1, 2, 3, 4), keepdim=True)
    h, w = (torch.arange(length, device=slices.device) for length in (height, width))
    rows, columns = (h[None, :] - h[:, None]) % height, (w[None, :] - w[:, None]) % width
    whole = slices[:, rows[:, None, :, None], columns[None, :, None, :], h[:, None, None, None],
                   w[None, :, None, None]]
    blocks = whole.reshape(n, height // p, p, width // p, p, height // p, p, width // p, p)
    return blocks.mean((2, 4, 6, 8), dtype=torch.float64)
