r"""How far a path of given energy can move outputs, and how far from a target it must therefore end.

With the path kernel :math:`\bar K` and the energy E of the path, for every direction h on the points

.. math:: \|\langle h, f_T - f_0\rangle\|^2 \le h^T\bar K h\; E .

So the component of the change along an eigenvector of the eigenvalue :math:`\mu_j` is at most
:math:`\sqrt{\mu_j E}`. Together the components of one output share the energy, :math:`\sum_j d_j^2/\mu_j \le E`, and
the nearest point of this ellipsoid is a ridge regression, :math:`d_j = a_j\,\mu_j/(\mu_j + \kappa)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Halvings of the logarithm of a multiplier.
HALVINGS = 200


def reaches(values: Tensor, slack: float, energy: float) -> Tensor:
    r"""The reach of each mode, :math:`\sqrt{(\mu_j + \text{slack}) E}`.

    Args:
        values: The eigenvalues, with shape (r,).
        slack: By how much an eigenvalue may be more than it is said to be: rounding, and what a sketch left out.
        energy: The energy E of the path.

    Example:
        >>> reaches(torch.tensor([4.0, 0.0]), 0.0, 1.0).tolist()
        [2.0, 0.0]
    """
    return ((values.clamp(min=0) + slack) * energy).sqrt()


def by_modes(sizes: Tensor, reach: Tensor) -> float:
    r"""The bound by each mode alone, :math:`\sum_j \max(0, |a_j| - \text{reach}_j)^2`.

    Example:
        >>> by_modes(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0]))
        4.0
    """
    return float((sizes - reach).clamp(min=0).square().sum())


def by_energy(sizes: Tensor, reach: Tensor) -> float:
    r"""The squared distance of a point from the ellipsoid :math:`\sum_j d_j^2/\text{reach}_j^2 \le 1`.

    Args:
        sizes: The components :math:`|a_j|` of the point, with shape (r,).
        reach: The half axes.

    Example:
        >>> round(by_energy(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])), 5)
        4.0
    """
    fixed = reach == 0
    beyond = float(sizes[fixed].square().sum())
    a, s = sizes[~fixed].square(), reach[~fixed].square()
    if not len(a) or float((a / s).sum()) <= 1:
        return beyond
    # The multiplier is found from below, where the point is too near: the bound is never more than the distance.
    low, high = torch.zeros((), dtype=s.dtype), (a * s).sum().sqrt()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float((a * s / (s + middle).square()).sum()) > 1:
            low = middle
        else:
            high = middle
    return beyond + float((a * (low / (s + low)).square()).sum())


def bound_of(energies: Tensor, reach: Tensor, outputs: int) -> float:
    r"""The larger of two bounds on the squared distance :math:`\|f^* - f_T\|^2`, each of which holds for every run.

    A kernel summed over c outputs bounds each mode by the whole energy, and all modes together by c times it:
    :math:`\sum_c \Phi_c^T\bar K^{-1}\Phi_c \le c`.

    Args:
        energies: The squared component of the target along each mode, with shape (r,).
        reach: The reach of each.
        outputs: The number c of outputs.
    """
    sizes = energies.sqrt()
    return max(by_modes(sizes, reach), by_energy(sizes, reach * outputs**0.5))
