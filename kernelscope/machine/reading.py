"""What a machine is fitted to, read and looked over once, so that nothing is wrong with it after hours of work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_seed, as_whole, what_came
from ..budget import as_words
from ..data.columns import columns_of, is_column
from ..data.points import Part, Points, as_points
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..kernels.base import Kernel
from .checking import known
from .points import in_memory

#: About how many bytes of points are looked at together.
PIECE = 2**24


def points_and_targets(kernel: Kernel, x: Any, y: Any) -> tuple[Points, Tensor]:
    """Points, and their targets with shape (n,) or (n, c).

    Args:
        kernel: The kernel that takes the points.
        x: The points; without y, what gives points with their targets.
        y: The targets.

    Raises:
        DataError: If they do not fit together.
        NonFiniteError: If a target is NaN or infinite.
    """
    if y is None:
        both = as_points(x, targets=True)
        targets = torch.cat([_one(part.targets) for _, part in parts(both)])
        return Points(len(both), lambda numbers: _alone(both, numbers)), checked_targets(targets, len(both))
    points = kernel.points(x)
    if not isinstance(y, Tensor) and not is_column(y):
        try:
            y = np.asarray(y)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"Targets are a tensor or an array with one row for each point; {what_came(y)} came. Use "
                            "torch.as_tensor(y).") from error
    columns = columns_of(y)
    if not isinstance(columns, list) or len(columns) != 1:
        raise DataError("Targets are one array; a file of several came. Pass the one.")
    _check_count(columns[0].shape, len(points))
    return points, checked_targets(columns[0].rows(range(len(points))), len(points))


def checked_targets(y: Tensor, n: int) -> Tensor:
    """Targets as real numbers, finite, with shape (n,) or (n, c)."""
    _check_count(y.shape, n)
    if y.ndim > 2 or y.is_complex() or (y.ndim == 2 and not y.shape[1]):
        raise DataError(f"Targets have shape (n,) or (n, c) and are real numbers; {y.dtype} of shape {tuple(y.shape)} "
                        "came. Use y.flatten(1) to fit every number of a target.")
    y = y.detach()
    if y.is_floating_point() and not bool(y.isfinite().all()):
        bad = int((~y.isfinite()).reshape(n, -1).any(1).nonzero()[0])
        raise NonFiniteError(f"Target {bad} is NaN or infinite. Remove such points, or mend them.")
    return y


def validation_of(kernel: Kernel, given: Any, targets: Tensor) -> tuple[Points, Tensor] | None:
    """Points and targets to measure an error on, looked over.

    Raises:
        DataError: If their targets are not of the outputs that are fitted.
    """
    if given is None:
        return None
    x, y = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    points, found = points_and_targets(kernel, x, y)
    if found.shape[1:] != targets.shape[1:]:
        raise DataError(f"Validation targets have shape {tuple(found.shape)}, and those to fit {tuple(targets.shape)}. "
                        "Pass targets of the same outputs.")
    look_over(kernel, points, None)
    return points, found


def checked_weights(weights: Any, n: int) -> Tensor | None:
    """Weights divided by their mean, with shape (n,) in float64; ``None`` where all are the same.

    Raises:
        DataError: If there is not one for each point, or one is negative, or all are nought.
        NonFiniteError: If one is NaN or infinite.
    """
    if weights is None:
        return None
    w = read_weights(weights, n)
    if not bool((w > 0).any()):
        raise DataError("All weights are nought, so nothing is left to fit. Give some points a weight.")
    # Their sum may be more than a number can be, or less.
    w = w / w.max()
    return None if bool((w == w[0]).all()) else w / w.mean()


def read_weights(weights: Any, n: int) -> Tensor:
    """Weights as they are, with shape (n,) in float64.

    Raises:
        DataError: If there is not one for each point, or one is negative.
        NonFiniteError: If one is NaN or infinite.
    """
    try:
        # A column of a table may count its rows in a way of its own.
        read = torch.as_tensor(weights.to_numpy(copy=True) if hasattr(weights, "to_numpy") else weights).detach()
        if read.is_meta or read.layout != torch.strided:
            raise TypeError("a tensor without values, or a sparse one")
        w = (read.real if read.is_complex() else read).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"Weights are numbers, one for each point; {what_came(weights)} came. Pass {n}.") from error
    if isinstance(weights, np.ma.MaskedArray) or read.is_complex():
        what = "a masked array" if isinstance(weights, np.ma.MaskedArray) else "complex numbers"
        raise DataError(f"Weights are real numbers, one for each point; {what} came. Leave out points that have none.")
    if w.shape != (n,):
        raise DataError(f"Weights are one number for each of the {n} points; shape {tuple(w.shape)} came. Pass shape "
                        f"({n},).")
    if not bool(w.isfinite().all()):
        raise NonFiniteError(f"Weight {int((~w.isfinite()).nonzero()[0])} is NaN or infinite. Mend the weights.")
    if bool((w < 0).any()):
        raise DataError(f"Weight {int((w < 0).nonzero()[0])} is negative, and an error cannot count less than nothing. "
                        "Pass weights from 0 on.")
    return w


def checked_ridges(ridge: Any) -> tuple[float, ...]:
    """The ridges, one or several.

    Raises:
        DataError: If one is negative, NaN, infinite or no number, or comes twice.
    """
    several = ridge.tolist() if isinstance(ridge, Tensor) or hasattr(ridge, "tolist") else ridge
    several = list(several) if isinstance(several, Sequence) and not isinstance(several, str) else [several]
    if not several:
        raise DataError("There is no ridge: an empty list came. Pass ridge=0.0 for none.")
    found = []
    for value in several:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise DataError(f"A ridge is a number from 0 on; {what_came(value)} came. Pass for example ridge=1e-6.")
        try:
            found.append(float(value))
        except OverflowError as error:
            raise DataError("A ridge is beyond what a number can be. Pass for example ridge=1e-6.") from error
    if len(set(found)) < len(found):
        raise DataError(f"A ridge came twice, in {found}. Pass each once.")
    return tuple(found)


def centers_of(kernel: Kernel, points: Points, centers: Any, seed: int, memory: int) -> Any:
    """The centers as tensors: all points, some of them, or others.

    Raises:
        DataError: If more are asked for than there are points.
        OutOfBudget: If they do not fit into memory.
    """
    n, count = len(points), as_whole(centers)
    if count is not None:
        if not 1 <= count <= n:
            raise DataError(f"centers={count} were asked for, and there are {n:,} points to take them from. Pass a "
                            f"number from 1 to {n}, or centers of your own.")
        if count < n:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(as_seed(seed)))
            points = points.chosen(order[:count].sort().values.tolist())
    elif centers is not None:
        if isinstance(centers, bool | str):
            raise DataError(f"centers are None for all points, a number of them, or points; {what_came(centers)} came.")
        points = kernel.points(centers)
    needed = len(points) * size_of(points)
    if needed > memory:
        raise OutOfBudget(f"{len(points):,} centers take {as_words(needed)}, and memory allows {as_words(memory)}. "
                          "Take fewer centers, or raise memory.")
    if centers is not None and count is None:
        look_over(kernel, points, None)
    return in_memory(points)


def look_over(kernel: Kernel, points: Points, digest: Any) -> None:
    """Reads all points once, so that what is wrong with one is said before the work; and tells the digest of them.

    Raises:
        NonFiniteError: If a point holds NaN, or an infinite value that its kernel cannot take.
    """
    for rows, part in parts(points):
        for value in (*part.args, *part.kwargs.values()):
            if not isinstance(value, Tensor):
                continue
            if known(kernel) and value.is_floating_point() and not bool(value.sum().isfinite()):
                bad = (~value.isfinite()).reshape(len(value), -1).any(1).nonzero()
                if len(bad):
                    raise NonFiniteError(f"Point {rows.start + int(bad[0])} holds NaN or an infinite value. Remove "
                                         "such points, or mend them.")
            if digest is not None:
                digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
                digest.update(in_bytes(value))


def parts(points: Points) -> Iterator[tuple[slice, Part]]:
    """The points, some at a time."""
    step = max(1, PIECE // size_of(points))
    for i in range(0, len(points), step):
        rows = slice(i, min(i + step, len(points)))
        yield rows, points.part(rows.start, rows.stop)


def size_of(points: Points) -> int:
    """The bytes of a point."""
    part = points.part(0, 1)
    return max(1, sum(t.nbytes for t in (*part.args, *part.kwargs.values()) if isinstance(t, Tensor)))


def in_bytes(t: Tensor) -> Any:
    """The bytes of a tensor, for a checksum."""
    return t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def digest_of(*tensors: Tensor | None) -> str:
    """A checksum of tensors."""
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(b"none" if t is None else f"{t.dtype} {tuple(t.shape)}".encode())
        if t is not None:
            digest.update(in_bytes(t))
    return digest.hexdigest()


def _alone(both: Points, numbers: Sequence[int]) -> Part:
    return both.chosen(numbers).part(0, len(numbers))._replace(targets=None)


def _one(targets: Any) -> Tensor:
    if not isinstance(targets, Tensor):
        raise DataError(f"Each point has one target here; {what_came(targets)} came. Pass y beside x.")
    return targets


def _check_count(shape: Sequence[int], n: int) -> None:
    if not len(shape) or shape[0] != n:
        raise DataError(f"There are {n:,} points, and targets of shape {tuple(shape)} came. Pass one row for each.")
