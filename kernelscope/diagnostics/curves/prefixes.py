r"""Kernel ridge regression on the first points of an order, for every number of them, from one factor.

With :math:`K + \sigma^2 I = L L^T` of all points in their order, the leading block of L is the factor of the first n
points, and the leading block of :math:`L^{-1}` its inverse. So for all n at once

.. math:: f_n(z) = W_n^T Z_n, \qquad W = L^{-1} k(x, z), \qquad Z = L^{-1} y,

where :math:`W_n` and :math:`Z_n` are the first n rows. A group G of points that is left out is missed by

.. math:: r_G = \big[(K_n + \sigma^2 I)^{-1}_{GG}\big]^{-1} \alpha_G.

References:
    | Gaussian Processes for Machine Learning (Rasmussen and Williams, 2006), section 5.4.2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Fitted(NamedTuple):
    """A machine on the first points.

    Attributes:
        left_out: The mean squared error on samples that are left out, each with its copies.
        values: What the machine says of the other points, with shape (m, c).
    """

    left_out: float
    values: Tensor


def on_prefixes(matrix: Tensor, cross: Tensor, targets: Tensor, sizes: Sequence[int], noise: float, *, copies: int = 1,
                intercept: bool = True) -> Iterator[Fitted]:
    r"""The machines on the first n points, for each n, as far as the matrix has a factor in double precision.

    Args:
        matrix: :math:`k(x_i, x_j)` of the points in their order, with shape (n, n), in float64.
        cross: :math:`k(x_i, z_j)`, with shape (n, m).
        targets: Their targets, with shape (n, c).
        sizes: The numbers n of points, ascending, each a multiple of ``copies``.
        noise: :math:`\sigma^2`, what is added to the diagonal.
        copies: How many points in a row are left out together.
        intercept: Whether a constant is fitted, which is refitted where points are left out.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
        >>> [found] = on_prefixes(torch.eye(3).double(), torch.zeros(3, 1).double(), x, [3], 0.5)
        >>> round(found.left_out, 6), found.values   # with a constant alone, each is told by the mean of both others
        (1.5, tensor([[1.]], dtype=torch.float64))
    """
    most, outputs = sizes[-1], targets.shape[1]
    factor, failed = torch.linalg.cholesky_ex(matrix[:most, :most] + noise * torch.eye(most, dtype=matrix.dtype))
    # The factor ends before the first pivot that is not positive.
    most = int(failed) - 1 if int(failed) else most
    sizes = [n for n in sizes if n <= most]
    inverse = inverted(factor[:most, :most].contiguous())
    rest = torch.cat([targets[:most], targets.new_ones(most, 1)], 1)
    z, w = inverse @ rest, inverse @ cross[:most]
    for n in sizes:
        told, inner, alpha = w[:n].T @ z[:n], z[:n].T @ z[:n], inverse[:n, :n].T @ z[:n]
        blocks = _blocks(inverse[:n, :n], copies)
        if intercept:
            mean = inner[-1, :outputs] / inner[-1, -1]
            told = told[:, :outputs] + (1 - told[:, outputs:]) * mean
            ones = alpha[:, outputs:].unflatten(0, (-1, copies))
            blocks = blocks - ones @ ones.mT / inner[-1, -1]
            alpha = alpha[:, :outputs] - alpha[:, outputs:] * mean
        else:
            told, alpha = told[:, :outputs], alpha[:, :outputs]
        missed = torch.linalg.solve(blocks, alpha.unflatten(0, (-1, copies)))
        yield Fitted(float(missed.square().sum()) / n, told)


def inverted(factor: Tensor) -> Tensor:
    """The inverse of a lower triangle, which is one."""
    from scipy.linalg.lapack import dtrtri

    # LAPACK counts down columns: to it, the rows of L are the columns of an upper triangle.
    inverse, _ = dtrtri(factor.numpy().T, lower=0)
    return torch.from_numpy(inverse.T).contiguous()


def _blocks(inverse: Tensor, copies: int) -> Tensor:
    """The diagonal blocks of the inverse of the whole, from that of its factor, with shape (groups, copies, copies)."""
    if copies == 1:
        return inverse.square().sum(0)[:, None, None]
    columns = inverse.T.unflatten(0, (-1, copies))
    return columns @ columns.mT
