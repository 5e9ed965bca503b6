"""The problems: points, targets, centers and a kernel, the same for every contender."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kernelscope as ks

#: The ridge of those that have one.
RIDGE = 1e-6


@dataclass(frozen=True)
class Setting:
    """What names a problem."""

    source: str
    kernel: str
    n: int
    p: int
    factor: float = 1.0
    d: int = 64
    precision: str = "float32"

    @property
    def title(self) -> str:
        """The problem in words."""
        what = "photograph patches, 9 × 9" if self.source == "patches" else f"synthetic, d = {self.d}"
        return (f"{what}, {self.kernel}, bandwidth {self.factor:g} of the median, n = {self.n}, p = {self.p}, "
                f"{self.precision}")


@dataclass(frozen=True)
class Task:
    """A problem, made."""

    setting: Setting
    x: Tensor
    y: Tensor
    z: Tensor
    x_test: Tensor
    y_test: Tensor
    bandwidth: float

    def kernel(self, like: Any = None) -> Any:
        """The kernel; of another class of the same name, if one is given."""
        return getattr(ks.kernels if like is None else like, self.setting.kernel)(self.bandwidth)


def made(setting: Setting, tests: int = 2000) -> Task:
    """The points of a problem; centers are the first of them, which are in a random order."""
    if setting.source == "patches":
        train, test = ks.data.patches("train", count=setting.n), ks.data.patches("test", count=tests)
        x, y, x_test, y_test = train.x, train.y, test.x, test.y
    else:
        x, y = synthetic(setting.n, setting.d, 0)
        x_test, y_test = synthetic(tests, setting.d, 1)
    kind = getattr(torch, setting.precision)
    x, y, x_test, y_test = (t.to(kind) for t in (x, y, x_test, y_test))
    bandwidth = setting.factor * ks.kernels.bandwidth.median_bandwidth(x)
    return Task(setting, x, y, x[:setting.p].clone(), x_test, y_test, bandwidth)


def synthetic(n: int, d: int, seed: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Points near a curved surface, and a random function of where they are on it, with noise."""
    fixed, own = torch.Generator().manual_seed(1234), torch.Generator().manual_seed(seed)
    draw = lambda generator, *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    m = min(d, 64)
    scales = torch.arange(1, m + 1, dtype=torch.float64) ** -0.5
    mix, shift = 2 * draw(fixed, m, d) / math.sqrt(m), 0.3 * draw(fixed, d)
    places, heights = draw(fixed, 512, m) * scales, draw(fixed, 512, 1)
    function = lambda u: torch.exp(-2 * torch.cdist(u, places) / math.sqrt(m)) @ heights
    known = function(draw(fixed, 2000, m) * scales)
    u = draw(own, n, m) * scales
    x = (torch.relu(u @ mix + shift) + 0.05 * draw(own, n, d) - 0.5) / 0.75
    return x, (function(u) - known.mean()) / known.std() + noise * draw(own, n, 1)
