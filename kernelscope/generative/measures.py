r"""What generated points and the contributions behind them are measured by, the same for every model.

*Contributions* stand along the last axis: one for each training sample, class or noise level. Of vectors (the pixels of
an image) the axis before it holds the entries. *Points* are the rows of a tensor, of any shape. All is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import as_count, as_part, what_came
from ..diagnostics.winners import Interval, over_seeds
from ..errors import DataError
from ..measures import centred as centred_matrix
from ..measures import entropy_rank

__all__ = ["COPIED", "LEAST_SEEDS", "Concentration", "Coverage", "Memorised", "cancellation", "centred",
           "concentration", "coverage_density", "distances", "effective_rank", "intervals", "localisation_index",
           "locality", "memorised", "shares", "surplus"]

#: A sample is memorised if its nearest training point is nearer than this part of the distance to the second one.
COPIED = 1 / 3

#: How many seeds an interval needs.
LEAST_SEEDS = 5

#: Entries of a block of differences between points.
BLOCK = 2**24


class Concentration(NamedTuple):
    """On how few numbers a sum rests: three measures, each with the shape of the leading axes.

    Attributes:
        gini: 0 where all are alike, towards 1 where one is all.
        participation: The participation ratio, from 1 to n.
        n_eff: The effective number by entropy, from 1 to n.
    """

    gini: Tensor
    participation: Tensor
    n_eff: Tensor


class Memorised(NamedTuple):
    """How near samples are to single training points.

    Attributes:
        ratios: The distance to the nearest training point over that to the second nearest, with shape (m,).
        flags: Whether it is below the limit, with shape (m,).
        nearest: The row of the nearest training point, the first of several alike, with shape (m,).
    """

    ratios: Tensor
    flags: Tensor
    nearest: Tensor

    @property
    def share(self) -> float:
        """The share of samples that are memorised."""
        return float(self.flags.double().mean())


class Coverage(NamedTuple):
    """How much of what is real is generated, and how thickly.

    Attributes:
        coverage: The share of real points with a generated one in their ball.
        density: How many balls hold a generated point on average, over k; about 1 for points that are real themselves.
        covered: Whether each real point is covered, with shape (n,).
    """

    coverage: float
    density: float
    covered: Tensor


def concentration(values: Tensor) -> Concentration:
    r"""How few of some numbers make up the sum of their sizes :math:`a_i = |v_i|`.

    .. math:: G = \frac{\sum_i (2i - n - 1)\, a_{(i)}}{n \sum_i a_i}, \qquad
              PR = \frac{(\sum_i a_i)^2}{\sum_i a_i^2}, \qquad
              n_{\mathrm{eff}} = e^{-\sum_i p_i \ln p_i},\; p_i = \frac{a_i}{\sum_j a_j}

    Args:
        values: With shape (*, n). Where all are nought the measures are NaN.

    Raises:
        DataError: If there are none.

    References:
        The Gini coefficient by ranks: "Describing Inequality in Plant Size or Fecundity" (Damgaard and Weiner, 2000).
        The effective number: "The Effective Rank" (Roy and Vetterli, 2007), of shares in place of eigenvalues.

    Example:
        >>> found = concentration(torch.tensor([1.0, -1.0, 0.0, 0.0]))
        >>> [round(float(value), 3) for value in found]
        [0.5, 2.0, 2.0]
    """
    sizes = _rows(values, "values", 1).abs()
    n, total = sizes.shape[-1], sizes.sum(-1)
    places = 2.0 * torch.arange(1, n + 1, dtype=torch.float64) - n - 1
    gini = (sizes.sort(-1).values * places).sum(-1) / (n * total)
    portions = sizes / total[..., None]
    entropy = -torch.special.xlogy(portions, portions).sum(-1)
    return Concentration(gini, 1 / portions.square().sum(-1), entropy.exp())


def cancellation(contributions: Tensor, vectors: bool = False) -> Tensor:
    r"""How much larger the contributions are than their sum, :math:`\kappa = \sum_g \|C_g\| / \|\sum_g C_g\|`.

    It is 1 where all pull one way, and infinite where they undo each other altogether; NaN where all are nought. A
    share of a sum with a large one means nothing.

    Args:
        contributions: With shape (*, g), or of vectors (*, d, g).
        vectors: Whether the axis before the last one holds the entries of a vector.

    Returns:
        With shape (*).

    Example:
        >>> float(cancellation(torch.tensor([3.0, -2.0])))
        5.0
    """
    c = _vectors(contributions, vectors)
    return c.norm(dim=-2).sum(-1) / c.sum(-1).norm(dim=-1)


def centred(contributions: Tensor) -> Tensor:
    r"""Contributions beside their mean over groups, :math:`\tilde C_g = C_g - \frac1G \sum_h C_h`.

    What every group adds alike is taken off; what is left says which group adds more than the others.

    Args:
        contributions: With shape (*, g).

    Example:
        >>> centred(torch.tensor([3.0, 1.0])).tolist()
        [1.0, -1.0]
    """
    c = _rows(contributions, "contributions", 1)
    return c - c.mean(-1, keepdim=True)


def shares(contributions: Tensor, total: Tensor) -> Tensor:
    r"""The share of each group in a change, :math:`s_g = \langle C_g, \Delta\rangle / \|\Delta\|^2`.

    They add up to 1 where the contributions add up to the change, and may be negative.

    Args:
        contributions: The vectors C, with shape (*, d, g).
        total: The change, with shape (*, d).

    Returns:
        With shape (*, g); NaN where the change is nought.

    Raises:
        DataError: If the change has another shape than the contributions without their last axis.

    Example:
        >>> shares(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0])).tolist()
        [0.5, 0.5]
    """
    c, delta = _rows(contributions, "contributions", 2), _rows(total, "total", 1)
    if c.shape[:-1] != delta.shape:
        raise DataError(f"total must have the shape of contributions without their last axis, {tuple(c.shape[:-1])}; "
                         f"{tuple(delta.shape)} came. Pass the sum of the contributions over their last axis.")
    return (c * delta[..., None]).sum(-2) / delta.square().sum(-1, keepdim=True)


def memorised(samples: Tensor, train: Tensor, limit: float = COPIED) -> Memorised:
    r"""Which samples are copies of single training points: :math:`d_1 / d_2 < 1/3`.

    :math:`d_1` and :math:`d_2` are the distances to the nearest and the second nearest training point. Training points
    that are there several times count once: beside its twin no copy would be nearer to one than to the other.

    Args:
        samples: With shape (m, *).
        train: With shape (n, *).
        limit: Below which a ratio is that of a copy.

    Raises:
        DataError: If there are no two different training points, or points have different shapes.

    References:
        "On Memorization in Diffusion Models" (Gu et al., 2025); "Why Diffusion Models Don't Memorize" (Bonnaire et al.,
        2025), both with the limit 1/3.

    Example:
        >>> found = memorised(torch.tensor([[0.1], [0.5]]), torch.tensor([[0.0], [1.0], [0.0]]))
        >>> found.flags.tolist(), found.nearest.tolist()
        ([True, False], [0, 0])
    """
    limit = as_part(limit, "limit", "1/3")
    points, known = _points(samples, train, "samples", "train")
    _, group = known.unique(dim=0, return_inverse=True)
    # The first of several alike stands for them, and the order is that of the rows.
    rows = torch.arange(len(known))
    first = torch.full((int(group.max()) + 1,), len(known)).scatter_reduce(0, group, rows, "amin").sort().values
    if len(first) < 2:
        raise DataError("memorised needs two different training points, for the nearest and the second nearest; all "
                        f"{len(known)} are the same. Pass the points that the model was trained on.")
    away = distances(points, known[first])
    nearest = away.argmin(1)
    d = away.topk(2, largest=False).values
    ratios = d[:, 0] / d[:, 1]
    return Memorised(ratios, ratios < limit, first[nearest])


def coverage_density(samples: Tensor, reference: Tensor, k: int = 5) -> Coverage:
    r"""Coverage and density of generated points :math:`y_j` beside real ones :math:`x_i`.

    .. math:: \text{coverage} = \frac1n \sum_i 1\big[\exists j: y_j \in B_i\big], \qquad
              \text{density} = \frac1{km} \sum_j \sum_i 1\big[y_j \in B_i\big],

    with :math:`B_i` the open ball around :math:`x_i` up to its k-th nearest neighbour among the other real points. The
    reference should be held out: points that the model was trained on are covered by copies of themselves. Coverage
    grows with the number of generated points, so compare equal numbers.

    Args:
        samples: The generated points, with shape (m, *).
        reference: The real points, with shape (n, *).
        k: Which neighbour.

    Raises:
        DataError: If there are not more than k real points, or points have different shapes.

    References:
        "Reliable Fidelity and Diversity Metrics for Generative Models" (Naeem et al., 2020), equations 3 and 4.

    Example:
        >>> found = coverage_density(torch.tensor([[0.1]]), torch.tensor([[0.0], [1.0], [5.0]]), k=1)
        >>> round(found.coverage, 3), found.density
        (0.667, 2.0)
    """
    k = as_count(k, "k", least=1)
    points, real = _points(samples, reference, "samples", "reference")
    if len(real) <= k:
        raise DataError(f"The ball of a real point reaches to its neighbour {k}, so there must be more than {k} real "
                        f"points; {len(real)} came. Pass more of them, or a smaller k.")
    own = distances(real, real).fill_diagonal_(math.inf)
    inside = distances(points, real) < own.kthvalue(k, 1).values
    covered = inside.any(0)
    return Coverage(float(covered.double().mean()), float(inside.double().sum(1).mean()) / k, covered)


def effective_rank(gram: Tensor, centred: bool = True) -> float:
    r"""The effective rank of a kernel matrix by the entropy of its eigenvalues' shares of the trace.

    .. math:: e^{-\sum_j p_j \ln p_j}, \qquad p_j = \lambda_j / \sum_i \lambda_i

    It grows with the number of points: compare matrices of as many.

    Args:
        gram: The matrix, with shape (n, n).
        centred: Whether rows and columns get the mean 0 first, as in a covariance.

    Raises:
        DataError: If it is no square.

    References:
        "The Effective Rank" (Roy and Vetterli, 2007), definition 1.

    Example:
        >>> round(effective_rank(torch.eye(3), centred=False), 9), round(effective_rank(torch.eye(3)), 9)
        (3.0, 2.0)
    """
    matrix = _rows(gram, "gram", 2)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"A kernel matrix is a square; one of shape {tuple(matrix.shape)} came. Pass that of points "
                         "with themselves.")
    matrix = centred_matrix(matrix) if centred else matrix
    return entropy_rank(torch.linalg.eigvalsh((matrix + matrix.T) / 2))


def intervals(values: Sequence[float]) -> Interval:
    """The mean over runs of different seeds, with the 95 % interval of Student's t from five of them on.

    Args:
        values: One for each seed.

    Example:
        >>> print(intervals([1.0, 2.0, 3.0]))
        2.000
        >>> print(intervals([1.0, 2.0, 3.0, 2.0, 2.0]))
        2.0000 (1.1220 to 2.8780)
    """
    found = over_seeds(torch.tensor([float(value) for value in values], dtype=torch.float64),
                       [str(i) for i in range(len(values))])
    known = sum(not math.isnan(value) for value in values)
    return found if known >= LEAST_SEEDS else Interval(found.mean, math.nan, math.nan)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """The distances of points with shapes (m, *) and (n, *), by their differences, with shape (m, n)."""
    a, b = one.double().flatten(1), other.double().flatten(1)
    # By products |a|^2 - 2ab + |b|^2 the distance of a point to its copy would be 1e-8, and not 0.
    rows = max(1, BLOCK // max(1, len(b)))
    return torch.cat([torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist") for part in a.split(rows)])


def _rows(values: Tensor, name: str, axes: int) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim < axes or values.shape[-1] == 0:
        came = f"one of shape {tuple(values.shape)}" if isinstance(values, Tensor) else what_came(values)
        raise DataError(f"{name} must be a tensor with {axes} axes or more and something along the last one; {came} "
                         "came. Pass one number for each group along the last axis.")
    return values.detach().to("cpu", torch.float64)


def _vectors(contributions: Tensor, vectors: bool) -> Tensor:
    c = _rows(contributions, "contributions", 2 if vectors else 1)
    return c if vectors else c[..., None, :]


def _points(one: Tensor, other: Tensor, name: str, beside: str) -> tuple[Tensor, Tensor]:
    """Points as rows in float64, of one shape, finite, and at least one on each side."""
    for points, whose in ((one, name), (other, beside)):
        if not isinstance(points, Tensor) or points.ndim < 2 or not len(points):
            came = f"a tensor of shape {tuple(points.shape)}" if isinstance(points, Tensor) else what_came(points)
            raise DataError(f"{whose} must be points as the rows of a tensor, with shape (n, *); {came} came. Pass at "
                             "least one point.")
        if not bool(points.isfinite().all()):
            raise DataError(f"{whose} holds NaN or infinite values, and no distance to them is known. Leave out these "
                            "points: points[points.flatten(1).isfinite().all(1)].")
    if one.shape[1:] != other.shape[1:]:
        raise DataError(f"{name} and {beside} must be points of one shape; points of shape {tuple(one.shape[1:])} and "
                         f"{tuple(other.shape[1:])} came. Give both the same shape, and the same scale.")
    return (one.detach().to("cpu", torch.float64).flatten(1), other.detach().to("cpu", torch.float64).flatten(1))


def locality(mass: Tensor, places: Tensor, others: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    r"""How near to each place its mass is: :math:`1 - \mathrm{rms}_W(t' - t) / \mathrm{rms}_p(t' - t)`.

    Args:
        mass: Not negative, with shape (K, L); rows are brought to sum 1.
        places: The K places t.
        others: The L places t' of the mass; ``places`` if not given.
        weights: What the mass is compared with, p, with shape (L,); all alike if not given.

    Returns:
        With shape (K,): 1 where all mass is at the place itself, 0 where it is spread as p, below 0 where it is
        further away; NaN where there is none.

    Example:
        >>> places = torch.arange(4.0)
        >>> locality(torch.eye(4), places).tolist(), locality(torch.ones(4, 4), places).tolist()
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    """
    mass, places = mass.double(), places.double()
    others = places if others is None else others.double()
    apart = (others[None] - places[:, None]).square()
    w = mass / mass.sum(1, keepdim=True)
    p = torch.full_like(others, 1 / len(others)) if weights is None else weights / weights.sum()
    return 1 - ((w * apart).sum(1) / (p * apart).sum(1)).sqrt()


def localisation_index(mass: Tensor, levels: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    r"""The noise-localisation index :math:`1 - \mathrm{rms}_W(\ln\sigma' - \ln\sigma) / \mathrm{rms}_p(\cdot)`.

    Args:
        mass: How much of each other level is behind a level, with shape (K, L); rows are brought to sum 1.
        levels: The K levels.
        others: The L levels.
        weights: The training noise p, with shape (L,).

    Returns:
        With shape (K,): 0 where the mass is spread as the training noise, 1 where it is at the level itself, below 0
        where it is further away; NaN where there is none.

    Example:
        >>> at, p = torch.tensor([0.1, 1.0, 10.0]), torch.full((3,), 1 / 3)
        >>> localisation_index(torch.eye(3), at, at, p).tolist()
        [1.0, 1.0, 1.0]
        >>> bool(localisation_index(torch.ones(3, 3), at, at, p).abs().max() < 1e-6)
        True
    """
    return locality(mass, levels.log(), others.log(), weights)


def surplus(shares: Tensor) -> Tensor:
    """What each group has more than the mean one, along the last axis; all alike where none has.

    Example:
        >>> surplus(torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.0, 2.0]])).tolist()
        [[0.0, 0.0, 3.0], [1.0, 1.0, 1.0]]
    """
    beside = centred(shares).clamp_min(0)
    return torch.where(beside.sum(-1, keepdim=True) > 0, beside, 1.0)
