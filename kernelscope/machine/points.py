"""Centers: points that are kept, as the tensors they are made of.

A point may be one tensor, several that a network takes by position, or several that it takes by name; p of them are
then a tensor, a tuple of tensors, or a dictionary of tensors, each with p rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError


def in_memory(points: Points) -> Any:
    """The points as tensors of their own, which no later change of the user's tensors reaches.

    Raises:
        DataError: If they are not tensors.
    """
    part = points.part(0, len(points))
    if part.kwargs:
        if part.args:
            raise DataError("Centers are taken by position or by name, and these are both. Pass a dictionary.")
        return {name: _copied(value) for name, value in part.kwargs.items()}
    return _copied(part.args[0]) if len(part.args) == 1 else tuple(_copied(value) for value in part.args)


def joined(one: Any, other: Any) -> Any:
    """Centers one after the other.

    Raises:
        DataError: If their points are not of one shape.
    """
    try:
        if isinstance(one, dict):
            return {name: torch.cat([value, other[name].to(value.device)]) for name, value in one.items()}
        if isinstance(one, tuple):
            return tuple(torch.cat([a, b.to(a.device)]) for a, b in zip(one, other, strict=True))
        return torch.cat([one, other.to(one.device)])
    # What joining says of centers that do not go together.
    except (RuntimeError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise DataError(f"The centers of the two do not go together ({error}). Use points of one shape.") from error


def equal(one: Any, other: Any) -> bool:
    """Whether centers are the same points in the same order."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    both = isinstance(one, tuple) and isinstance(other, tuple)
    return both and len(one) == len(other) and all(map(equal, one, other))


def _copied(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise DataError(f"A center is a tensor, or several; an entry of one is a {type(value).__name__}. Pass tensors.")
    return value.detach().clone()
