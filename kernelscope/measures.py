r"""What one kernel matrix, or two of the same points, can be told by: a number each.

A matrix K of n points is compared with targets Y of shape (n, c), or with another matrix of the same points. *Centred*
is :math:`HKH` with :math:`H = I - \frac1n 11^T`: what a constant output has to do with a kernel is taken off.
"""

from __future__ import annotations

import torch
from torch import Tensor


def centred(matrix: Tensor) -> Tensor:
    r"""The matrix :math:`HKH`, whose rows and columns have the mean 0.

    Example:
        >>> centred(torch.eye(2))
        tensor([[ 0.5000, -0.5000],
                [-0.5000,  0.5000]])
    """
    rows = matrix.mean(1, keepdim=True)
    columns = matrix.mean(0, keepdim=True)
    return matrix - rows - columns + columns.mean()


def cosine(one: Tensor, other: Tensor) -> float:
    r"""The cosine of two matrices, :math:`\langle K, L\rangle_F / (\|K\|_F\, \|L\|_F)`.

    Of centred matrices it is their CKA. It is 0 if one of them is nought.

    References:
        Similarity of Neural Network Representations Revisited (Kornblith et al., 2019).

    Example:
        >>> cosine(torch.eye(2), torch.ones(2, 2))
        0.7071067811865475
    """
    a, b = one.double().flatten(), other.double().flatten()
    sizes = float(a.norm()) * float(b.norm())
    return float(a @ b) / sizes if sizes else 0.0


def alignment(matrix: Tensor, targets: Tensor) -> float:
    r"""The kernel-target alignment, :math:`\langle K, YY^T\rangle_F / (\|K\|_F\, \|YY^T\|_F)`, both centred.

    It is 1 for a kernel that is the one of the targets, and 0 if either is nought once centred.

    Args:
        matrix: K, with shape (n, n).
        targets: Y, with shape (n, c).

    References:
        Algorithms for Learning Kernels Based on Centered Alignment (Cortes et al., 2012).

    Example:
        >>> y = torch.tensor([[1.0], [1.0], [-1.0]])
        >>> round(alignment(y @ y.T, y), 12)
        1.0
    """
    y = targets.double() - targets.double().mean(0)
    k = centred(matrix.double())
    sizes = float(k.norm()) * float((y.T @ y).norm())
    return float((y * (k @ y)).sum()) / sizes if sizes else 0.0


def entropy_rank(values: Tensor) -> float:
    r"""The effective rank by entropy, :math:`e^{-\sum_j p_j \log p_j}` with :math:`p_j = \lambda_j / \sum_i \lambda_i`.

    References:
        The Effective Rank (Roy and Vetterli, 2007).

    Example:
        >>> entropy_rank(torch.tensor([1.0, 1.0, 0.0]))
        2.0
    """
    values = values.double().clamp(min=0)
    total = float(values.sum())
    if not total:
        return 0.0
    shares = values / total
    return float(torch.special.xlogy(shares, shares).sum().neg().exp())


def participation(values: Tensor) -> float:
    r"""The participation ratio, :math:`\big(\sum_j\lambda_j\big)^2 / \sum_j\lambda_j^2`, another effective rank.

    Example:
        >>> participation(torch.tensor([1.0, 1.0, 0.0]))
        2.0
    """
    values = values.double()
    square = float(values.square().sum())
    return float(values.sum()) ** 2 / square if square else 0.0


def effective_dimension(values: Tensor, ridge: float) -> float:
    r"""The effective dimension :math:`\mathrm{tr}\, K(K + \lambda)^{-1} = \sum_j \lambda_j / (\lambda_j + \lambda)`.

    Args:
        values: The eigenvalues.
        ridge: What is added to each.

    Example:
        >>> effective_dimension(torch.tensor([3.0, 1.0]), 1.0)
        1.25
    """
    values = values.double().clamp(min=0)
    shares = values / (values + ridge)
    return float(torch.where(values > 0, shares, 0.0).sum())


def label_mass(vectors: Tensor, targets: Tensor) -> float:
    r"""The share of the targets that some eigenvectors span, :math:`\|U^T Y\|_F^2 / \|Y\|_F^2`, targets centred.

    Args:
        vectors: U, orthonormal, with shape (n, k).
        targets: Y, with shape (n, c).

    Example:
        >>> label_mass(torch.eye(3)[:, :1], torch.tensor([[2.0], [-1.0], [-1.0]]))
        0.6666666666666666
    """
    y = targets.double() - targets.double().mean(0)
    size = float(y.square().sum())
    return float((vectors.double().T @ y).square().sum()) / size if size else 0.0
