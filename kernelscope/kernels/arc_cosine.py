r"""Kernels of infinitely wide layers of random features :math:`\max(0, w \cdot x)^n`: functions of an angle.

The angle :math:`\theta` of two vectors is computed from their difference where it is small, and the layers of a
network are followed by how much the cosine lacks to 1, a sum of terms that are not negative: what single precision
loses in :math:`\sqrt{1 - \cos^2 \theta}` is never subtracted.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..arguments import as_count, what_came
from ..errors import DataError
from .bandwidth import number
from .closed_form import ClosedForm
from .distances import Side, angles, for_angles, own_angles, root


class _Angular(ClosedForm):
    """A kernel of the angle and the lengths of two vectors."""

    _buffers = 8

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        return for_angles(vectors)

    def _pairs(self, rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
        return angles(rows, columns, same, out)

    def _values(self, t: Tensor, rows: Side, columns: Side) -> Tensor:
        return self._of(t, rows.lengths[:, None], columns.lengths[None], rows.vectors.shape[1])

    def _diagonal(self, vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1)
        return self._of(own_angles(lengths), lengths, lengths, vectors.shape[1])

    @abstractmethod
    def _of(self, angle: Tensor, a: Tensor, b: Tensor, d: int) -> Tensor:
        """The kernel of vectors in d dimensions with this angle and these lengths."""


class ArcCosine(_Angular):
    r"""The arc-cosine kernel :math:`k(x, z) = \frac1\pi |x|^n |z|^n J_n(\theta)` of order n.

    .. math:: J_0 = \pi - \theta, \qquad J_1 = \sin\theta + (\pi - \theta) \cos\theta, \qquad
              J_2 = 3 \sin\theta \cos\theta + (\pi - \theta)(1 + 2 \cos^2\theta)

    It is twice the mean of :math:`\phi(w \cdot x)\, \phi(w \cdot z)` over standard normal w, for the step (n = 0), the
    ReLU (n = 1) and its square (n = 2).

    Args:
        order: The order n: 0, 1 or 2.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    References:
        | Kernel Methods for Deep Learning (Cho and Saul, 2009)

    Example:
        >>> ArcCosine(order=1)(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[1.0000, 0.6366],
                [0.6366, 4.0000]])
    """

    def __init__(self, order: int = 1, memory: int | str = "1GB"):
        super().__init__(memory)
        if isinstance(order, bool) or order not in (0, 1, 2):
            raise DataError(f"order must be 0, 1 or 2; {what_came(order)} came. 1 is the kernel of ReLU features.")
        self.order = int(order)

    def __repr__(self) -> str:
        return f"ArcCosine(order={self.order})"

    def _of(self, angle: Tensor, a: Tensor, b: Tensor, d: int) -> Tensor:
        rest = math.pi - angle
        if self.order == 0:
            return rest / math.pi
        cosine, sine = angle.cos(), angle.sin()
        if self.order == 1:
            return a * b * (sine + rest * cosine) / math.pi
        return (a * b).square() * (3 * sine * cosine + rest * (1 + 2 * cosine.square())) / math.pi


class ReLUNTK(_Angular):
    r"""The infinite-width neural tangent kernel of a fully connected ReLU network, in the NTK parameterisation.

    With :math:`\Sigma` the covariance of the outputs of a layer and :math:`\Theta` the kernel of their gradients,

    .. math:: \Sigma_0 = \tfrac{\sigma_w^2}{d}\, x \cdot z + \sigma_b^2 = \Theta_0, \qquad
              \Sigma_{l+1} = \sigma_w^2\, E[\phi(u) \phi(v)] + \sigma_b^2, \qquad
              \Theta_{l+1} = \Sigma_{l+1} + \sigma_w^2\, \Theta_l\, E[\phi'(u) \phi'(v)],

    for :math:`(u, v)` normal with covariance :math:`\Sigma_l`, and the kernel is :math:`\Theta` after the readout.

    Args:
        depth: The number of hidden layers; the readout comes after them.
        W_std: The standard deviation :math:`\sigma_w` of weights, times the root of the width they come from.
        b_std: The standard deviation :math:`\sigma_b` of biases; both are trained.
        memory: About how much products may use, a number of bytes or a size such as ``"1GB"``.

    References:
        | Neural Tangent Kernel: Convergence and Generalization in Neural Networks (Jacot et al., 2018)

    Example:
        >>> k = ReLUNTK(depth=2)
        >>> k(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[ 3.0000,  1.3714],
                [ 1.3714, 12.0000]])
    """

    _buffers = 16

    def __init__(self, depth: int = 1, W_std: float = math.sqrt(2), b_std: float = 0.0, memory: int | str = "1GB"):
        super().__init__(memory)
        self.depth = as_count(depth, "depth", 1)
        self.W_std = number(W_std, "W_std", "a positive number")
        self.b_std = 0.0 if b_std == 0 else number(b_std, "b_std", "a number from 0 on")

    def __repr__(self) -> str:
        return f"ReLUNTK(depth={self.depth}, W_std={self.W_std:.6g}, b_std={self.b_std:g})"

    def _of(self, angle: Tensor, a: Tensor, b: Tensor, d: int) -> Tensor:
        w = self.W_std**2
        a, b = a / math.sqrt(d), b / math.sqrt(d)
        # What the cosine lacks to 1, and what it exceeds -1 by.
        lack, excess = 2 * (angle / 2).sin().square(), 2 * (angle / 2).cos().square()
        a, b, lack, excess = self._dense(a, b, lack, excess)
        tangent = a * b * (1 - lack)
        for layer in range(self.depth):
            if layer or self.b_std:
                angle = 2 * torch.atan2(root(lack), root(excess))
            tangent = tangent * (w / 2) * (1 - angle / math.pi)
            # (sin - theta cos) / pi is what the ReLU adds to the cosine.
            lack = (lack - (angle.sin() - angle * angle.cos()) / math.pi).clamp(min=0)
            a, b, lack, excess = self._dense(a / math.sqrt(2), b / math.sqrt(2), lack, 2 - lack)
            tangent = tangent + a * b * (1 - lack)
        return tangent

    def _dense(self, a: Tensor, b: Tensor, lack: Tensor, excess: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lengths and cosine of pairs after weights and biases."""
        w, c = self.W_std**2, self.b_std**2
        if not c:
            return self.W_std * a, self.W_std * b, lack, excess
        wide, high = (w * a.square() + c).sqrt(), (w * b.square() + c).sqrt()
        length, old = wide * high, w * a * b
        # The differences of lengths, each as a sum of terms that are not negative.
        more = c * (w * (a.square() + b.square()) + c) / (length + old) + c
        gap = c * w * (a - b).square() / (length + old + c)
        return wide, high, (old * lack + gap) / length, (old * excess + more) / length
