r"""Denoisers of disjoint halves of the points, given the same noise.

Two networks that saw no point in common make the same sample of the same noise if what they learned is the law of the
points and not the points. So might two closed forms that know no more than a mean and a covariance: these are the null
beside which agreement is read, and the untrained network another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, as_count
from ...diagnostics.winners import Interval
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ...text import with_minus
from ..denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from ..denoising.noise import schedule
from ..denoising.sampling import sample
from ..measures import intervals
from .many import train_many

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PAIRS", "DisjointHalves", "disjoint_halves"]

#: What is compared: networks of two halves; a network and its own training points; and the nulls.
HALVES, NEAREST, OTHER, UNTRAINED, WIENER, OPTIMAL = (
    "halves", "nearest training point", "halves, other noise", "halves, untrained", "halves, Wiener", "halves, optimal")
PAIRS = (HALVES, NEAREST, OTHER, UNTRAINED, WIENER, OPTIMAL)


@dataclass(frozen=True, eq=False, repr=False)
class DisjointHalves(Result):
    """How alike samples of the same noise are, by how many points each half has.

    Attributes:
        sizes: The points of a half.
        values: For each of :data:`PAIRS` the mean cosine of samples less the mean point, with shape (seeds, sizes).
        info: Facts to print.
    """

    sizes: list[int]
    values: dict[str, Tensor]
    info: dict[str, Any] = field(default_factory=dict)

    def interval(self, pair: str, size: int) -> Interval:
        """The mean of a cosine over seeds, with its 95 % interval from five seeds on."""
        as_choice(pair, "pair", PAIRS)
        if size not in self.sizes:
            raise DataError(f"There are no halves of {size} points. There are {self.sizes}.")
        return intervals(self.values[pair][:, self.sizes.index(size)].tolist())

    @property
    def crossing(self) -> int | None:
        """The least size from which on two halves agree more than each does with its nearest training points."""
        above = (self.values[HALVES].mean(0) > self.values[NEAREST].mean(0)).tolist()
        if not above[-1]:
            return None
        first = max((i + 1 for i, one in enumerate(above) if not one), default=0)
        return self.sizes[first]

    def said(self) -> str:
        """From where on halves agree, and whether more than closed forms do, in words."""
        last = {pair: float(found[:, -1].mean()) for pair, found in self.values.items()}
        text = (f"from n = {self.crossing} on two halves agree more with each other than with their nearest training "
                "points" if self.crossing is not None else
                "two halves agree less with each other than with their nearest training points")
        other = with_minus(f"{last[OTHER]:.3f}")
        beside = ", ".join(f"{'more' if last[HALVES] > last[pair] else 'no more'} than {name}, {last[pair]:.3f}"
                           for pair, name in ((WIENER, "Wiener denoisers of the halves"),
                                              (UNTRAINED, "untrained networks")))
        return (f"{text}: cosines {last[HALVES]:.3f} and {last[NEAREST]:.3f} at n = {self.sizes[-1]}; that is "
                f"{beside}; optimal denoisers have {last[OPTIMAL]:.3f}, other noise {other}")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"DisjointHalves({len(self.sizes)} sizes, {len(self.values[HALVES])} seeds: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each size and each pair."""
        import pandas as pd

        rows = []
        for size in self.sizes:
            for pair in self.values:
                found = self.interval(pair, size)
                rows.append({"n": size, "of": pair, "cosine": found.mean, "low": found.low, "high": found.high})
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the null of other noise is where it must be, and there are several seeds."""
        other, same = (float(self.values[pair][:, -1].mean()) for pair in (OTHER, HALVES))
        seeds = len(self.values[HALVES])
        return Check((
            CheckRow("other noise", "pass" if other < same / 2 else "warn", other, same / 2,
                     f"Samples of other noise have the cosine {other:.3f}, those of the same noise {same:.3f}."),
            CheckRow("seeds", "pass" if seeds > 1 else "warn", float(seeds), 2.0,
                     f"Every size was trained with {seeds} seed{'s' * (seeds > 1)}.")))


def disjoint_halves(denoiser: Callable[[], nn.Module], x: Tensor, sizes: Sequence[int] = (32, 256, 718), *,
                    seeds: Sequence[int] = (0, 1), steps: int = 1500, batch: int = 64, rate: float = 5e-3,
                    course: str = "cosine", samples: int = 120, stages: int = 18) -> DisjointHalves:
    """Trains two denoisers on two sets of n points each that share none, and gives both the same noise.

    Args:
        denoiser: Gives a new :class:`Denoiser`.
        x: The points, with shape (N, d).
        sizes: How many points each half has, at most N / 2.
        seeds: The seeds of orders, networks and batches; the two networks of a pair have two seeds.
        steps: The steps of each training.
        batch: The points of a step.
        rate: The learning rate of Adam.
        course: ``"cosine"`` or ``"constant"``.
        samples: How many samples are drawn.
        stages: The noise levels of the sampler.

    Raises:
        DataError: If there are no sizes, or two halves of the largest have not enough points.

    References:
        E5 of the notes on generative models, after "Generalization in Diffusion Models Arises from Geometry-Adaptive
        Harmonic Representations" (Kadkhodaie et al., 2024).

    Example:
        >>> from kernelscope.generative import Denoiser
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> found = disjoint_halves(lambda: Denoiser(NoiseMLP(2, width=4), 1.0), x, (4, 20), seeds=[0], steps=3,
        ...                         samples=8, stages=4)
        >>> found.values["halves"].shape
        torch.Size([1, 2])
    """
    sizes = sorted({int(size) for size in sizes})
    if not sizes or sizes[0] < 2 or 2 * sizes[-1] > len(x):
        raise DataError(f"Halves have from 2 to {len(x) // 2} of {len(x)} points; {sizes} came.")
    begun = time.process_time()
    orders = [torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    subsets = [half for order in orders for n in sizes for half in (order[:n], order[n:2 * n])]
    of_pairs = [one for seed in seeds for _ in sizes for one in (2 * seed, 2 * seed + 1)]
    many = train_many(denoiser, x, subsets, of_pairs, steps=steps, batch=batch, rate=rate, course=course, keep=[0])
    seconds = time.process_time() - begun
    source, mean = torch.Generator().manual_seed(seeds[0]), x.mean(0)
    z = torch.randn(as_count(samples, "samples", 2), *x.shape[1:], generator=source).to(x)
    levels = schedule(stages).to(x)
    made, untrained = many.sample(z, levels), many.at(0).sample(z, levels)

    def alike(one: Tensor, other: Tensor) -> float:
        return float(torch.cosine_similarity((one - mean).flatten(1), (other - mean).flatten(1)).mean())

    values = {pair: torch.empty(len(seeds), len(sizes), dtype=torch.float64) for pair in PAIRS}
    for k in range(0, len(subsets), 2):
        at = divmod(k // 2, len(sizes))
        a, b, train = made[k], made[k + 1], x[subsets[k]]
        near = torch.cdist(a.flatten(1), train.flatten(1)).argmin(1)
        values[HALVES][at], values[NEAREST][at] = alike(a, b), alike(a, train[near])
        values[OTHER][at], values[UNTRAINED][at] = alike(a, b.roll(1, 0)), alike(untrained[k], untrained[k + 1])
        for pair, kind in ((WIENER, WienerDenoiser), (OPTIMAL, OptimalDenoiser)):
            values[pair][at] = alike(*(sample(kind(x[half]), z, levels).final for half in subsets[k:k + 2]))
    return DisjointHalves(sizes, values, {"parameters": many.size, "steps": steps, "batch": batch, "rate": rate,
                                          "course": course, "samples": samples, "seconds of training": seconds})
