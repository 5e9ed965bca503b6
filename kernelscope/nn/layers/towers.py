r"""Input towers: the maps :math:`\Phi` of a layer :math:`\Phi(x) \cdot \Psi(w, b)`.

A tower has random or chosen rows g and shifts c, which are buffers: they are kept with the layer, move with it, and are
not trained. ``fourier`` has the cosines and sines of :math:`g x + c`, ``rectified`` their positive parts, ``neurons``
the layer's own function of them, and ``universal`` the features whose products with those of the parameters are right
on average,

.. math:: e^{\beta - A|g|^2 + r|Tx|^2} \left(\cos g T x, -\sin g T x\right).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from .activations import Activation

#: The towers.
TOWERS = ("fourier", "rectified", "neurons", "universal")


class Tower(nn.Module):
    """Features of inputs, of which the projections are buffers.

    Attributes:
        size: How many features there are.
        count: How many rows.
    """

    rows: Tensor
    shifts: Tensor

    def __init__(self, size: int, d: int, count: int):
        super().__init__()
        self.size, self.count = size, count
        self.register_buffer("rows", torch.zeros(count, d))
        self.register_buffer("shifts", torch.zeros(count))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The features of points with shape (*, d), with shape (*, size)."""

    def projected(self, x: Tensor) -> Tensor:
        """The rows' products with points, and their shifts, with shape (*, count)."""
        return nn.functional.linear(x, self.rows, self.shifts)

    def place(self, rows: Tensor, shifts: Tensor) -> None:
        """Takes these rows, with shape (count, d), and shifts, with shape (count,)."""
        self.rows.copy_(rows)
        self.shifts.copy_(shifts)

    def extra_repr(self) -> str:
        return f"{self.size} features"


class Fourier(Tower):
    """Cosines and sines of the same projections; of an odd number the last has its cosine alone."""

    def __init__(self, size: int, d: int):
        super().__init__(size, d, -(-size // 2))

    def forward(self, x: Tensor) -> Tensor:
        angles = self.projected(x)
        return torch.cat((angles.cos(), angles.sin()), -1)[..., :self.size]


class Neurons(Tower):
    """A function of projections: neurons, be they a layer's own or others."""

    def __init__(self, size: int, d: int, activation: Activation):
        super().__init__(size, d, size)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self._activation(self.projected(x))


class Universal(Tower):
    """Features whose products with those of parameters are a function of x.w + b on average."""

    balance: Tensor
    rates: Tensor
    bases: Tensor

    def __init__(self, size: int, d: int, inner: int):
        super().__init__(size, inner, size // 2)
        self.register_buffer("balance", torch.zeros(inner, d))
        self.register_buffer("offset", torch.zeros(inner))
        self.register_buffer("rates", torch.zeros(self.count))
        self.register_buffer("bases", torch.zeros(self.count))

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(x, self.balance, self.offset)
        angles = self.projected(inner)
        # Logarithms are added before they are raised: each of the two alone may be out of range.
        heights = (self.bases + self.rates * inner.square().sum(-1, keepdim=True)).exp()
        return torch.cat((heights * angles.cos(), -heights * angles.sin()), -1)

    offset: Tensor
