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
from .distances import Lacks, Side, Steepness, for_distances, lacks, own_lacks, root, units


class _Angular(ClosedForm):
    """A kernel of the angle and the lengths of two vectors."""

    _buffers = 8

    #: How fast the kernel falls with the squared distance of unit vectors.
    _steepness = Steepness(1 / 2, 1 / 2)

    def _center(self, vectors: Tensor) -> Tensor:
        return units(vectors)[0].mean(0)

    def _side(self, vectors: Tensor, center: Tensor | None, left: bool) -> Side:
        assert center is not None
        u, lengths = units(vectors)
        return for_distances(u, center, 1.0, left)._replace(lengths=lengths)

    def _block(self, rows: Side, columns: Side, same: bool, out: Tensor | None = None) -> Tensor:
        a, b, d = rows.lengths, columns.lengths, rows.vectors.shape[1]
        found = self._of(lacks(rows, columns, self._steepness, same, out), a[:, None], b, d)
        if same:
            found.diagonal().copy_(self._of(own_lacks(a), a, a, d))
        return found

    def _diagonal(self, vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1)
        return self._of(own_lacks(lengths), lengths, lengths, vectors.shape[1])

    @abstractmethod
    def _of(self, pairs: Lacks, a: Tensor, b: Tensor, d: int) -> Tensor:
        """The kernel of vectors in d dimensions with these angles and lengths."""


def angle_of(pairs: Lacks) -> tuple[Tensor, Tensor, Tensor]:
    """The angles, their sines and cosines: exact at both ends, as the arc cosine is not."""
    sine, cosine = root(pairs.lack * pairs.excess), (pairs.excess - pairs.lack) / 2
    return torch.atan2(sine, cosine), sine, cosine


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
        if order:
            self._steepness = Steepness(1.0)

    def __repr__(self) -> str:
        return f"ArcCosine(order={self.order})"

    def _of(self, pairs: Lacks, a: Tensor, b: Tensor, d: int) -> Tensor:
        angle, sine, cosine = angle_of(pairs)
        rest = math.pi - angle
        if self.order == 0:
            return rest / math.pi
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

    def _of(self, pairs: Lacks, a: Tensor, b: Tensor, d: int) -> Tensor:
        w, (a, b, pairs) = self.W_std**2, self._dense(a / math.sqrt(d), b / math.sqrt(d), pairs)
        tangent = a * b * (1 - pairs.lack)
        for _ in range(self.depth):
            angle, sine, cosine = angle_of(pairs)
            tangent = tangent * ((w / 2) * (1 - angle / math.pi))
            # The cosine after a ReLU is (sin + (pi - angle) cos) / pi.
            lack = (pairs.lack - (sine - angle * cosine) / math.pi).clamp(min=0)
            a, b, pairs = self._dense(a / math.sqrt(2), b / math.sqrt(2), Lacks(lack, 2 - lack))
            tangent = tangent + a * b * (1 - pairs.lack)
        return tangent

    def _dense(self, a: Tensor, b: Tensor, pairs: Lacks) -> tuple[Tensor, Tensor, Lacks]:
        """The lengths and angles of pairs after weights and biases."""
        w, c = self.W_std**2, self.b_std**2
        if not c:
            return self.W_std * a, self.W_std * b, pairs
        high, wide = (w * a.square() + c).sqrt(), (w * b.square() + c).sqrt()
        length, old = high * wide, w * a * b
        # Each a sum of terms that are not negative, divided by the new lengths.
        more = c * (w * (a.square() + b.square()) + c) / (length + old) + c
        gap = c * w * (a - b).square() / (length + old + c)
        return high, wide, Lacks((old * pairs.lack + gap) / length, (old * pairs.excess + more) / length)
