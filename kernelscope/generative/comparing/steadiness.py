r"""Whether another seed makes the same: of the same latents, and at all.

With samples x and x' of two runs and the mean :math:`\mu` of training, the cosine of :math:`x - \mu` and
:math:`x' - \mu`, at the same latents; or with the nearest x' of all.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from .readings import REAL, Reading, Setting
from .sides import Side

__all__ = ["steadiness"]

#: The null of latents that have lost their places.
OTHERS = "other latents"


def steadiness(runs: list[Side], setting: Setting) -> list[Reading]:
    """The mean cosine of what neighbouring runs make, of the same latents and with the nearest match."""
    if len(runs) < 2:
        return []
    z = runs[0].latents(setting.samples, setting.source(16))
    middle = setting.train.mean(0)
    made = [_directions(side.generate(z), middle) for side in runs]
    # Two sets of real points tell how near the nearest match is of what differs by the draw alone.
    half = len(setting.train) // 2
    order = torch.randperm(len(setting.train), generator=setting.source(17))
    count = min(setting.samples, half)
    real = _directions(setting.train[order], middle)
    natural = _matched(real[:count], real[half:half + count])
    found = [(float((one * other).sum(1).mean()), float((one * other.roll(1, 0)).sum(1).mean()), _matched(one, other))
             for one, other in pairwise(made)]
    same, elsewhere, matched = (sum(values) / len(found) for values in zip(*found, strict=True))
    where = f"{len(runs)} seeds"
    return [Reading("stability", "main", where, same, {OTHERS: elsewhere}),
            Reading("matched_stability", "main", where, matched, {REAL: natural})]


def _directions(points: Tensor, middle: Tensor) -> Tensor:
    away = (points - middle).flatten(1)
    return away / away.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _matched(one: Tensor, other: Tensor) -> float:
    return float((one @ other.T).max(1).values.mean())
