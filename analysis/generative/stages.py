"""Where in noise does a denoiser learn what it does? Its kernel, and the path of its training.

Both questions are asked of one recorded network. The kernel says which noise levels are coupled; the path says which
ones taught which. Each answer stands beside its null. One generated digit is then split exactly.
"""

from __future__ import annotations

from typing import Any

import torch

import kernelscope as ks

from .models import digits

__all__ = ["e6", "e7", "one_digit"]


def one_digit(run: ks.Run, seed: int = 0, **options: Any) -> ks.generative.DiffusionExplanation:
    """One generated digit, split over sampling stages, training noise and training images."""
    x, y = digits()
    z = torch.randn(1, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return ks.generative.explain_diffusion(run, z, labels=y, held_out=digits("test")[0],
                                            directions="displacement", **options)


def e6(run: ks.Run, points: int = 32, levels: int = 12, seed: int = 0) -> dict[str, Any]:
    """Which noise levels the kernel of the trained network couples, by pairs and by independent points."""
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


def e7(run: ks.Run, points: int = 60, bins: int = 8, seed: int = 0) -> dict[str, Any]:
    """Which training noise taught the network what it does at each noise level."""
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
