"""Which closed form is a trained denoiser, at which noise, and what do the closed forms alone already do?

Three experiments on handwritten digits:

- :func:`e1`: the optimal denoiser goes down the noise levels; where in noise its weights on training images change, how
  few images they rest on, and when the final image is fixed. Null: the same change at every stage.
- :func:`e2`: two trained denoisers beside closed forms, level by level. Nulls: the noisy point, the untrained network.
- :func:`e3`: the geometry of their Jacobians. Nulls: Wiener, optimal, untrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

import kernelscope as ks

from .models import digits

__all__ = ["Settings", "e1", "e2", "e3"]


@dataclass(frozen=True)
class Settings:
    """How large the experiments are.

    Attributes:
        stages: The stages of the sampler.
        samples: How many images are sampled.
        points: Held-out images that closed forms are compared at.
        jacobians: Held-out images that Jacobians are taken at.
        levels: Noise levels of the comparison.
        fine: Noise levels of the Jacobians.
        windows: Windows of the local denoiser.
        equivariant: Windows of the equivariant one.
        seed: Where noise begins.
    """

    stages: int = 18
    samples: int = 256
    points: int = 64
    jacobians: int = 48
    levels: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0, 2.0, 5.0)
    fine: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    windows: tuple[int, ...] = (3, 5, 7)
    equivariant: tuple[int, ...] = (3, 5)
    seed: int = 0


def e1(settings: Settings) -> tuple[dict[str, float], "ks.generative.OptimalExplanation"]:
    """Samples of the optimal denoiser, split over training images by stage; numbers beside their null."""
    x, y = digits()
    z = torch.randn(settings.samples, x.shape[1], generator=torch.Generator().manual_seed(settings.seed))
    why = ks.generative.explain_optimal(x, z, levels=ks.generative.schedule(settings.stages), labels=y)
    # The change of the first stage is that from even weights.
    change = torch.cat([why.weights[:, :1] - 1 / len(x), why.stage_contributions()], 1)
    moved = change.abs().sum(2).mean(0)
    part, logs = moved / moved.sum(), why.levels.log()
    leads = (why.weights.argmax(2) == why.weights[:, -1].argmax(1, keepdim=True)).double().mean(0)
    low, high = _middle_half(part, logs)
    null = _middle_half(torch.full_like(part, 1 / len(part)), logs)
    settled = next((float(logs[k]) for k in range(len(logs)) if bool((leads[k:] >= 0.95).all())), float("nan"))
    measures = why.concentration()
    return {
        "change from": low, "change to": high, "width": high - low, "null width": null[1] - null[0],
        "fixed at": settled, "largest sum of a stage": float(change.sum(2).abs().max()),
        "n_eff first": float(measures.n_eff[:, 0].median()), "n_eff last": float(measures.n_eff[:, -1].median()),
        "gini first": float(measures.gini[:, 0].median()), "gini last": float(measures.gini[:, -1].median()),
    }, why


def e2(settings: Settings, runs: Mapping[str, ks.Run]) -> dict[str, "ks.generative.DenoiserFit"]:
    """Closed forms beside each network."""
    x = digits("test")[0][:settings.points]
    return {name: ks.generative.denoiser_fit(run, x, settings.levels, train=digits()[0], windows=settings.windows,
                                             equivariant=settings.equivariant, seed=settings.seed, dtype=torch.float32)
            for name, run in runs.items()}


def e3(settings: Settings, runs: Mapping[str, ks.Run]) -> "ks.generative.JacobianGeometry":
    """The Jacobians of the networks beside those of closed forms."""
    return ks.generative.jacobian_geometry(dict(runs), digits("test")[0][:settings.jacobians], settings.fine,
                                           train=digits()[0], seed=settings.seed)


def _middle_half(part: Tensor, logs: Tensor) -> tuple[float, float]:
    """Between which noise levels the middle half of the change is: a quarter comes before, a quarter after."""
    # The change of a stage lies between the level before it and its own.
    edges = torch.cat([logs[:1] + (logs[0] - logs[1]), logs])
    told = torch.cat([torch.zeros(1, dtype=part.dtype), part.cumsum(0)])

    def at(quantile: float) -> float:
        k = int((told < quantile).sum())
        inside = float((quantile - told[k - 1]) / (told[k] - told[k - 1]))
        return float(edges[k - 1] + inside * (edges[k] - edges[k - 1]))

    return at(0.75), at(0.25)
