"""Points that are asked to be of the kind of others."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..arguments import what_came
from ..errors import DataError


def points_like(points: Any, real: Tensor, name: str, least: int = 1) -> Tensor:
    """Checks that points have the shape of the real ones, and brings them to their precision and place.

    Args:
        points: What came.
        real: The real points, samples first.
        name: What it is called.
        least: How many points it must hold.

    Raises:
        DataError: If it holds something else.

    Example:
        >>> import torch
        >>> points_like(torch.zeros(2, 3), torch.zeros(5, 3, dtype=torch.float64), "held_out").dtype
        torch.float64
    """
    if not isinstance(points, Tensor) or points.shape[1:] != real.shape[1:] or len(points) < least:
        came = f"one of shape {tuple(points.shape)}" if isinstance(points, Tensor) else what_came(points)
        many = f" and {least} points or more" if least > 1 else ""
        raise DataError(f"{name} must be a tensor of points of shape {tuple(real.shape[1:])}, those of training,"
                        f"{many}; {came} came. Bring them to the same shape and scale.")
    return points.detach().to(real)
