r"""Bandwidths: the length that distances are measured by."""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_seed, what_came
from ..data.points import as_points
from ..errors import DataError
from .closed_form import ClosedForm
from .distances import Side, by_difference
from .vectors import read

#: The smallest length whose square is a number.
LEAST = 1e-150

Self = TypeVar("Self", bound="WithBandwidth")


def median_bandwidth(x: Any, points: int = 1000, seed: int = 0) -> float:
    r"""The median distance :math:`|x_i - x_j|` between two different points of a sample.

    Args:
        x: Points.
        points: How many of them are compared, at most; the same ones in every call.
        seed: Which ones these are.

    Raises:
        DataError: If there is only one point, or if all points of the sample are the same; or if the seed is none.

    References:
        | Large sample analysis of the median heuristic (Garreau et al., 2017)

    Example:
        >>> median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]]))
        2.0
    """
    some = as_points(x)
    if len(some) > points:
        order = torch.randperm(len(some), generator=torch.Generator().manual_seed(as_seed(seed)))
        some = some.chosen(order[:points].sort().values.tolist())
    vectors = read(some, slice(0, len(some))).flatten(1).double()
    gaps = by_difference(vectors, vectors).cpu().numpy()[np.triu_indices(len(vectors), 1)]
    # Where most points are copies of others, the distances between copies say nothing.
    found = float(np.median(gaps)) if len(gaps) else 0.0
    found = found if found > 0 or not gaps.any() else float(np.median(gaps[gaps > 0]))
    if not found > 0:
        raise DataError(
            f"A bandwidth is the median distance between different points, and {len(vectors)} came, all at one place. "
            "Pass points that differ, or the bandwidth as a number."
        )
    return found


class WithBandwidth(ClosedForm):
    r"""A kernel of vectors that are measured by a bandwidth.

    Attributes:
        bandwidth: The length b, a number or a tensor of one number, by which the kernel can then be differentiated;
            ``None`` where it is still to be taken from points, by ``fitted``.
    """

    def __init__(self, bandwidth: float | str | Tensor | None, memory: int | str = "1GB"):
        super().__init__(memory)
        self.bandwidth = _checked(bandwidth)

    def fitted(self: Self, x: Any) -> Self:
        """The kernel itself if it has a bandwidth, else the same kernel with the median distance of x.

        Example:
            >>> from kernelscope.kernels import Laplacian
            >>> Laplacian().fitted(torch.tensor([[0.0], [1.0], [3.0]]))
            Laplacian(bandwidth=2)
        """
        if self.bandwidth is not None:
            return self
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, bandwidth=median_bandwidth(x))
        return other

    def bandwidth_gradient(self, x: Any, z: Any, v: Tensor) -> Tensor:
        r"""The derivative of :math:`k(x, z) v` by the bandwidth, with its shape, block by block.

        Args:
            x: Points.
            z: Points; without them they are x.
            v: The weights, with shape :math:`(m, *)`.

        Raises:
            DataError: If v does not have one entry for each column.

        Example:
            >>> from kernelscope.kernels import Gaussian
            >>> Gaussian(bandwidth=1.0).bandwidth_gradient(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1))
            tensor([0.6065])
        """
        self._check_ready()
        return self._multiplied(x, z, v, slope=True)

    @abstractmethod
    def _pairs(self, rows: Side, columns: Side, same: bool, out: Tensor | None) -> Tensor:
        r"""A number for each pair of vectors, over :math:`b^2`, of which the kernel is a function."""

    @abstractmethod
    def _values(self, t: Tensor) -> Tensor:
        """The function."""

    @abstractmethod
    def _values_(self, t: Tensor) -> Tensor:
        """The same, which writes over its argument."""

    def _block(self, rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
        t = self._pairs(rows, columns, same, out)
        return self._values(t) if out is None else self._values_(t)

    def _slope(self, rows: Side, columns: Side, same: bool, out: Tensor) -> Tensor:
        # t falls by 2 t / b.
        t = self._pairs(rows, columns, same, out)
        with torch.enable_grad():
            leaf = t.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._values(leaf).sum(), leaf)
        return slope.mul_(t).mul_(-2 / self._length(t))

    def _check_ready(self) -> None:
        if self.bandwidth is None:
            raise DataError(
                f"This {type(self).__name__} has no bandwidth yet, and one that each call took from its own points "
                f"would be another kernel in each. Take it from the training points once, k = {type(self).__name__}()"
                ".fitted(x), or pass a number."
            )

    @property
    def _numbers(self) -> tuple[Any, ...]:
        return (self.bandwidth,)

    def _length(self, vectors: Tensor) -> Any:
        """The bandwidth, where and as the vectors are."""
        return self.bandwidth.to(vectors) if isinstance(self.bandwidth, Tensor) else self.bandwidth

    def _said(self) -> str:
        if self.bandwidth is None:
            return "bandwidth=None"
        return f"bandwidth={self.bandwidth.item() if isinstance(self.bandwidth, Tensor) else self.bandwidth:.6g}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._said()})"


def _checked(bandwidth: Any) -> float | Tensor | None:
    if bandwidth is None or (isinstance(bandwidth, str) and bandwidth == "median"):
        return None
    if isinstance(bandwidth, Tensor) and bandwidth.numel() == 1 and not bandwidth.is_complex():
        if 0 < bandwidth.item() < math.inf:
            return bandwidth.reshape(())
        bandwidth = bandwidth.item()
    length = number(bandwidth, "bandwidth", 'a positive number, a tensor of one, or "median"')
    if not LEAST <= length <= 1 / LEAST:
        raise DataError(f"bandwidth must be from {LEAST:g} to {1 / LEAST:g}, since its square is needed; {length:g} "
                        "came. Measure the points in another unit.")
    return length


def number(value: Any, name: str, what: str, least: float = 0.0, most: float = math.inf) -> float:
    """A number above ``least`` and up to ``most``, and finite.

    Raises:
        DataError: If it is none.
    """
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):  # type: ignore[unreachable]
        if least < float(value) <= most and math.isfinite(float(value)):
            return float(value)
    raise DataError(f"{name} must be {what}; {what_came(value)} came. Pass for example {name}=1.0.")
