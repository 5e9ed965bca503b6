"""What the kernels of a model see: in how many directions, and whether along classes and pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...measures import alignment, centred, cosine
from ..measures import distances, effective_rank
from .readings import PIXELS, UNTRAINED, Reading, Setting
from .sides import Side, View

__all__ = ["kernel_readings"]

#: The largest rank that centred kernels of n points have.
CEILING = "ceiling"


def kernel_readings(side: Side, setting: Setting) -> list[Reading]:
    """Effective rank, and alignment with classes, with clean pixels and with real against generated."""
    points = min(setting.points, len(setting.train))
    x = setting.train[setting.drawn(points, 13)]
    noise = torch.randn(x.shape, generator=setting.source(14), dtype=torch.float64)
    z = side.latents(points, setting.source(15))
    readings = []
    before = {view.slot: view for view in side.views(x, noise, z, 0)}
    for view in side.views(x, noise, z):
        old = before[view.slot]
        where = f"{view.where}, {points} points"
        readings.append(Reading("kernel_rank", view.slot, where, effective_rank(view.gram),
                                {UNTRAINED: effective_rank(old.gram), CEILING: points - 1.0}))
        for metric, of in _targets(view, setting).items():
            # The same points on both sides, so that only training makes the difference.
            readings.append(Reading(metric, view.slot, where, of(view.gram), {UNTRAINED: of(old.gram), **(
                {PIXELS: of(_pixels(view.seen))} if metric != "pixel_alignment" else {})}))
    return readings


def _targets(view: View, setting: Setting) -> dict:
    """What a kernel is held against, by metric: a function of the matrix each."""
    found = {"pixel_alignment": lambda gram: cosine(centred(gram), centred(_pixels(view.seen)))}
    if setting.labels is not None:
        classes = _classes(view.seen, setting)
        if len(classes.unique()) > 1:
            rows = one_hot(classes.unique(return_inverse=True)[1]).double()
            found["class_alignment"] = lambda gram: alignment(gram, rows)
    if bool(view.real.any()) and not bool(view.real.all()):
        sides = torch.where(view.real, 1.0, -1.0).double()[:, None]
        found["real_alignment"] = lambda gram: alignment(gram, sides)
    return found


def _classes(points: Tensor, setting: Setting) -> Tensor:
    """The class of the nearest training point; of a training point its own."""
    assert setting.labels is not None
    return setting.labels[distances(points, setting.train).argmin(1)]


def _pixels(points: Tensor) -> Tensor:
    flat = points.double().flatten(1)
    return flat @ flat.T / math.sqrt(flat.shape[1])
