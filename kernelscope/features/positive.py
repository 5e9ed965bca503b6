r"""Positive random features: exponentials whose products are :math:`e^{x \cdot z}`, the kernel of attention.

Every feature is positive, so no sum of them loses its leading digits where the kernel is small, as sums of cosines do.

References:
    | Rethinking Attention with Performers (Choromanski et al., 2021), FAVOR+
    | Chefs' Random Tables: Non-Trigonometric Random Features (Likhosherstov et al., 2022), FAVOR++
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..arguments import as_positive, as_switch, what_came
from ..errors import DataError
from .moments import best_A
from .of_vectors import OfVectors, exponential, rows_of


class PositiveFeatures(OfVectors):
    r"""Features whose products are, on average, :math:`e^{x \cdot z / b^2}` or :math:`e^{-|x - z|^2 / (2 b^2)}`.

    .. math:: \phi_j(x) = p^{-1/2} (1 + 4A)^{d/4}
              \exp\big(-A |g_j|^2 + \sqrt{1 + 4A}\, g_j \cdot x / b - |x|^2 / (2 b^2)\big),

    and times :math:`e^{-|x|^2/(2 b^2)}` for the Gaussian kernel. With A = 0 they are those of FAVOR+; with A > 0 each
    feature is bounded (FAVOR++).

    Args:
        size: The number of features p.
        A: A number above -1/4 (the variance is finite above -1/8); ``None`` for 0; or ``"best"`` for the one with the
            least variance on the points of ``fitted``.
        gaussian: Whether the kernel is the Gaussian one.
        bandwidth: The length b.
        kind: How directions are drawn: ``"independent"``, ``"orthogonal"``, ``"structured"``, ``"unscaled"`` or
            ``"sobol"``.
        seed: Which ones.

    Raises:
        DataError: If an argument is none of these; on use, if A is still to be taken from points.
        NonFiniteError: On use, if a feature is too large a number, or all features of a point are too small ones.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.6, 0.0], [0.0, 0.8]])
        >>> features = PositiveFeatures(4000, A="best").fitted(x)
        >>> features
        PositiveFeatures(4000, A=0.25, kind='orthogonal', seed=0)
        >>> (features.inner(x) - (x @ x.T).exp()).abs().max() < 0.1
        tensor(True)
    """

    def __init__(self, size: int, A: float | str | None = None, gaussian: bool = False, bandwidth: float = 1.0,
                 kind: str = "orthogonal", seed: int = 0):
        super().__init__(size, kind, seed)
        self.A = _tilt(A)
        self.gaussian, self.bandwidth = as_switch(gaussian, "gaussian"), as_positive(bandwidth, "bandwidth")

    def __repr__(self) -> str:
        A = "'best'" if self.A == "best" else f"{self.A:.3g}"
        gaussian = ", gaussian=True" if self.gaussian else ""
        length = "" if self.bandwidth == 1 else f", bandwidth={self.bandwidth:.6g}"
        return f"PositiveFeatures({self.size}, A={A}{gaussian}{length}, kind={self.kind!r}, seed={self.seed})"

    def fitted(self, x: Any, z: Any = None) -> PositiveFeatures:
        r"""The map itself if A is a number, else the same map with the best one for these points.

        It has the least second moment for the mean of :math:`|x + z|^2 / b^2` over all pairs.

        Args:
            x: Points.
            z: Points that they are multiplied with; without them, x.
        """
        if self.A != "best":
            return self
        left = rows_of(self.points(x)).double() / self.bandwidth
        right = left if z is None else rows_of(self.points(z)).double() / self.bandwidth
        s = (left.square().sum(1).mean() + right.square().sum(1).mean() + 2 * left.mean(0) @ right.mean(0))
        return PositiveFeatures(self.size, float(best_A(s, left.shape[1])), self.gaussian, self.bandwidth, self.kind,
                                self.seed)

    def of(self, x: Tensor) -> Tensor:
        if isinstance(self.A, str):
            raise DataError("A is still to be taken from points, and one that each call took from its own would be "
                            f"another map in each. Take it once: PositiveFeatures({self.size}, A=\"best\").fitted(x).")
        products = self._project(x / self.bandwidth)
        squares = self._for(x).square().sum(1)
        own = x.square().sum(-1, keepdim=True) / self.bandwidth**2
        d, grown = x.shape[-1], 1 + 4 * self.A
        exponents = math.sqrt(grown) * products - self.A * squares - own * (1.0 if self.gaussian else 0.5)
        # The factor by itself may be beyond all numbers: it goes with what it is multiplied by.
        exponents = exponents + (d / 4 * math.log(grown) - math.log(self.size) / 2)
        return exponential(exponents, "Divide them, raise bandwidth, or pass " + (
            "points in double precision." if self.gaussian else "gaussian=True or a larger A."))


def _tilt(A: Any) -> float | str:
    if A is None or A == "best":
        return 0.0 if A is None else "best"
    if isinstance(A, bool) or not isinstance(A, int | float) or not -0.25 < A < math.inf:
        raise DataError(f'A must be a number above -1/4, None or "best"; {what_came(A)} came. Pass for example '
                        'A="best", and points to .fitted(x).')
    return float(A)
