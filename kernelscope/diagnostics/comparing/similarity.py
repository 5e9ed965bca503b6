r"""How alike two kernels are, by some probes: CKA without its bias, and an interval that repeats do not mislead.

With :math:`\tilde K` the matrix K without its diagonal, and w how often each probe counts,

.. math:: \mathrm{HSIC}_w(K, L) = \frac{\sum_{(i,j)} w_iw_j K_{ij}L_{ij}}{\sum_{(i,j)} w_iw_j}
          + \frac{\sum_{(i,j,q,r)} w_iw_jw_qw_r K_{ij}L_{qr}}{\sum_{(i,j,q,r)} w_iw_jw_qw_r}
          - 2\,\frac{\sum_{(i,j,r)} w_iw_jw_r K_{ij}L_{ir}}{\sum_{(i,j,r)} w_iw_jw_r},

where sums are over probes that are all different. At :math:`w = 1` it is the unbiased estimate of Song et al., and
:math:`\mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}` the debiased CKA. The plain CKA of few
probes is too large: each probe is compared with itself too. To draw probes with repeats, as the bootstrap does, puts
more of these into both matrices, and takes the interval upwards; here a probe that is drawn twice has a weight of 2 and
is still compared with others alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...measures import centred, cosine
from ..winners import Interval

#: How few probes tell no unbiased estimate.
FEWEST = 4

#: Of how many draws weights are held at once.
HELD = 256

#: Beyond which share of draws without a value there is no interval.
LOST = 0.05


def plain_cka(one: Tensor, other: Tensor) -> float:
    """The CKA of these probes, which is too large as an estimate of that of others."""
    return cosine(centred(one.double()), centred(other.double()))


def debiased_cka(one: Tensor, other: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The debiased CKA, for each column of weights; NaN where a kernel is not told from a constant.

    Args:
        one: K, with shape (n, n).
        other: L, of the same probes.
        weights: How often each probe counts, with shape (n, r); once if not given.

    References:
        | Feature Selection via Dependence Maximization (Song et al., 2012), equation 5
        | Similarity of Neural Network Representations Revisited (Kornblith et al., 2019)
        | Do Wide and Deep Networks Learn the Same Things? (Nguyen, Raghu and Kornblith, 2021), equation 3

    Example:
        >>> k = torch.diag(torch.arange(1.0, 6.0)) + torch.outer(torch.arange(5.0), torch.arange(5.0))
        >>> debiased_cka(k, 3 * k).round(decimals=12)
        tensor([1.], dtype=torch.float64)
    """
    n = len(one)
    if n < FEWEST:
        return torch.full((1 if weights is None else weights.shape[1],), math.nan, dtype=torch.float64)
    k, p = (_without_diagonal(matrix) for matrix in (one, other))
    w = torch.ones(n, 1, dtype=torch.float64) if weights is None else weights.double()
    both, own, its = (_hsic(a, b, w) for a, b in ((k, p), (k, k), (p, p)))
    known = (own > 0) & (its > 0)
    return torch.where(known, both / (own * its).where(known, 1.0).sqrt(), math.nan)


def _without_diagonal(matrix: Tensor) -> Tensor:
    found = matrix.to("cpu", torch.float64, copy=True)
    # The estimate is of ratios: to bring kernels to one scale keeps products of four entries from over- and underflow.
    found /= float(found.abs().max()) or 1.0
    return found.fill_diagonal_(0.0)


def _hsic(k: Tensor, p: Tensor, w: Tensor) -> Tensor:
    """The weighted estimate of each column of weights, of matrices without diagonals."""
    product, w2 = k * p, w * w
    kw, pw = k @ w, p @ w
    # Of all pairs of pairs those are taken off that share a probe, once, or twice.
    shared, twice = (w2 * kw * pw).sum(0), (w2 * (product @ w2)).sum(0)
    pairs = (w * (product @ w)).sum(0)
    triples = (w * kw * pw).sum(0) - (w * (product @ w2)).sum(0)
    fours = (w * kw).sum(0) * (w * pw).sum(0) - 4 * shared + 2 * twice
    s1, s2, s3, s4 = (w.pow(power).sum(0) for power in (1, 2, 3, 4))
    return (pairs / (s1**2 - s2) + fours / (s1**4 - 6 * s1**2 * s2 + 8 * s1 * s3 + 3 * s2**2 - 6 * s4)
            - 2 * triples / (s1**3 - 3 * s1 * s2 + 2 * s3))


def cka(one: Tensor, other: Tensor, draws: int, seed: int) -> Interval:
    """The debiased CKA with its 95 % bootstrap interval over probes; NaN where it is not known.

    Args:
        one: K, with shape (n, n).
        other: L, of the same probes.
        draws: How often probes are drawn, as many as there are, with repeats.
        seed: Of the draws.
    """
    value = float(debiased_cka(one, other))
    if math.isnan(value) or not draws:
        return Interval(value, math.nan, math.nan)
    generator, n = torch.Generator().manual_seed(seed), len(one)
    found = []
    for begun in range(0, draws, HELD):
        places = torch.randint(n, (min(HELD, draws - begun), n), generator=generator)
        counts = torch.zeros(len(places), n, dtype=torch.float64)
        counts.scatter_add_(1, places, torch.ones_like(counts))
        # A draw of three probes or fewer tells nothing.
        counts = counts[(counts > 0).sum(1) >= FEWEST]
        found.append(debiased_cka(one, other, counts.T))
    told = torch.cat(found)
    told = told[told.isfinite()]
    if len(told) < (1 - LOST) * draws:
        return Interval(value, math.nan, math.nan)
    low, high = told.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, min(low, value), max(high, value))


def shuffled(one: Tensor, other: Tensor, times: int, seed: int) -> list[float]:
    """The debiased CKA where the probes of one kernel have lost their places, the smallest first."""
    generator = torch.Generator().manual_seed(seed)
    orders = (torch.randperm(len(one), generator=generator) for _ in range(times))
    return sorted(float(debiased_cka(one, other[order][:, order])) for order in orders)
