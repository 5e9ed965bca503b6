"""What is read off each side of a comparison, metric by metric, with its nulls."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from ..denoising.noise import schedule
from ..denoising.sampling import sample
from ..measures import coverage_density, memorised
from .sides import Side

__all__ = ["HELD_OUT", "NULLS", "OPTIMAL", "PIXELS", "REAL", "SHUFFLED", "UNIFORM", "UNTRAINED", "WIENER", "Reading",
           "Setting", "quality"]

#: What a number is held against. None of them was trained.
WIENER, OPTIMAL, UNTRAINED = "Wiener denoiser", "optimal denoiser", "untrained network"
REAL, HELD_OUT, SHUFFLED, UNIFORM, PIXELS = "real points", "held-out points", "shuffled", "all alike", "pixels"
NULLS = (REAL, HELD_OUT, WIENER, OPTIMAL, UNTRAINED, PIXELS, SHUFFLED, UNIFORM)


@dataclass(frozen=True)
class Reading:
    """One metric of one model.

    Attributes:
        metric: Its key.
        slot: In which row of this metric it goes; ``"main"`` is the one that stands for the model.
        where: What exactly it was read off, in words.
        value: The number.
        nulls: The same number of what was not trained, by name.
    """

    metric: str
    slot: str
    where: str
    value: float
    nulls: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What both sides of a comparison share.

    Attributes:
        train: The training points that every run drew, in float64, with shape (n, *).
        ids: Their places in the training set, with shape (n,).
        reference: The real points that generated ones are held against, with shape (m, *).
        held_out: Whether no model was trained on them.
        labels: The class of each training point, if known, with shape (n,).
        samples: How many points each model generates.
        points: How many points kernels are read on.
        seed: Of all draws.
    """

    train: Tensor
    ids: Tensor
    reference: Tensor
    held_out: bool
    labels: Tensor | None
    samples: int
    points: int
    seed: int

    def source(self, of: int) -> torch.Generator:
        """A generator of random numbers of its own for each purpose."""
        return torch.Generator().manual_seed(self.seed * 1009 + of)

    def drawn(self, count: int, of: int) -> Tensor:
        """Rows of some training points, drawn without repeats."""
        return torch.randperm(len(self.train), generator=self.source(of))[:count]


def quality(side: Side, setting: Setting, common: dict[str, Tensor]) -> tuple[Tensor, list[Reading]]:
    """What a model generates, and how good and how new it is.

    Args:
        side: The model.
        setting: What both sides share.
        common: Points of the nulls that belong to no side, by name.

    Returns:
        The generated points, and coverage, density, memorisation.
    """
    z = side.latents(setting.samples, setting.source(1))
    made = side.generate(z)
    nulls = {**common, UNTRAINED: side.generate(z, 0)}
    found = _of_points(made, setting)
    beside = {name: _of_points(points, setting) for name, points in nulls.items()}
    where = f"{setting.samples} samples"
    return made, [Reading(metric, "main", where, value, {name: values[metric] for name, values in beside.items()
                                                         if _compares(name, metric)})
                  for metric, value in found.items()]


def references(setting: Setting) -> dict[str, Tensor]:
    """The points that nulls make, as many as a model does, by name: real ones, and those of closed forms."""
    shape = setting.train.shape[1:]
    z = torch.randn(setting.samples, *shape, generator=setting.source(2), dtype=torch.float64)
    levels = schedule()
    made = {WIENER: sample(WienerDenoiser(setting.train), z, levels).final,
            OPTIMAL: sample(OptimalDenoiser(setting.train), z, levels).final,
            REAL: setting.train[setting.drawn(setting.samples, 3)]}
    return {**made, HELD_OUT: setting.reference} if setting.held_out else made


def _of_points(points: Tensor, setting: Setting) -> dict[str, float]:
    """The metrics of points that are generated, or might have been; where they are not finite none is known."""
    if not bool(points.isfinite().all()):
        return dict.fromkeys(("coverage", "density", "memorised", "memorised_held_out"), float("nan"))
    covered = coverage_density(points, setting.reference)
    found = {"coverage": covered.coverage, "density": covered.density,
             "memorised": memorised(points, setting.train).share}
    return found | ({"memorised_held_out": memorised(points, setting.reference).share} if setting.held_out else {})


def _compares(null: str, metric: str) -> bool:
    """Whether a null says something: no points are held against themselves."""
    against_training = metric == "memorised"
    return null != (REAL if against_training else HELD_OUT)
