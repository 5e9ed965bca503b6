"""Which closed form is a trained denoiser, at which noise, and what do the closed forms alone already do?

Three experiments on handwritten digits:

- :func:`e1`: the optimal denoiser goes down the noise levels; where in noise its weights on training images change, how
  few images they rest on, and when the final image is fixed. Null: the same change at every stage.
- :func:`e2`: two trained denoisers beside closed forms, level by level. Nulls: the noisy point, the untrained network.
- :func:`e3`: the geometry of their Jacobians. Nulls: Wiener, optimal, untrained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

import kernelscope as ks


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
        widths: The width of each network: about 65 thousand parameters, and 25 thousand.
        steps: Training steps of each network.
        seed: Where training and noise begin.
    """

    stages: int = 18
    samples: int = 256
    points: int = 64
    jacobians: int = 48
    levels: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0, 2.0, 5.0)
    fine: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    windows: tuple[int, ...] = (3, 5, 7)
    equivariant: tuple[int, ...] = (3, 5)
    widths: tuple[tuple[str, int], ...] = (("mlp", 192), ("conv", 36))
    steps: int = 3000
    seed: int = 0


def trained(settings: Settings) -> dict[str, ks.Run]:
    """The runs that the experiments ask about: a fully connected denoiser and a convolutional one."""
    x = _digits("train")
    return {name: ks.generative.train_diffusion(x, network=name, width=width, steps=settings.steps, seed=settings.seed,
                                                keep=settings.steps)
            for name, width in settings.widths}


def e1(settings: Settings) -> tuple[dict[str, float], pd.DataFrame]:
    """Stage attributions of the optimal denoiser; numbers, and a row for each stage."""
    optimal = ks.generative.OptimalDenoiser(_digits("train"))
    z = torch.randn(settings.samples, 64, generator=torch.Generator().manual_seed(settings.seed), dtype=torch.float64)
    down = ks.generative.sample(optimal, z, ks.generative.schedule(settings.stages))
    w = torch.stack([optimal.weights(points, level.expand(len(z)))
                     for points, level in zip(down.points, down.levels, strict=True)])  # (stages, samples, n)
    change = torch.cat([w[:1] - 1 / w.shape[2], w.diff(dim=0)])
    moved = change.abs().sum(2) / 2
    part = moved.mean(1) / moved.mean(1).sum()
    logs = down.levels.log()
    fixed = (w.argmax(2) == w[-1].argmax(1)).double().mean(1)
    entropy = torch.special.entr(w).sum(2).exp()
    table = pd.DataFrame({
        "log sigma": logs.tolist(), "n_eff": (1 / w.square().sum(2)).median(1).values.tolist(),
        "n_eff by entropy": entropy.median(1).values.tolist(), "gini": _gini(w).mean(1).tolist(),
        "moved": moved.mean(1).tolist(), "share of change": part.tolist(), "final image leads": fixed.tolist()})
    low, high = _middle_half(part, logs)
    null = _middle_half(torch.full_like(part, 1 / len(part)), logs)
    settled = next((float(logs[k]) for k in range(len(logs)) if bool((fixed[k:] >= 0.95).all())), float("nan"))
    return {
        "change from": low, "change to": high, "width": high - low, "null width": null[1] - null[0],
        "fixed at": settled, "largest sum of a stage": float(change.sum(2).abs().max()),
        "telescoping": float((down.denoised[0] + down.denoised.diff(dim=0).sum(0) - down.final).abs().max()),
    }, table


def e2(settings: Settings, runs: Mapping[str, ks.Run]) -> dict[str, "ks.generative.DenoiserFit"]:
    """Closed forms beside each network."""
    x = _digits("test")[:settings.points]
    return {name: ks.generative.denoiser_fit(run, x, settings.levels, train=_digits("train"), windows=settings.windows,
                                             equivariant=settings.equivariant, seed=settings.seed, dtype=torch.float32)
            for name, run in runs.items()}


def e3(settings: Settings, runs: Mapping[str, ks.Run]) -> "ks.generative.JacobianGeometry":
    """The Jacobians of the networks beside those of closed forms."""
    return ks.generative.jacobian_geometry(dict(runs), _digits("test")[:settings.jacobians], settings.fine,
                                           train=_digits("train"), seed=settings.seed)


def _digits(split: str) -> Tensor:
    return ks.data.digits(split).x.flatten(1) * 2 - 1


def _gini(weights: Tensor) -> Tensor:
    """0 where all are alike, towards 1 where one is all."""
    ordered, n = weights.sort(-1).values, weights.shape[-1]
    ranks = torch.arange(1, n + 1, dtype=weights.dtype)
    return 2 * (ordered * ranks).sum(-1) / (n * ordered.sum(-1)) - (n + 1) / n


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
