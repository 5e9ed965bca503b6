r"""Towers of features: the maps :math:`\Phi` that stand in the place of layers, and are not trained.

A tower takes rows with d numbers to rows with m features, by random directions g or by some of a layer's own neurons:

.. math:: \sqrt{2/m}\, \max(0, g \cdot x + \beta), \qquad
          \sqrt{2/m}\, (\cos g \cdot x, \sin g \cdot x), \qquad a(w \cdot x + b)

Products of the first kind of features are the arc-cosine kernel of order 1 on average, those of the second the Gaussian
one. Universal features are those whose products with features of parameters are right on average. Directions and
shifts are kept as buffers: a tower that is loaded is the tower that was saved, and moves with its module.

References:
    | Kernel Methods for Deep Learning (Cho and Saul, 2009)
    | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arguments import as_choice
from ..errors import DataError
from ..features.arc_cosine import rectified
from ..features.directions import directions
from ..features.random import cosines

#: The kinds of towers that are drawn.
KINDS = ("rectified", "fourier")


class Tower(nn.Module):
    """Features of inputs, of which the projections are buffers.

    Args:
        rows: The directions, with shape (r, d).
        shifts: What is added to each product with one, with shape (r,); nought if not given.
    """

    rows: Tensor
    shifts: Tensor | None

    def __init__(self, rows: Tensor, shifts: Tensor | None = None):
        super().__init__()
        self.register_buffer("rows", rows.detach().clone())
        self.register_buffer("shifts", None if shifts is None else shifts.detach().clone())

    @property
    def size(self) -> int:
        """The number m of features."""
        return len(self.rows)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The features of points with shape (*, d), with shape (*, m)."""

    def projected(self, x: Tensor) -> Tensor:
        """The rows' products with points, and their shifts, with shape (*, r)."""
        return nn.functional.linear(x, self.rows, self.shifts)

    def place(self, rows: Tensor, shifts: Tensor) -> None:
        """Takes these rows, with shape (r, d), and shifts, with shape (r,)."""
        self.rows.copy_(rows)
        if self.shifts is not None:
            self.shifts.copy_(shifts)

    def extra_repr(self) -> str:
        return f"{self.rows.shape[1]} -> {self.size}"


class Rectified(Tower):
    r"""Features :math:`\sqrt{2/m}\, \max(0, g \cdot x + \beta)`, whose products are on average the arc-cosine kernel.

    Args:
        rows: The directions g, with shape (m, d).
        shifts: The constants beta, with shape (m,); nought if not given.

    Example:
        >>> tower = Rectified(torch.tensor([[1.0], [-1.0]]))
        >>> tower(torch.tensor([[3.0]]))
        tensor([[3., 0.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return rectified(self.projected(x)) * math.sqrt(2 / self.size)


class Fourier(Tower):
    r"""Features :math:`\sqrt{2/m}\, (\cos g \cdot x, \sin g \cdot x)`: on average, the Gaussian kernel.

    Args:
        rows: The directions g, with shape (m/2, d); divided by the bandwidth.

    Example:
        >>> tower = Fourier(torch.tensor([[1.0]]))
        >>> tower(torch.zeros(1, 1))
        tensor([[1., 0.]])
    """

    @property
    def size(self) -> int:
        return 2 * len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        return cosines(self.projected(x)) / math.sqrt(len(self.rows))


class Waves(Tower):
    """Cosines and sines of the same projections as they are; of an odd number the last has its cosine alone.

    Args:
        size: The number m of features.
        d: The numbers of an input.
    """

    def __init__(self, size: int, d: int):
        super().__init__(torch.zeros(-(-size // 2), d), torch.zeros(-(-size // 2)))
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def forward(self, x: Tensor) -> Tensor:
        return cosines(self.projected(x))[..., :self._size]


class Neurons(Tower):
    r"""Neurons, be they a layer's own or others: :math:`a(w_j \cdot x + b_j)`.

    Args:
        rows: Their weights, with shape (m, d).
        shifts: Their constants, with shape (m,).
        activation: The activation a.
    """

    shifts: Tensor

    def __init__(self, rows: Tensor, shifts: Tensor, activation: Callable[[Tensor], Tensor]):
        super().__init__(rows, shifts)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.projected(x))


class Universal(Tower):
    r"""Features whose products with those of parameters are a function of :math:`w \cdot x + b` on average.

    .. math:: e^{\beta + r|Tx + t|^2} \left(\cos g (Tx + t), -\sin g (Tx + t)\right)

    Args:
        size: The number m of features; of an odd number there is one less.
        d: The numbers of an input.
        inner: Those of an input after balancing.
    """

    balance: Tensor
    offset: Tensor
    rates: Tensor
    bases: Tensor

    def __init__(self, size: int, d: int, inner: int):
        count = size // 2
        super().__init__(torch.zeros(count, inner), torch.zeros(count))
        self.register_buffer("balance", torch.zeros(inner, d))
        self.register_buffer("offset", torch.zeros(inner))
        self.register_buffer("rates", torch.zeros(count))
        self.register_buffer("bases", torch.zeros(count))

    @property
    def size(self) -> int:
        return 2 * len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(x, self.balance, self.offset)
        angles = self.projected(inner)
        # Logarithms are added before they are raised: each of the two alone may be out of range.
        heights = (self.bases + self.rates * inner.square().sum(-1, keepdim=True)).exp()
        return torch.cat((heights * angles.cos(), -heights * angles.sin()), -1)


def drawn(kind: str, features: int, d: int, draw: torch.Generator, *, rows: str = "orthogonal", shift: float = 0.0,
          bandwidth: float = 1.0) -> Rectified | Fourier:
    r"""A random tower.

    Args:
        kind: ``"rectified"`` or ``"fourier"``.
        features: The number m of features; even for Fourier features, which are pairs.
        d: The numbers of a row.
        draw: The generator to draw with.
        rows: How directions are drawn, see :func:`~kernelscope.features.directions.directions`.
        shift: How much a constant input counts beside the others, for rectified features.
        bandwidth: The length scale of Fourier features.

    Raises:
        DataError: If the kind is unknown, or Fourier features are an odd number.

    Example:
        >>> drawn("rectified", 8, 3, torch.Generator().manual_seed(0))
        Rectified(3 -> 8)
    """
    if as_choice(kind, "tower", KINDS) == "fourier":
        if features % 2:
            raise DataError(f"Fourier features are pairs of a cosine and a sine, so their number is even; {features} "
                            f"were asked for. Pass features={features + 1}.")
        return Fourier(directions(features // 2, d, rows, draw) / bandwidth)
    found = directions(features, d, rows, draw)
    # A constant is one more input, which has its own random numbers so that those of the others stay orthogonal.
    return Rectified(found, shift * directions(features, 1, "independent", draw)[:, 0] if shift else None)
