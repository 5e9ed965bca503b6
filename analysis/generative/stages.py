"""Where in noise does a denoiser learn what it does? Its kernel, and the path of its training.

Both questions are asked of one network of 23,000 parameters, trained on the handwritten digits. The kernel says which
noise levels are coupled; the path says which ones taught which. Each answer stands beside its null.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import kernelscope as ks

__all__ = ["denoiser", "digits", "e1", "e6", "e7"]


def denoiser(steps: int = 1000, width: int = 96, optimizer: str = "adam", seed: int = 0) -> Any:
    """The recorded run of a fully connected denoiser of digits: 23,296 parameters with the width 96."""
    return ks.generative.train_diffusion(digits()[0], width=width, steps=steps, optimizer=optimizer, seed=seed)


def digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """The digits with inputs between -1 and 1, and their classes."""
    data = ks.data.digits(split)
    return data.x * 2 - 1, data.y


def e1(samples: int = 64, stages: int = 18, seed: int = 0) -> dict[str, Any]:
    """How the optimal denoiser's samples come to rest on single training images."""
    x, y = digits()
    z = torch.randn(samples, x.shape[1], generator=torch.Generator().manual_seed(seed))
    why = ks.generative.explain_optimal(x, z, levels=ks.generative.schedule(stages), labels=y)
    fixed = torch.tensor([why.fixed(i) for i in range(len(why))]).log()
    low, high = why.middle()
    table = why.to_frame()
    return {"result": why, "table": table, "fixed": float(fixed.median()),
            "middle": (float(torch.tensor(low).log()), float(torch.tensor(high).log())),
            "sum": float(why.stage_contributions().sum(-1).abs().max()),
            "confirmed": {"sum is nought": float(why.stage_contributions().sum(-1).abs().max()) <= 1e-14,
                          "rests on one": float(table["n_eff"].iloc[-1]) < 1.5}}


def e6(run: Any = None, points: int = 32, levels: int = 12, seed: int = 0) -> dict[str, Any]:
    """Which noise levels the kernel of the trained network couples, by pairs and by independent points."""
    run = denoiser(seed=seed) if run is None else run
    labels = digits()[1]
    found = {mode: ks.generative.noise_kernel(run, levels=levels, points=points if mode == "paired" else 2 * points,
                                              paired=mode == "paired", labels=labels, seed=seed)
             for mode in ("paired", "independent")}
    paired = found["paired"]
    low, high = paired.levels.log() <= -1, paired.levels.log() >= 1.5
    blocks = {"low": float(paired.cosine[low][:, low].mean()), "high": float(paired.cosine[high][:, high].mean()),
              "across": float(paired.cosine[low][:, high].mean())}
    untrained = paired.index_untrained
    return {"result": paired, "independent": found["independent"], "table": paired.to_frame(), "blocks": blocks,
            "index": float(paired.index @ paired.weights), "untrained": float(untrained @ paired.weights),
            "shuffled": float(paired.shuffled[0] @ paired.weights),
            "confirmed": {"two blocks": min(blocks["low"], blocks["high"]) - blocks["across"] > 0.5,
                          "beyond the untrained network": float((paired.index - untrained) @ paired.weights) > 0,
                          "alignment with pixels falls": bool(paired.pixels[0] > paired.pixels[-1])}}


def e7(run: Any = None, points: int = 60, bins: int = 8, seed: int = 0) -> dict[str, Any]:
    """Which training noise taught the network what it does at each noise level."""
    run = denoiser(seed=seed) if run is None else run
    labels = digits()[1]
    found = ks.generative.noise_localisation(run, points=points, bins=bins, labels=labels, seed=seed,
                                             dtype=torch.float32)
    own = found.own.mean(0)
    return {"result": found, "table": found.to_frame(), "index": float(found.index.mean()),
            "shuffled": float(found.index_shuffled[0].mean()), "near": float(found.near.mean()),
            "uniform": float(found.near_uniform.mean()), "cancellation": float(found.cancellation.max()),
            "own class": (float(own[0]), float(own[-1])),
            "confirmed": {"complete": found.check().ok, "local beyond shuffled draws": "beyond" in found.said(),
                          "own class counts more at low noise": bool(own[0] > own[-1])}}
