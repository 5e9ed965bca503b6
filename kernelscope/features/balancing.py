r"""Inputs and weights of a layer balanced: the same products from the shortest vectors.

A layer :math:`f(w \cdot x + b)` is unchanged by :math:`x \to T (x - \mu)`, :math:`w \to T^{-T} w` and
:math:`b \to b + w \cdot \mu`. Features of products vary with :math:`e^{2 \kappa |x| |w|}`, so the lengths matter.
Of all T, the least product of root mean square lengths is :math:`\|(X - \mu) W^T\|_* / \sqrt{n l}`, the nuclear norm,
and the singular value decomposition :math:`(X - \mu) W^T = U S V^T` attains it:
:math:`X' = U S^{1/2}` and :math:`W' = V S^{1/2}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_count
from ..data.points import as_points
from ..errors import DataError, NonFiniteError
from .of_vectors import rows_of

#: Directions with a singular value below this share of the largest are rounding.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Balanced:
    r"""A layer with balanced inputs and weights.

    Attributes:
        center: What is taken off inputs, :math:`\mu`, with shape (d,).
        transform: The matrix T, with shape (r, d).
        weights: The new weights :math:`W'`, with shape (l, r).
        bias: The new bias, with shape (l,).
        before: The product of root mean square lengths of inputs and weights as they came.
        after: The same product now: the nuclear norm over :math:`\sqrt{n l}`.
    """

    center: Tensor
    transform: Tensor
    weights: Tensor
    bias: Tensor
    before: float
    after: float

    def inputs(self, x: Tensor) -> Tensor:
        r"""Balanced inputs :math:`T (x - \mu)`, with shape (\*, r)."""
        return (x - self.center.to(x)) @ self.transform.to(x).T

    def kept(self, rank: int) -> Balanced:
        """The same with the longest directions alone, as ``balance`` with this rank makes it."""
        if not 1 <= as_count(rank, "rank", 1) < len(self.transform):
            return self
        # Columns are in the order of singular values, which their squared lengths are.
        share = float(self.weights[:, :rank].square().sum() / self.weights.square().sum())
        return Balanced(self.center, self.transform[:rank], self.weights[:, :rank], self.bias, self.before,
                        self.after * share)

    def __repr__(self) -> str:
        return (f"Balanced({len(self.transform)} of {len(self.center)} directions, |x||w| {self.before:.4g} -> "
                f"{self.after:.4g})")


def balance(x: Any, W: Tensor, b: Tensor | None = None, rank: int | None = None) -> Balanced:
    r"""Balances the inputs and weights of a layer, with the least product of lengths there is.

    Args:
        x: Inputs, points of d coordinates.
        W: Weights, with shape (l, d).
        b: The bias, with shape (l,); without it, 0.
        rank: How many directions to keep, those of the largest singular values; without it, all that are more than
            rounding, and the products on x are the same.

    Raises:
        DataError: If shapes do not fit, or all products are 0.
        NonFiniteError: If a point or weights are not finite.

    Example:
        >>> x, W = torch.randn(20, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        >>> layer = balance(x, W)
        >>> torch.allclose(layer.inputs(x) @ layer.weights.T + layer.bias, x @ W.T)
        True
        >>> layer.after <= layer.before
        True
    """
    rows, W, b = layer_of(x, W, b)
    center = rows.mean(0)
    centered = rows - center
    # From the triangular factors of both sides the decomposition is of a small matrix, and as exact.
    left = torch.linalg.qr(centered).R
    basis, right = torch.linalg.qr(W)
    _, S, Vh = torch.linalg.svd(left @ right.T, full_matrices=False)
    if not float(S[0]) > 0:
        raise DataError("All products of centered inputs and weights are 0: the layer is a constant on these points. "
                        "Pass points that differ where weights look.")
    kept = int((S > ROUNDING * S[0]).sum())
    root = S[:kept].sqrt()
    # The singular vectors of all are V = Q Vh^T for W = Q R, so that T = S^{-1/2} V^T W = S^{-1/2} Vh R.
    inner = Vh[:kept]
    transform = inner @ right / root[:, None]
    weights = basis @ (inner.T * root)
    n, l = len(rows), len(W)
    before = math.sqrt(float(rows.square().sum()) / n * float(W.square().sum()) / l)
    found = Balanced(center, transform, weights, b + W @ center, before, float(S[:kept].sum()) / math.sqrt(n * l))
    return found if rank is None else found.kept(rank)


def layer_of(x: Any, W: Any, b: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights and bias of a layer in double precision.

    Raises:
        DataError: If shapes do not fit.
        NonFiniteError: If a point, weights or the bias are not finite.
    """
    rows = rows_of(as_points(x)).detach().double()
    if not isinstance(W, Tensor) or W.ndim != 2 or W.shape[1] != rows.shape[1] or not len(W):
        came = f"shape {tuple(W.shape)}" if isinstance(W, Tensor) else f"a {type(W).__name__}"
        raise DataError(f"W must be a tensor of shape (l, {rows.shape[1]}), one row of weights for each neuron; {came} "
                        "came. Pass linear.weight.")
    W = W.detach().to(rows)
    b = torch.zeros(len(W)).to(rows) if b is None else b
    if not isinstance(b, Tensor) or tuple(b.shape) != (len(W),):
        came = f"shape {tuple(b.shape)}" if isinstance(b, Tensor) else f"a {type(b).__name__}"
        raise DataError(f"b must be a tensor of shape ({len(W)},), one number for each neuron; {came} came. Pass "
                        "linear.bias.")
    b = b.detach().to(rows)
    if not bool(W.isfinite().all() & b.isfinite().all()):
        raise NonFiniteError("The weights or the bias hold NaN or an infinite value. Mend the layer first.")
    return rows, W, b
