"""Points as vectors: one row of numbers for each, whatever shape it came in."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError, NonFiniteError


def read(points: Points, rows: slice) -> Tensor:
    """Some points, each with its own shape.

    Raises:
        DataError: If a point is more than one tensor of real numbers.
        NonFiniteError: If one of them is infinite.
    """
    part = points.part(rows.start, rows.stop)
    entries = (*part.args, *part.kwargs.values())
    if len(entries) != 1 or not isinstance(entries[0], Tensor):
        raise DataError(
            f"A kernel of vectors takes one tensor for each point, and {len(entries)} entries came, "
            f"{', '.join(type(entry).__name__ for entry in entries)}. Pass the one that distances are taken of."
        )
    return checked(entries[0], rows.start)


def checked(x: Tensor, first: int = 0) -> Tensor:
    """Points in a precision that kernels are computed in: whole numbers and half precision in a finer one."""
    if x.is_complex() or x.ndim == 0 or not x.numel():
        raise DataError(
            f"A kernel of vectors takes at least one point of real numbers; {x.dtype} of shape {tuple(x.shape)} came. "
            "Pass a tensor with one row for each point."
        )
    if not x.is_floating_point():
        return x.to(torch.get_default_dtype())
    # The sum is quickly taken, and says enough in nearly all cases.
    if not bool(x.sum().isfinite()) and not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0])
        raise NonFiniteError(f"Point {first + bad} holds NaN or an infinite value. Remove such points, or mend them.")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def flat(x: Tensor) -> Tensor:
    """One row of numbers for each point."""
    return x.reshape(len(x), -1)


def common(x: Tensor, z: Tensor) -> torch.dtype:
    """The precision that two sets of points are computed in.

    Raises:
        DataError: If their points are not vectors of one length.
    """
    if x[0].numel() != z[0].numel():
        raise DataError(
            f"A kernel compares points of one size: those of x have shape {tuple(x.shape[1:])}, those of z "
            f"{tuple(z.shape[1:])}. Pass points with as many numbers on both sides."
        )
    return torch.promote_types(x.dtype, z.dtype)
