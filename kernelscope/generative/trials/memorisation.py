r"""From memory to composition: what a denoiser's samples are as it sees more points.

Trained on few points a denoiser is near the optimal one of these points, whose samples are copies. Trained on many it
cannot be, and what it makes is new. Where the change lies depends on the network; the optimal denoiser copies at every
size, and the Wiener denoiser, which knows a mean and a covariance, at none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice
from ...diagnostics.winners import Interval
from ...errors import DataError
from ...result import Check, CheckRow, Result
from ..denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from ..denoising.denoiser import Denoiser, along
from ..denoising.noise import NoiseLaw, schedule
from ..denoising.sampling import sample
from ..measures import coverage_density, intervals, memorised
from .many import ManyDenoisers, train_many

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "MemorisationTransition", "memorisation_transition"]

#: What is measured of samples and of denoisers.
MEASURES = ("memorised", "coverage", "train error", "held-out error")

#: The noise level of the errors, and the null that copies.
SIGMA, COPIES = 0.3, "optimal denoiser"


@dataclass(frozen=True, eq=False, repr=False)
class MemorisationTransition(Result):
    """Samples of denoisers by how many points these were trained on.

    Attributes:
        sizes: The numbers of training points.
        values: By measure (``"memorised"``, ``"coverage"``, ``"train error"``, ``"held-out error"``), with shape
            (seeds, sizes).
        nulls: By name the same of what was not trained, with shape (measures, sizes); NaN where it is not defined.
        info: Facts to print.
        shorter: By how many steps the same of shorter trainings, each with a course of its own, with shape (measures,
            seeds, sizes).
    """

    sizes: list[int]
    values: dict[str, Tensor]
    nulls: dict[str, Tensor]
    info: dict[str, Any] = field(default_factory=dict)
    shorter: dict[str, Tensor] = field(default_factory=dict)

    def interval(self, measure: str, size: int) -> Interval:
        """The mean of a measure over seeds, with its 95 % interval from five seeds on."""
        as_choice(measure, "measure", MEASURES)
        if size not in self.sizes:
            raise DataError(f"There is no training on {size} points. There are {self.sizes}.")
        return intervals(self.values[measure][:, self.sizes.index(size)].tolist())

    def null(self, name: str, measure: str) -> Tensor:
        """A measure of one of the nulls, with shape (sizes,)."""
        return self.nulls[name][MEASURES.index(measure)]

    @property
    def turn(self) -> float | None:
        """The size at which half of the samples are copies, between sizes by their logarithms; ``None`` if outside."""
        return self._turn(self.values["memorised"].mean(0))

    @property
    def turns(self) -> dict[int, float | None]:
        """The size at which half of the samples are copies by how many steps were trained, the fewest first."""
        found = {int(steps): self._turn(values[MEASURES.index("memorised")].mean(0))
                 for steps, values in self.shorter.items()}
        return dict(sorted((found | {int(self.info["steps"]): self.turn}).items()))

    def _turn(self, share: Tensor) -> float | None:
        for i in range(len(self.sizes) - 1):
            one, other = float(share[i]), float(share[i + 1])
            if one >= 0.5 > other:
                part = (one - 0.5) / (one - other)
                return self.sizes[i] ** (1 - part) * self.sizes[i + 1] ** part
        return None

    def said(self) -> str:
        """Where copies turn into new samples, in words."""
        share = self.values["memorised"].mean(0)
        few, many = self.sizes[0], self.sizes[-1]
        turn = self.turn
        at = (f"half of the samples are copies of training points at n = {turn:.0f}" if turn is not None else
              "copies are never half of the samples" if float(share.max()) < 0.5 else
              "copies are half of the samples and more at every n")
        text = f"{at}: {float(share[0]):.3f} at n = {few}, {float(share[-1]):.3f} at n = {many}"
        if COPIES in self.nulls:
            text += f"; the {COPIES} copies {float(self.null(COPIES, 'memorised')[-1]):.3f} at n = {many}"
        if self.shorter:
            text += "; half are copies at " + ", ".join(
                f"{'no n that was tried' if turn is None else f'n = {turn:.0f}'} after {steps:,} steps"
                for steps, turn in self.turns.items())
        gap = self.values["held-out error"].mean(0) / self.values["train error"].mean(0)
        falls = float(gap[-1]) < float(gap[0])
        return (f"{text}; held-out over training error {'falls' if falls else 'goes'} from {float(gap[0]):.3g} to "
                f"{float(gap[-1]):.3g}")

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"MemorisationTransition({len(self.sizes)} sizes, {len(self.values['memorised'])} seeds: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each size and each of the network and its nulls."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for i, size in enumerate(self.sizes):
            rows.append({"n": size, "of": "network", **{m: float(self.values[m][:, i].mean()) for m in MEASURES}})
            rows += [{"n": size, "of": f"network, {steps} steps",
                      **{m: float(found[k, :, i].mean()) for k, m in enumerate(MEASURES)}}
                     for steps, found in self.shorter.items()]
            rows += [{"n": size, "of": name, **{m: float(found[k, i]) for k, m in enumerate(MEASURES)}}
                     for name, found in self.nulls.items()]
        return pd.DataFrame(rows)

    def check(self) -> Check:
        """Whether the nulls are where they must be, so that the measures can be read."""
        rows = []
        if COPIES in self.nulls:
            least = float(self.null(COPIES, "memorised").min())
            rows.append(CheckRow("copies", "pass" if least > 0.95 else "warn", least, 0.95,
                                 f"The {COPIES} copies at least {least:.3f} of its samples."))
        if "held-out points" in self.nulls:
            most = float(self.null("held-out points", "memorised").max())
            rows.append(CheckRow("held out", "pass" if most < 0.05 else "warn", most, 0.05,
                                 f"Held-out points are taken for copies in at most {most:.3f} of cases."))
        seeds = len(self.values["memorised"])
        rows.append(CheckRow("seeds", "pass" if seeds > 1 else "warn", float(seeds), 2.0,
                             f"Every size was trained with {seeds} seed{'s' * (seeds > 1)}."))
        return Check(tuple(rows))


def memorisation_transition(
    denoiser: Callable[[], nn.Module],
    x: Tensor,
    held_out: Tensor,
    sizes: Sequence[int] = (8, 32, 128, 512),
    *,
    seeds: Sequence[int] = (0, 1),
    steps: int = 2000,
    shorter: Sequence[int] = (),
    batch: int = 64,
    rate: float = 5e-3,
    course: str = "cosine",
    law: NoiseLaw | None = None,
    stages: int = 18,
) -> MemorisationTransition:
    """Trains denoisers on the first n points of a random order and looks at what they make.

    Args:
        denoiser: Gives a new :class:`Denoiser`.
        x: The points, with shape (N, *).
        held_out: Points that none is trained on, with shape (m, *); as many samples are drawn.
        sizes: How many points are trained on.
        seeds: The seeds of order, network and batches.
        steps: The steps of each training.
        shorter: Other numbers of steps, to see how the change depends on how long is trained.
        batch: The points of a step.
        rate: The learning rate of Adam.
        course: ``"cosine"`` or ``"constant"``.
        law: The law of training noise.
        stages: The noise levels of the sampler.

    References:
        E4 of the notes on generative models; "On Memorization in Diffusion Models" (Gu et al., 2025).

    Example:
        >>> from kernelscope.generative.networks import NoiseMLP
        >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> found = memorisation_transition(lambda: Denoiser(NoiseMLP(2, width=4), 1.0), x[:20], x[20:], (4, 20),
        ...                                 seeds=[0], steps=3, stages=4)
        >>> found.values["memorised"].shape, list(found.nulls)
        (torch.Size([1, 2]), ['optimal denoiser', 'Wiener denoiser', 'untrained network', 'held-out points'])
    """
    sizes = sorted({int(size) for size in sizes})
    if not sizes or sizes[0] < 3 or sizes[-1] > len(x):
        raise DataError(f"sizes must be from 3 to {len(x)}, the number of points; {sizes} came.")
    begun = time.process_time()
    orders = [torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    subsets = [order[:size] for order in orders for size in sizes]
    budgets = {count: train_many(denoiser, x, subsets, [seed for seed in seeds for _ in sizes], steps=count,
                                 batch=batch, rate=rate, course=course, law=law, keep=[0])
               for count in dict.fromkeys([*shorter, steps])}
    many = budgets[steps]
    seconds = time.process_time() - begun
    source = torch.Generator().manual_seed(seeds[0])
    z, levels = torch.randn(held_out.shape, generator=source).to(x), schedule(stages).to(x)
    noise = torch.randn(held_out.shape, generator=source).to(x)
    untrained = many.at(0).sample(z, levels)

    def measured(samples: Tensor, train: Tensor, denoise: Callable[[Tensor, Tensor], Tensor] | None) -> list[float]:
        errors = [float("nan")] * 2
        if denoise is not None:
            errors = [_error(denoise, points, noise) for points in (train, held_out)]
        return [memorised(samples, train).share, coverage_density(samples, held_out).coverage, *errors]

    def of_networks(held: ManyDenoisers) -> Tensor:
        """The measures of all members, with shape (measures, seeds, sizes)."""
        rows, skeleton = [], held.network
        assert isinstance(skeleton, Denoiser)
        for j, samples in enumerate(held.sample(z, levels)):

            def own(y: Tensor, sigma: Tensor, j: int = j) -> Tensor:
                a, b = skeleton.coefficients(sigma)
                with torch.no_grad():
                    return along(a, y) * y + along(b, y) * torch.func.functional_call(skeleton, held.member(j),
                                                                                      (y, sigma))

            rows.append(measured(samples, x[subsets[j]], own))
        return torch.tensor(rows, dtype=torch.float64).T.reshape(len(MEASURES), len(seeds), len(sizes))

    found = {count: of_networks(held) for count, held in budgets.items()}
    values = dict(zip(MEASURES, found[steps], strict=True))
    nulls: dict[str, list[list[float]]] = {COPIES: [], "Wiener denoiser": [], "untrained network": [],
                                           "held-out points": []}
    for i, subset in enumerate(subsets[:len(sizes)]):
        train = x[subset]
        for name, closed in ((COPIES, OptimalDenoiser(train)), ("Wiener denoiser", WienerDenoiser(train))):
            nulls[name].append(measured(sample(closed, z, levels).final, train, closed))
        nulls["untrained network"].append(measured(untrained[i], train, None))
        known = measured(held_out, train, None)
        # Held-out points cover themselves: what real points cover is asked of points beside them.
        others = x[orders[0][-len(held_out):]] if len(x) - sizes[i] >= len(held_out) else None
        known[1] = coverage_density(others, held_out).coverage if others is not None else float("nan")
        nulls["held-out points"].append(known)
    return MemorisationTransition(
        sizes, values,
        {name: torch.tensor(rows, dtype=torch.float64).T for name, rows in nulls.items()},
        {"parameters": many.size, "steps": steps, "batch": batch, "course": course, "samples": len(z),
         "error at σ": SIGMA, "seconds of training": seconds},
        {str(count): table for count, table in found.items() if count != steps})


def _error(denoise: Callable[[Tensor, Tensor], Tensor], points: Tensor, noise: Tensor) -> float:
    """The mean square error of the denoised points at one noise level."""
    n = min(len(points), len(noise))
    sigma = points.new_full((n,), SIGMA)
    return float((denoise(points[:n] + SIGMA * noise[:n], sigma) - points[:n]).square().mean())
