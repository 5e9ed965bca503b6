r"""Towers of features: what is put in the place of layers, and is not trained.

A tower takes rows with d numbers to rows with m features, by random directions g or by some of a layer's own neurons:

.. math:: \sqrt{2/m}\, \max(0, g \cdot x + \beta), \qquad
          \sqrt{2/m}\, (\cos g \cdot x, \sin g \cdot x), \qquad a(w \cdot x + b)

Products of the first kind of features are the arc-cosine kernel of order 1 on average, those of the second the Gaussian
one. Directions are kept as buffers: a tower that is loaded is the tower that was saved.

References:
    | Kernel Methods for Deep Learning (Cho and Saul, 2009)
    | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...arguments import as_choice
from ...errors import DataError
from ...features.directions import directions

#: The kinds of towers that are drawn.
KINDS = ("rectified", "fourier")


class Rectified(nn.Module):
    r"""Features :math:`\sqrt{2/m}\, \max(0, g \cdot x + \beta)`, whose products are on average the arc-cosine kernel.

    Args:
        rows: The directions g, with shape (m, d).
        shift: The constants beta, with shape (m,); nought if not given.

    Example:
        >>> tower = Rectified(torch.tensor([[1.0], [-1.0]]))
        >>> tower(torch.tensor([[3.0]]))
        tensor([[3., 0.]])
    """

    rows: Tensor
    shift: Tensor | None

    def __init__(self, rows: Tensor, shift: Tensor | None = None):
        super().__init__()
        self.register_buffer("rows", rows.detach().clone())
        self.register_buffer("shift", None if shift is None else shift.detach().clone())

    @property
    def size(self) -> int:
        """The number m of features."""
        return len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.rows, self.shift).relu() * math.sqrt(2 / len(self.rows))

    def extra_repr(self) -> str:
        return f"{self.rows.shape[1]} -> {self.size}"


class Fourier(nn.Module):
    r"""Features :math:`\sqrt{2/m}\, (\cos g \cdot x, \sin g \cdot x)`: on average, the Gaussian kernel.

    Args:
        rows: The directions g, with shape (m/2, d); divided by the bandwidth.

    Example:
        >>> tower = Fourier(torch.tensor([[1.0]]))
        >>> tower(torch.zeros(1, 1))
        tensor([[1., 0.]])
    """

    rows: Tensor

    def __init__(self, rows: Tensor):
        super().__init__()
        self.register_buffer("rows", rows.detach().clone())

    @property
    def size(self) -> int:
        """The number m of features."""
        return 2 * len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        angles = nn.functional.linear(x, self.rows)
        return torch.cat([angles.cos(), angles.sin()], -1) / math.sqrt(len(self.rows))

    def extra_repr(self) -> str:
        return f"{self.rows.shape[1]} -> {self.size}"


class Neurons(nn.Module):
    r"""Some of a layer's own neurons, :math:`a(w_j \cdot x + b_j)`.

    Args:
        rows: Their weights, with shape (m, d).
        shift: Their constants, with shape (m,).
        activation: The activation a.
    """

    rows: Tensor
    shift: Tensor

    def __init__(self, rows: Tensor, shift: Tensor, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        self.register_buffer("rows", rows.detach().clone())
        self.register_buffer("shift", shift.detach().clone())
        self.activation = activation

    @property
    def size(self) -> int:
        """The number m of features."""
        return len(self.rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(nn.functional.linear(x, self.rows, self.shift))

    def extra_repr(self) -> str:
        return f"{self.rows.shape[1]} -> {self.size}"


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
