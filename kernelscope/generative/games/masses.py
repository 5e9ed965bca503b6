r"""How much each real image has to say, and which ones the generator dropped.

Contributions of real images nearly all agree, and they cancel against those of generated points. What tells them apart
is what is left of them without their mean,

.. math:: \tilde c_i = c_i - \frac1n \sum_j c_j, \qquad m_i \propto \sum_z |\tilde c_i(z)| .

A real image is *covered* if a generated point is nearer to it than its k-th nearest real neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import DataError
from ...ranks import auroc
from ..measures import coverage_density

__all__ = ["FAINT", "beside_mean", "mass", "modes", "shares_of_classes"]

#: A real image has next to no mass below this share of what each would have if all had the same.
FAINT = 0.1

#: Which real neighbour tells how far is near, where there are so many.
NEIGHBOUR = 5

#: How many times labels are shuffled for a null.
SHUFFLES = 200


def mass(real: Tensor, seen: Tensor | None = None) -> Tensor:
    """The mass of each real image over all points, with shape (n,); it sums to one.

    Args:
        real: The contributions of real images, with shape (..., n).
        seen: Which of them the critic was shown, with shape (n,); all if not given. The mean is over these, and others
            have no mass.

    Example:
        >>> mass(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [0.5, 0.0, 0.5]
    """
    apart = beside_mean(real, seen).abs().flatten(0, -2).sum(0)
    return apart / apart.sum().clamp_min(torch.finfo(apart.dtype).tiny)


def beside_mean(real: Tensor, seen: Tensor | None = None) -> Tensor:
    """Contributions beside the mean of those images that were shown; the others have none, and stay at nought.

    Example:
        >>> beside_mean(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([True, True, False])).tolist()
        [-1.0, 1.0, 0.0]
    """
    if seen is None:
        return real - real.mean(-1, keepdim=True)
    mean = (real * seen).sum(-1, keepdim=True) / max(int(seen.sum()), 1)
    return torch.where(seen, real - mean, 0.0)


def modes(weights: Tensor, real: Tensor, generated: Tensor, untrained: Tensor, held: Tensor | None,
          seed: int = 0) -> tuple[Tensor, dict[str, float]]:
    """Which real images are covered, and what dropping them has to do with their mass, beside its nulls.

    Args:
        weights: The mass of each real image, which sums to one over those that were shown.
        real: The real images; rows of NaN, which the critic was never shown, are covered by nothing.
        generated: What the generator makes.
        untrained: What it made before training, as many.
        held: Real points held out, for the ceiling; half of the real ones against the other half, if not given.
        seed: Where the null's shuffles begin.

    Returns:
        Whether each real image is covered, and the numbers.
    """
    source = torch.Generator().manual_seed(seed)
    known = real.flatten(1).isfinite().all(1)
    real, weights = real[known], weights[known]
    if len(real) < 4:
        raise DataError(f"What is dropped is told of 4 real points or more that the critic was shown; it was shown "
                        f"{len(real)}. Explain a longer run.")
    # Half of the real points must have so many neighbours too.
    k = min(NEIGHBOUR, len(real) // 2 - 1)
    near = coverage_density(generated, real, k).covered
    order = torch.randperm(len(real), generator=source)
    half, other = real[order[: len(real) // 2]], real[order[len(real) // 2:]]
    above = coverage_density(other, half, k) if held is None else coverage_density(held, real, k)
    every = torch.zeros(len(known), dtype=torch.bool)
    every[known] = near
    faint = weights < FAINT / len(real)
    shuffled = [near[torch.randperm(len(near), generator=source)] for _ in range(SHUFFLES)]
    told = [_told(weights, each) for each in shuffled]
    spread = torch.tensor(told, dtype=torch.float64)
    return every, {
        "covered": float(near.double().mean()), "covered_untrained": coverage_density(untrained, real, k).coverage,
        "covered_by_real": above.coverage, "generated": float(len(generated)),
        "faint": float(faint.double().mean()), "dropped": float((faint & ~near).sum()),
        "dropped_shuffled": float(torch.stack([(faint & ~each).sum() for each in shuffled]).double().mean()),
        "auroc": _told(weights, near),
        "auroc_shuffled_low": float(spread.quantile(0.025)), "auroc_shuffled_high": float(spread.quantile(0.975)),
    }


def _told(weights: Tensor, near: Tensor) -> float:
    """The chance that a covered image has more mass than one that is not; a half where all are alike."""
    return 0.5 if bool(near.all()) or not bool(near.any()) else auroc(weights[near], weights[~near])


def shares_of_classes(weights: Tensor, near: Tensor, labels: list[str], seen: Tensor) -> dict[str, dict[str, float]]:
    """For each class its part of the images that were shown, its mass and how much is covered; NaN of none shown."""
    found = {}
    for name in sorted(set(labels)):
        own = torch.tensor([label == name for label in labels]) & seen
        found[name] = {"images": float(own.sum()) / max(int(seen.sum()), 1), "mass": float(weights[own].sum()),
                       "covered": float(near[own].double().mean())}
    return found
