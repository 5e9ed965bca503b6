r"""Covariances of pairs of images through a stage, compiled for a processor.

What is written for a pair is its pooled covariance; all between stays in the cache of the thread that computes it. As
many threads are used as torch is set to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from . import lines, slices
from .angles import polynomials
from .stage import Affine, Sides, Stage, Units, constants, fields, of_points, of_variances

#: How many pairs, and how many images of either side, are prepared together.
PAIRS, IMAGES = 1024, 64

#: How many places of vectors are multiplied together.
PLACES = 128

#: Between which squared length and its inverse vectors are multiplied as they are.
LEAST = 1e-15

#: Up to what cosines lack to 1 they are taken from differences, whatever directions leave of both: the square of that
#: is a difference in double precision, which is exact enough in single precision and less so in double.
ALIKE = {torch.float32: 2e-6, torch.float64: 1e-4}

#: How many shares of the work each thread takes, one after the other, so that all end at about the same time.
SHARES = 4


def of_images(stage: Stage, x: Tensor, z: Tensor, i: Tensor, j: Tensor,
              tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    return _of_pairs(stage, lambda some: of_points(stage.layers, x[some]),
                     lambda some: of_points(stage.layers, z[some]), i, j, x.shape[-2:], x.dtype, None, None, tangent)


def of_covariances(stage: Stage, K: Tensor, T: Tensor | None, left: Tensor, right: Tensor, i: Tensor,
                   j: Tensor) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    return _of_pairs(stage, lambda some: of_variances(stage.layers, left[some]),
                     lambda some: of_variances(stage.layers, right[some]), i, j, left.shape[-2:], torch.float64, K, T,
                     T is not None)


def of_pixels(layers: Sequence[Affine], x: Tensor, z: Tensor, tangent: bool = True) -> tuple[Tensor, Tensor | None]:
    """As the package's function of that name."""
    K, T = np.zeros((len(x), len(z))), np.zeros((len(x), len(z)) if tangent else (1, 1))
    for column in range(0, len(z), IMAGES):
        far = _flat(layers, z[column:column + IMAGES])
        for row in range(0, len(x), IMAGES):
            near = _flat(layers, x[row:row + IMAGES])
            _block_of_pixels(layers, x.shape, near, far, (row, column), tangent, K, T)
    return torch.from_numpy(K), torch.from_numpy(T) if tangent else None


def units(vectors: Tensor, directions: Tensor) -> Units:
    """As the package's function of that name."""
    vectors, directions = vectors.contiguous(), directions.to(vectors).contiguous()
    squares, along = _placed(vectors, directions)
    roots = (squares / vectors.shape[1]).sqrt()
    if squares.numel() and not LEAST < float(squares.max()) < 1 / LEAST:
        # Products of vectors as they are would be beyond what numbers can hold.
        vectors = vectors * torch.where(squares > 0, squares.rsqrt(), 0.0)[:, None].to(vectors)
        squares, along = _placed(vectors, directions)
    p = torch.where(squares > 0, squares.rsqrt(), 0.0).to(vectors).double()
    # Scales are rounded, and directions not quite orthogonal: what these leave is that of both as they are.
    coordinates, wide = along * p[:, None], directions.double()
    rest = squares * p.square() - 2 * coordinates.square().sum(1) + (coordinates @ (wide @ wide.T) * coordinates).sum(1)
    return Units(vectors, p.to(vectors), along.to(vectors), coordinates.to(vectors), rest.clamp(min=0).to(vectors),
                 roots, directions)


def of_units(layers: Sequence[Affine], readout: Sequence[float], near: Units, far: Units, close: float,
             tangent: bool = True, out: Tensor | None = None) -> Tensor:
    """As the package's function of that name."""
    layers = [layer.alone for layer in layers]
    if out is None:
        out = near.vectors.new_empty(1 + tangent, len(near.vectors), len(far.vectors))
    K, T = out[0], out[-1]
    _products(near, far, K)
    told = _constants(layers, K.dtype)
    (rows, near_end), (columns, far_end) = (_alone(layers, side.roots, K.dtype) for side in (near, far))
    (u, p, own, rest), (v, q, other, beyond) = (
        [part.numpy() for part in (side.vectors, side.scales, side.coordinates, side.squares)] for side in (near, far))
    k, t, other = K.numpy(), T.numpy(), np.ascontiguousarray(other.T)
    kind = k.dtype.type
    numbers, least = tuple(kind(number) for number in readout), kind(ALIKE[K.dtype])

    def work(begin: int, end: int) -> None:
        lines.of_units(k, t, u, v, p, q, own, other, rest, beyond, rows, columns, near_end, far_end, begin, end,
                       kind(close), least, told.layers, len(layers), tangent, told.angle, told.bend, numbers)

    _shared_out(len(k), work)
    return out


