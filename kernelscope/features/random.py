r"""Random Fourier features: cosines and sines whose products are a kernel of a distance.

A kernel :math:`k(x - z)` that is positive definite is the mean of :math:`\cos(w \cdot (x - z))` over its spectral
distribution (Bochner). The cosine of a difference is the product of two pairs of cosine and sine.

References:
    | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
    | On the Error of Random Fourier Features (Sutherland and Schneider, 2015)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_count, as_positive, what_came
from ..errors import DataError
from .directions import directions
from .of_vectors import OfVectors

#: Kernels whose spectral distribution is that of a normal vector times a random length.
SPECTRAL = ("gaussian", "laplacian", "matern", "cauchy")


class RandomFourier(OfVectors):
    r"""Features :math:`\sqrt{2/p}\,(\cos G x, \sin G x)` whose products are, on average, a kernel of a distance.

    .. math:: k(x, z) = E \cos(g \cdot (x - z)), \qquad g \sim \text{the spectral distribution of } k

    Cosines and sines of the same p/2 rows g, so that a point has exactly :math:`\langle\phi(x), \phi(x)\rangle = 1`.

    Args:
        size: The number of features p, an even one.
        bandwidth: The length b, or one for each coordinate; or ``"median"`` for the median distance between the
            points of ``fitted``, which ``ks.fit`` takes from its own.
        kernel: ``"gaussian"``, :math:`e^{-r^2/(2 b^2)}`; ``"laplacian"``, :math:`e^{-r/b}`; ``"matern"``; or
            ``"cauchy"``, :math:`1/(1 + r^2/b^2)`: as the classes of these names in ``ks.kernels``.
        nu: The smoothness of the Matern kernel, 0.5, 1.5 or 2.5.
        kind: How directions are drawn: ``"independent"``, ``"orthogonal"``, ``"structured"``, ``"unscaled"`` or
            ``"sobol"``.
        seed: Which ones.

    Raises:
        DataError: If an argument is none of these; on use, if the bandwidth is still to be taken from points.

    Example:
        >>> features = RandomFourier(2000, bandwidth=5.0)
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> features
        RandomFourier(2000, bandwidth=5, kind='orthogonal', seed=0)
        >>> abs(float(features.inner(x)[0, 1]) - math.exp(-1 / 2)) < 0.05
        True
        >>> RandomFourier(2000, bandwidth="median").fitted(x)
        RandomFourier(2000, bandwidth=5, kind='orthogonal', seed=0)
    """

    def __init__(self, size: int, bandwidth: float | Sequence[float] | Tensor | str | None = 1.0,
                 kernel: str = "gaussian", nu: float = 1.5, kind: str = "orthogonal", seed: int = 0):
        super().__init__(size, kind, seed)
        if as_count(size, "size", 2) % 2:
            raise DataError(f"Features come in pairs, a cosine and a sine; size={size} came. Pass size={size + 1}.")
        self.kernel = as_choice(kernel, "kernel", SPECTRAL)
        if isinstance(nu, bool) or nu not in (0.5, 1.5, 2.5):
            raise DataError(f"nu must be 0.5, 1.5 or 2.5; {what_came(nu)} came. kernel=\"gaussian\" is that of "
                            "infinite nu.")
        self.nu = float(nu)
        self.bandwidth = _lengths(bandwidth)

    def __repr__(self) -> str:
        b = self.bandwidth
        length = f"{b:.6g}" if isinstance(b, float) else repr(b) if isinstance(b, str) else f"{len(b)} lengths"
        kernel = "" if self.kernel == "gaussian" else f", kernel={self.kernel!r}"
        nu = f", nu={self.nu:g}" if self.kernel == "matern" else ""
        return (f"RandomFourier({self.size}, bandwidth={length}{kernel}{nu}, kind={self.kind!r}, seed={self.seed})")

    def fitted(self, x: Any) -> RandomFourier:
        """The map itself if it has a bandwidth, else the same map with the median distance of x.

        Args:
            x: Points.
        """
        if not isinstance(self.bandwidth, str):
            return self
        from ..kernels.bandwidth import median_bandwidth  # Kernels are made of features, and stand above them.

        return RandomFourier(self.size, median_bandwidth(self.points(x)), self.kernel, self.nu, self.kind, self.seed)

    def directions(self, d: int) -> Tensor:
        if isinstance(self.bandwidth, str):
            raise DataError("The bandwidth is still to be taken from points, and one that each call took from its own "
                            "would be another map in each. Take it from the training points once: "
                            f'RandomFourier({self.size}, bandwidth="median").fitted(x).')
        length = torch.tensor(self.bandwidth, dtype=torch.float64)
        if length.ndim and len(length) != d:
            raise DataError(f"bandwidth has {len(length)} lengths, and vectors have {d} coordinates. Pass one length, "
                            "or one for each coordinate.")
        draw = torch.Generator().manual_seed(self.seed)
        rows = directions(self.size // 2, d, self.kind, draw)
        return rows * self._stretch(len(rows), draw) / length

    def of(self, x: Tensor) -> Tensor:
        return cosines(self._project(x)) * math.sqrt(2 / self.size)

    def _stretch(self, count: int, draw: torch.Generator) -> Tensor | float:
        """What normal vectors are multiplied by to have the spectral distribution of the kernel."""
        if self.kernel == "gaussian":
            return 1.0
        if self.kernel == "cauchy":
            return _chi(count, 2, draw)
        # A vector of Student's t distribution.
        freedom = round(2 * self.nu) if self.kernel == "matern" else 1
        return math.sqrt(freedom) / _chi(count, freedom, draw)


def cosines(projected: Tensor) -> Tensor:
    r"""The cosines of numbers and then their sines: from shape (\*, r) to (\*, 2 r).

    Example:
        >>> cosines(torch.tensor([[0.0, math.pi / 2]])).round()
        tensor([[1., -0., 0., 1.]])
    """
    return torch.cat([projected.cos(), projected.sin()], -1)


def _chi(count: int, freedom: int, draw: torch.Generator) -> Tensor:
    """Lengths of normal vectors."""
    return torch.randn(count, freedom, generator=draw, dtype=torch.float64).norm(dim=1, keepdim=True)


def _lengths(bandwidth: Any) -> float | list[float] | str:
    """A length, or one for each coordinate, or the word for one that is taken from points."""
    if bandwidth is None or isinstance(bandwidth, str) and bandwidth == "median":
        return "median"
    if isinstance(bandwidth, str):
        raise DataError('bandwidth must be a positive number, one for each coordinate, or "median"; '
                        f"{what_came(bandwidth)} came. Pass for example bandwidth=1.0.")
    if isinstance(bandwidth, Tensor):
        bandwidth = bandwidth.tolist()
    if isinstance(bandwidth, Sequence) and len(bandwidth):
        return [as_positive(length, "each length of bandwidth") for length in bandwidth]
    return as_positive(bandwidth, "bandwidth")
