r"""Kernels of a distance: :math:`k(x, z) = \varphi(r / b)` for :math:`r = |x - z|` and a bandwidth b.

All of them are 1 at :math:`x = z` and symmetric, and positive semidefinite for points of any number of dimensions. Each
formula is written twice: as it can be differentiated, and as it writes over the squared distances it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import DataError
from .bandwidth import number
from .distances import Steepness, root
from .fused.kernel import Fused
from .fused.product import Profile
from .of_distance import Stationary

#: Powers of two are cheaper than those of e.
LOG2E = math.log2(math.e)

#: :math:`e^{-r/b}`, for programs.
EXPONENTIAL = Profile("exponential", 1 / LOG2E, math.log(2), steep=True)


class Gaussian(Fused):
    r""":math:`k(x, z) = \exp(-|x - z|^2 / (2 b^2))`.

    Args:
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; or, for products on a GPU, ``"tf32x3"``, or ``"bf16"`` for points that are rounded once.
        center: What ``"bf16"`` rounds differences from; ``None`` for the mean of the points of ``fitted``.
        fused: Whether products of single precision on a GPU are computed by one program, where triton is installed.

    Example:
        >>> k = Gaussian(bandwidth=1.0)
        >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> k(x)
        tensor([[1.0000e+00, 3.7267e-06],
                [3.7267e-06, 1.0000e+00]])
        >>> Gaussian().fitted(x)
        Gaussian(bandwidth=5)
    """

    def __init__(self, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB",
                 precision: str = "exact", center: Sequence[float] | Tensor | None = None, fused: bool = True):
        super().__init__(bandwidth, memory, precision, center, fused)

    @property
    def _steepness(self) -> Steepness:
        return Steepness(1 / 2)

    @property
    def _profile(self) -> Profile:
        return Profile("gaussian", math.sqrt(2 / LOG2E), math.log(2))

    def _values(self, t: Tensor) -> Tensor:
        return (-t / 2).exp()

    def _values_(self, t: Tensor) -> Tensor:
        return t.mul_(-LOG2E / 2).exp2_()


class Laplacian(Fused):
    r""":math:`k(x, z) = \exp(-|x - z| / b)`.

    Args:
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; or, for products on a GPU, ``"tf32x3"``, or ``"bf16"`` for points that are rounded once.
        center: What ``"bf16"`` rounds differences from; ``None`` for the mean of the points of ``fitted``.
        fused: Whether products of single precision on a GPU are computed by one program, where triton is installed.

    Example:
        >>> k = Laplacian(bandwidth=5.0)
        >>> k(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """

    def __init__(self, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB",
                 precision: str = "exact", center: Sequence[float] | Tensor | None = None, fused: bool = True):
        super().__init__(bandwidth, memory, precision, center, fused)

    @property
    def _steepness(self) -> Steepness:
        return Steepness(1 / 2, 1 / 2)

    @property
    def _profile(self) -> Profile:
        return EXPONENTIAL

    def _values(self, t: Tensor) -> Tensor:
        return (-root(t)).exp()

    def _values_(self, t: Tensor) -> Tensor:
        return t.sqrt_().mul_(-LOG2E).exp2_()


class Matern(Fused):
    r"""The Matern kernel of smoothness :math:`\nu` 1/2, 3/2 or 5/2, with :math:`t = \sqrt{2 \nu}\, |x - z| / b`.

    .. math:: e^{-t}, \qquad (1 + t)\, e^{-t}, \qquad (1 + t + t^2 / 3)\, e^{-t}

    Args:
        nu: The smoothness, 0.5, 1.5 or 2.5; for 0.5 it is the Laplacian kernel.
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.
        precision: ``"exact"``; or, for products on a GPU, ``"tf32x3"``, or ``"bf16"`` for points that are rounded once.
        center: What ``"bf16"`` rounds differences from; ``None`` for the mean of the points of ``fitted``.
        fused: Whether products of single precision on a GPU are computed by one program, where triton is installed.

    References:
        | Gaussian Processes for Machine Learning, section 4.2 (Rasmussen and Williams, 2006)

    Example:
        >>> k = Matern(1.5, bandwidth=1.0)
        >>> k(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([[1.0000, 0.4834]])
    """

    _buffers = 2

    def __init__(self, nu: float = 1.5, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB",
                 precision: str = "exact", center: Sequence[float] | Tensor | None = None, fused: bool = True):
        super().__init__(bandwidth, memory, precision, center, fused)
        if isinstance(nu, bool) or nu not in (0.5, 1.5, 2.5):
            raise DataError(f"nu must be 0.5, 1.5 or 2.5; {nu!r} came. Gaussian() is the kernel of infinite nu.")
        self.nu = float(nu)

    @property
    def _steepness(self) -> Steepness:
        return {0.5: Steepness(1 / 2, 1 / 2), 1.5: Steepness(3 / 2), 2.5: Steepness(5 / 6)}[self.nu]

    @property
    def _profile(self) -> Profile:
        if self.nu == 0.5:
            return EXPONENTIAL
        slope = {1.5: 1 / 2, 2.5: 1 / 6}[self.nu]
        return Profile(f"matern {2 * self.nu:g}/2", 1 / math.sqrt(2 * self.nu), slope)

    def _values(self, t: Tensor) -> Tensor:
        t = root(2 * self.nu * t)
        decay = (-t).exp()
        return decay if self.nu == 0.5 else (1 + t if self.nu == 1.5 else 1 + t + t.square() / 3) * decay

    def _values_(self, t: Tensor) -> Tensor:
        t.mul_(2 * self.nu).sqrt_()
        decay = t.mul(-LOG2E).exp2_()
        if self.nu == 0.5:
            return decay
        if self.nu == 1.5:
            return t.add_(1).mul_(decay)
        # 1 + t + t^2 / 3 = ((t + 3/2)^2 + 3/4) / 3
        return t.add_(1.5).square_().add_(0.75).mul_(decay.div_(3))

    def _said(self) -> str:
        return f"nu={self.nu:g}, {super()._said()}"


class RationalQuadratic(Stationary):
    r""":math:`k(x, z) = \big(1 + |x - z|^2 / (2 \alpha b^2)\big)^{-\alpha}`, a mixture of Gaussians of many bandwidths.

    Args:
        alpha: The power :math:`\alpha > 0`; the larger, the nearer to the Gaussian of this bandwidth.
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    Example:
        >>> k = RationalQuadratic(alpha=0.5, bandwidth=1.0)
        >>> k(torch.tensor([[0.0]]), torch.tensor([[0.0], [3.0]]))
        tensor([[1.0000, 0.3162]])
    """

    def __init__(self, alpha: float = 1.0, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB"):
        super().__init__(bandwidth, memory)
        self.alpha = number(alpha, "alpha", "a positive number")

    @property
    def _steepness(self) -> Steepness:
        return Steepness(1 / 2)

    def _values(self, t: Tensor) -> Tensor:
        return (1 + t / (2 * self.alpha)) ** -self.alpha

    def _values_(self, t: Tensor) -> Tensor:
        return t.div_(2 * self.alpha).log1p_().mul_(-self.alpha * LOG2E).exp2_()

    def _said(self) -> str:
        return f"alpha={self.alpha:g}, {super()._said()}"


class Cauchy(Stationary):
    r""":math:`k(x, z) = 1 / (1 + |x - z|^2 / b^2)`.

    Args:
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    Example:
        >>> Cauchy(bandwidth=1.0)(torch.tensor([[0.0], [3.0]]))
        tensor([[1.0000, 0.1000],
                [0.1000, 1.0000]])
    """

    def __init__(self, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB"):
        super().__init__(bandwidth, memory)

    @property
    def _steepness(self) -> Steepness:
        return Steepness(1.0)

    def _values(self, t: Tensor) -> Tensor:
        return 1 / (1 + t)

    def _values_(self, t: Tensor) -> Tensor:
        return t.add_(1).reciprocal_()


class Dispersal(Stationary):
    r""":math:`k(x, z) = \exp\big(-(|x - z| / b)^\gamma\big)`, between the Laplacian and the Gaussian kernel and beyond.

    Args:
        exponent: The power :math:`0 < \gamma \le 2`; 1 is the Laplacian kernel, 2 the Gaussian one of bandwidth
            :math:`b / \sqrt 2`.
        bandwidth: The length b; ``None`` or ``"median"`` for the median distance of the points of ``fitted``.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    Example:
        >>> k = Dispersal(exponent=0.5, bandwidth=1.0)
        >>> k(torch.tensor([[0.0]]), torch.tensor([[0.0], [4.0]]))
        tensor([[1.0000, 0.1353]])
    """

    def __init__(self, exponent: float = 1.0, bandwidth: float | str | Tensor | None = None, memory: int | str = "1GB"):
        super().__init__(bandwidth, memory)
        self.exponent = number(exponent, "exponent", "a positive number of at most 2", most=2.0)

    @property
    def _steepness(self) -> Steepness:
        return Steepness(self.exponent / 2, self.exponent / 2)

    def _values(self, t: Tensor) -> Tensor:
        apart = t > 0
        return torch.where(apart, (-torch.where(apart, t, 1.0) ** (self.exponent / 2)).exp(), 1.0)

    def _values_(self, t: Tensor) -> Tensor:
        return t.pow_(self.exponent / 2).mul_(-LOG2E).exp2_()

    def _said(self) -> str:
        return f"exponent={self.exponent:g}, {super()._said()}"