def _placed(vectors: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Squared lengths and products with directions, in double precision."""
    x, e = vectors.numpy(), directions.double().numpy()
    squares, along = np.empty(len(x)), np.empty((len(x), len(e)))
    _shared_out(len(x), lambda begin, end: lines.placed(x, e, squares, along, begin, end))
    return torch.from_numpy(squares), torch.from_numpy(along)


def _products(near: Units, far: Units, out: Tensor) -> None:
    """Products of what directions leave, some places of all at a time: long sums would be rounded more."""
    for first in range(0, near.vectors.shape[1], PLACES):
        some = slice(first, first + PLACES)
        a, b = (torch.addmm(side.vectors[:, some], side.along, side.directions[:, some], alpha=-1)
                for side in (near, far))
        torch.addmm(out, a, b.T, beta=1 if first else 0, out=out)


class Constants(NamedTuple):
    """Numbers of the layers in the precision of the loops, so that no loop widens them.

    Attributes:
        sides: The sides of the filters.
        layers: For each layer, in the order in which the loops read them, with shape (L, 11); one row where L is 0.
        angle: Coefficients of the polynomial for an angle.
        bend: Coefficients of the one for its bend.
    """

    sides: np.ndarray
    layers: np.ndarray
    angle: tuple[Any, ...]
    bend: tuple[Any, ...]


def _constants(layers: Sequence[Affine], dtype: torch.dtype) -> Constants:
    kind = np.float32 if dtype == torch.float32 else np.float64
    angle, bend = (tuple(kind(c) for c in series) for series in polynomials(dtype))
    sides = np.array([layer.side for layer in layers], np.int64)
    return Constants(sides, np.array(constants(layers), kind), angle, bend)


def _reach(layers: Sequence[Affine]) -> int:
    return max((layer.side // 2 for layer in layers), default=0)


def _flat(layers: Sequence[Affine], x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Fields and last roots with nought around, rows after rows; with a row more, since windows of rows begin early."""
    sides, reach = of_points(layers, x), _reach(layers)
    around, beyond = (0, reach, reach + 1, reach + 1), (0, slices.BEYOND)
    return (pad(pad(fields(sides), around).flatten(-2), beyond).numpy(),
            pad(pad(sides.end, around).flatten(-2), beyond).numpy())


def _alone(layers: Sequence[Affine], root: Tensor, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Fields of vectors, with shape (1 + 3 L, n) and room behind each, and their last roots."""
    sides = of_variances(layers, root.square()[:, None, None])
    taps, roots, inverse = (values[:, :, 0, 0] for values in (sides.taps, sides.roots, sides.inverse))
    bias = torch.tensor([layer.bias for layer in layers], dtype=torch.float64) * inverse.square()
    # Taps over roots are 1 without a bias, and what they are short of it is small with a small one: no difference is.
    taps = torch.where(bias < 1 / 2, (1 - bias).clamp(min=0).sqrt() * (roots > 0), taps * inverse)
    short = torch.where(bias < 1 / 2, bias / (1 + taps), 1 - taps)
    told = torch.cat((short[:, :1], torch.stack((taps, roots, inverse), 2).flatten(1)), 1).T.to(dtype)
    return pad(told.contiguous(), (0, slices.BEYOND)).numpy(), sides.end[:, 0, 0].to(dtype).numpy()


def _block_of_pixels(layers: Sequence[Affine], shape: torch.Size, near: tuple[np.ndarray, np.ndarray],
                     far: tuple[np.ndarray, np.ndarray], first: tuple[int, int], tangent: bool, K: np.ndarray,
                     T: np.ndarray) -> None:
    (_, channels, height, width), reach = shape, _reach(layers)
    told = _constants(layers, torch.from_numpy(near[0]).dtype)

    def work(begin: int, end: int) -> None:
        lines.of_pixels(near[0], far[0], near[1], far[1], begin, end, *first, channels, told.sides, told.layers, reach,
                        width + reach, height * width, tangent, told.angle, told.bend, K, T)

    _shared_out(len(near[0]), work)


def _of_pairs(stage: Stage, near: Callable[[Tensor], Sides], far: Callable[[Tensor], Sides], i: Tensor, j: Tensor,
              size: torch.Size, dtype: torch.dtype, K: Tensor | None, T: Tensor | None,
              tangent: bool) -> tuple[Tensor, Tensor | None]:
    (height, width), p = size, stage.pool
    shape = len(i), height // p, width // p, height // p, width // p
    pooled = np.zeros(shape), np.zeros(shape if tangent else (len(i), 1, 1, 1, 1))
    for first in range(0, len(i), PAIRS):
        some = slice(first, first + PAIRS)
        given = None if K is None else (K[some], K[some] if T is None else T[some])
        _block_of_pairs(stage, near, far, i[some], j[some], dtype, given, tangent, pooled[0][some], pooled[1][some])
    return torch.from_numpy(pooled[0]), torch.from_numpy(pooled[1]) if tangent else None


def _block_of_pairs(stage: Stage, near: Callable[[Tensor], Sides], far: Callable[[Tensor], Sides], i: Tensor,
                    j: Tensor, dtype: torch.dtype, given: tuple[Tensor, Tensor] | None, tangent: bool,
                    outK: np.ndarray, outT: np.ndarray) -> None:
    told, reach = _constants(stage.layers, dtype), _reach(stage.layers)
    (x, x_end, channels, at), (z, z_end, _, to) = (_padded(side, some, reach, stage.pool)
                                                   for side, some in ((near, i), (far, j)))
    nothing = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    k, t = (part.double().contiguous().numpy() for part in given or (nothing, nothing))

    def work(begin: int, end: int) -> None:
        own = slice(begin, end) if given else slice(None)
        slices.of_pairs(x, z, x_end, z_end, at[begin:end], to[begin:end], channels, told.sides, told.layers, reach,
                        stage.pool, k[own], t[own], given is not None, tangent, told.angle, told.bend,
                        outK[begin:end], outT[begin:end])

    _shared_out(len(i), work)


def _padded(side: Callable[[Tensor], Sides], numbers: Tensor, reach: int,
            pool: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Fields with nought around and pooled last roots of the images that pairs name, and where each finds its own."""
    chosen, places = numbers.unique(return_inverse=True)
    found = side(chosen)
    return (pad(fields(found), (reach,) * 4).numpy(), avg_pool2d(found.end, pool).numpy(), found.units.shape[1],
            places.numpy())


def _shared_out(count: int, work: Callable[[int, int], None]) -> None:
    """Work from 0 to ``count``, by as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    each = -(-count // (threads * SHARES))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, k, min(k + each, count)) for k in range(0, count, each)]:
            done.result()
