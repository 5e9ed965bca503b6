r"""How much each real image has to say, and which ones the generator dropped.

Contributions of real images nearly all agree, and they cancel against those of generated points. What tells them apart
is what is left of them without their mean,

.. math:: \tilde c_i = c_i - \frac1n \sum_j c_j, \qquad m_i \propto \sum_z |\tilde c_i(z)| .

A real image is *covered* if a generated point is as near to it as its k-th nearest real neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranks import auroc

__all__ = ["FAINT", "covered", "mass", "modes", "shares_of_classes"]

#: A real image has next to no mass below this share of what each would have if all had the same.
FAINT = 0.1

#: How many times labels are shuffled for a null.
SHUFFLES = 200


def mass(real: Tensor) -> Tensor:
    """The mass of each real image over all points, with shape (n,); it sums to one.

    Args:
        real: The contributions of real images, with shape (..., n).

    Example:
        >>> mass(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [0.5, 0.0, 0.5]
    """
    apart = (real - real.mean(-1, keepdim=True)).abs().flatten(0, -2).sum(0)
    return apart / apart.sum().clamp_min(torch.finfo(apart.dtype).tiny)


def covered(real: Tensor, samples: Tensor, k: int = 5, of: Tensor | None = None) -> Tensor:
    """Whether some sample is as near to each real image as its k-th nearest real neighbour, with shape (n,).

    Args:
        real: The real images, with shape (n, *).
        samples: The samples, with shape (m, *).
        k: Which neighbour tells how far is near.
        of: The real images that neighbours are looked for among, if not all.

    References:
        "Reliable Fidelity and Diversity Metrics for Generative Models" (Naeem et al., 2020), equation 4.

    Example:
        >>> covered(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.5]]), k=1).tolist()
        [True, True, False]
    """
    x, y = real.flatten(1).double(), samples.flatten(1).double()
    among = x if of is None else of.flatten(1).double()
    own = 1 if of is None else 0
    k = min(k, len(among) - own)
    radius = torch.cdist(x, among).kthvalue(k + own, dim=1).values
    return torch.cdist(x, y).amin(1) <= radius


def modes(weights: Tensor, real: Tensor, generated: Tensor, untrained: Tensor, held: Tensor | None,
          seed: int = 0) -> tuple[Tensor, dict[str, float]]:
    """Which real images are covered, and what dropping them has to do with their mass, beside its nulls.

    Args:
        weights: The mass of each real image.
        real: The real images.
        generated: What the generator makes.
        untrained: What it made before training, as many.
        held: Real points held out, for the ceiling; half of the real ones against the other half, if not given.
        seed: Where the null's shuffles begin.

    Returns:
        Whether each real image is covered, and the numbers.
    """
    source = torch.Generator().manual_seed(seed)
    near = covered(real, generated)
    order = torch.randperm(len(real), generator=source)
    half, other = real[order[: len(real) // 2]], real[order[len(real) // 2:]]
    above = covered(half, other) if held is None else covered(real, held)
    faint = weights < FAINT / len(weights)
    shuffled = [near[torch.randperm(len(near), generator=source)] for _ in range(SHUFFLES)]
    told = [_told(weights, each) for each in shuffled]
    spread = torch.tensor(told, dtype=torch.float64)
    return near, {
        "covered": float(near.double().mean()), "covered_untrained": float(covered(real, untrained).double().mean()),
        "covered_by_real": float(above.double().mean()), "generated": float(len(generated)),
        "faint": float(faint.double().mean()), "dropped": float((faint & ~near).sum()),
        "dropped_shuffled": float(torch.stack([(faint & ~each).sum() for each in shuffled]).double().mean()),
        "auroc": _told(weights, near),
        "auroc_shuffled_low": float(spread.quantile(0.025)), "auroc_shuffled_high": float(spread.quantile(0.975)),
    }


def _told(weights: Tensor, near: Tensor) -> float:
    """The chance that a covered image has more mass than one that is not; a half where all are alike."""
    return 0.5 if bool(near.all()) or not bool(near.any()) else auroc(weights[near], weights[~near])


def shares_of_classes(weights: Tensor, near: Tensor, labels: list[str]) -> dict[str, dict[str, float]]:
    """For each class its part of the real images, its mass and how much of it is covered."""
    found = {}
    for name in sorted(set(labels)):
        own = torch.tensor([label == name for label in labels])
        found[name] = {"images": float(own.double().mean()), "mass": float(weights[own].sum()),
                       "covered": float(near[own].double().mean())}
    return found
