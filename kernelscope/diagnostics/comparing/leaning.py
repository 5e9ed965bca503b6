r"""Which training samples an answer leans on in both of two runs: those with the k largest contributions in size.

.. math:: o_k(x) = \frac{|\mathrm{top}_k(x; a) \cap \mathrm{top}_k(x; b)|}{k}, \qquad
          \mathbb{E}\,o_k = \frac{k\,m}{n_a n_b} \text{ by chance}

for :math:`n_a` and :math:`n_b` samples of which m are in both sets. Samples with large gradients are high in every
list, so that the lists of two different probes overlap by more than chance; that is the other null.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...ranks import ranks


def overlaps(a: Tensor, b: Tensor, pairs: Tensor, k: int) -> Tensor:
    """The overlap of each row's k largest in a with each row's in b, with shape (r, r); a row's own on the diagonal.

    Args:
        a: Contributions in the first run, with shape (r, n_a).
        b: Contributions in the second run, with shape (r, n_b).
        pairs: Places in a and b of the same sample, with shape (m, 2).
        k: How many are the largest.
    """
    tops = [_top(values, k)[:, places] for values, places in ((a, pairs[:, 0]), (b, pairs[:, 1]))]
    return tops[0] @ tops[1].T / k


def _top(values: Tensor, k: int) -> Tensor:
    """1 for the k largest in size of each row; what is nought counts for nothing and is none of them."""
    sizes = values.abs()
    chosen = torch.zeros_like(sizes).scatter_(1, sizes.argsort(dim=1, descending=True, stable=True)[:, :k], 1.0)
    return chosen * (sizes > 0)


def by_chance(a: int, b: int, shared: int, k: int) -> float:
    """The overlap that is expected of k samples picked blindly from each set.

    Example:
        >>> by_chance(100, 100, 100, 10), by_chance(100, 50, 40, 10)
        (0.1, 0.08)
    """
    return k * shared / (a * b) if a and b else math.nan


def rank_correlations(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
    """The rank correlation of each row of a with each row of b over shared samples, with shape (r, r); signs count."""
    rows = []
    for values, places in ((a, pairs[:, 0]), (b, pairs[:, 1])):
        ordered = ranks(values[:, places])
        middle = ordered - ordered.mean(1, keepdim=True)
        sizes = middle.norm(dim=1, keepdim=True)
        rows.append(torch.where(sizes > 0, middle / sizes.where(sizes > 0, 1.0), math.nan))
    return rows[0] @ rows[1].T


def own_and_others(matrix: Tensor, probes: int) -> tuple[Tensor, float]:
    """Of values between all rows the mean over outputs of each probe's own, and the mean between different probes.

    Args:
        matrix: With shape (r, r), rows by probe and then by output.
        probes: How many probes there are.
    """
    own = matrix.diagonal().reshape(probes, -1).nanmean(1)
    if probes < 2:
        return own, math.nan
    which = torch.arange(len(matrix)) // (len(matrix) // probes)
    return own, float(matrix[which[:, None] != which[None]].nanmean())


def cancellation(contributions: Tensor) -> Tensor:
    r"""How many times the sum the sizes are, :math:`\kappa = \sum_i|c_i| / |\sum_i c_i|`, of each row.

    It is infinite where all is undone, and NaN where there is nothing.

    Example:
        >>> cancellation(torch.tensor([[1.0, 1.0], [3.0, -1.0]]))
        tensor([1., 2.])
    """
    return contributions.abs().sum(-1) / contributions.sum(-1).abs()


def random_signs(contributions: Tensor) -> Tensor:
    r"""About the cancellation with signs tossed by a coin, :math:`\sum|c_i| / \sqrt{2/\pi}\,\|c\|`, of each row."""
    return contributions.abs().sum(-1) / (math.sqrt(2 / math.pi) * contributions.norm(dim=-1))
