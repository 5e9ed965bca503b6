r"""What maps of vectors by random directions share: they read points as rows of numbers, and draw when they know d.

Such a map is plain numbers: how many features, of which kind, and a seed. Its directions are drawn when the first
points say how many coordinates they have, with a generator of its own, and always the same ones.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_seed
from ..data.points import Points
from ..errors import DataError, NonFiniteError
from .base import FeatureMap, points_between
from .directions import KINDS, directions


class OfVectors(FeatureMap):
    r"""A map of vectors :math:`x \in \mathbb R^d` through their products with random directions.

    Args:
        size: The number of features.
        kind: How directions are drawn, see ``directions``.
        seed: Which ones.
    """

    def __init__(self, size: int, kind: str, seed: int):
        self.size = as_count(size, "size", 1)
        self.kind, self.seed = as_choice(kind, "kind", KINDS), as_seed(seed)
        self._drawn: dict[Any, Tensor] = {}

    def phi(self, x: Any) -> Tensor:
        points = self.points(x)
        return self.of(rows_of(points))

    def coordinates_of(self, x: Any) -> int | None:
        # Directions are drawn for as many coordinates as come, and those of another number are other ones.
        return rows_of(points_between(self.points(x), 0, 1)).shape[1]

    @abstractmethod
    def of(self, x: Tensor) -> Tensor:
        r"""The features of a tensor with shape (\*, d), in its precision and with its gradients: shape (\*, p)."""

    def directions(self, d: int) -> Tensor:
        """The directions for vectors of d coordinates, in double precision, one in each row."""
        return directions(self.size, d, self.kind, self.seed)

    def _for(self, x: Tensor) -> Tensor:
        """The directions, where and as the vectors are."""
        key = x.shape[-1], x.dtype, x.device
        if key not in self._drawn:
            # Kept ones are to serve calls with gradients too.
            with torch.inference_mode(False), torch.no_grad():
                self._drawn[key] = self.directions(x.shape[-1]).to(x.device, x.dtype)
        return self._drawn[key]

    def _project(self, x: Tensor) -> Tensor:
        check_vectors(x)
        return x @ self._for(x).T


def rows_of(points: Points) -> Tensor:
    """Points as rows of numbers, in a precision that features are computed in.

    Raises:
        DataError: If a point is more than one tensor of real numbers.
        NonFiniteError: If a point is not finite.
    """
    part = points.part(0, len(points))
    entries = (*part.args, *part.kwargs.values())
    if len(entries) != 1 or not isinstance(entries[0], Tensor) or entries[0].is_complex():
        raise DataError(
            f"A map of vectors takes one tensor of real numbers for each point, and {len(entries)} entries came, "
            f"{', '.join(type(entry).__name__ for entry in entries)}. Pass the one that features are made of."
        )
    rows = entries[0].reshape(len(points), -1)
    bad = (~rows.isfinite()).any(1).nonzero()
    if len(bad):
        # Minus infinity came this far: masks hold it, vectors do not.
        raise NonFiniteError(f"Point {int(bad[0])} of {len(rows)} holds NaN or an infinite value, and a map of vectors "
                             "has no features of it. Mend it, or leave it out.")
    if not rows.is_floating_point():
        return rows.to(torch.get_default_dtype())
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def check_vectors(x: Tensor) -> None:
    """Whether something is a tensor of vectors.

    Raises:
        DataError: If it is none.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim == 0 or not x.shape[-1]:
        kind = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise DataError(f"Features are made of a tensor of real numbers, one vector in each row; {kind} came. "
                        "Use torch.as_tensor(x, dtype=torch.float32).")


def exponential(exponents: Tensor, remedy: str) -> Tensor:
    r""":math:`e^t`, or a refusal where it is beyond all numbers of this precision, or nought for a whole row.

    Raises:
        NonFiniteError: If it is.
    """
    most = torch.finfo(exponents.dtype).max
    found = exponents.exp()
    if found.numel() and not float(found.detach().abs().max()) <= most:
        raise NonFiniteError(f"A feature would be e^{float(exponents.detach().max()):.0f}, which {exponents.dtype} "
                             f"cannot hold: the vectors are too long. {remedy}")
    if found.numel():
        lost = found.detach().amax(-1) < torch.finfo(found.dtype).tiny
        if bool(lost.any()):
            raise NonFiniteError(
                f"All features of {int(lost.sum())} of {lost.numel()} vectors vanish: the largest of one would be "
                f"e^{float(exponents.detach().amax(-1).min()):.0f}, for which {exponents.dtype} has no digits. The "
                f"vectors are too long, and products with them would be nought. {remedy}")
    return found
