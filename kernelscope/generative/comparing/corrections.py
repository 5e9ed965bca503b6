r"""What a model's corrections are made of: the contribution of each training point along the run, in numbers.

Of a denoiser at a stage of sampling one number is followed, its output along its own change by training,
:math:`\langle o, \hat\Delta\rangle` with :math:`\Delta = o_T - o_0`; of a critic its score of a generated point. Both
are written as their sum over training points to the last digit, and the same is asked of both: how much the terms
cancel, and on how few points the sum rests once what all add alike is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...decomposition.exact import decompose
from ..denoising.closed_forms import OptimalDenoiser
from ..measures import cancellation, centred, concentration
from .readings import OPTIMAL, UNIFORM, Reading, Setting
from .sides import LEVELS, MAIN, DiffusionSide, GANSide, Side

__all__ = ["Correction", "by_class", "corrections", "readings_of"]

#: The noise level at which the optimal denoiser weighs training points beside a critic, which has none.
BESIDE = 1.0


@dataclass(frozen=True)
class Correction:
    """The contributions of training points to a number at some points.

    Attributes:
        slot: In which row of the table it goes.
        where: Of what, in words.
        samples: What was generated there, with shape (q, *).
        each: The contribution of each real training point that all runs drew, with shape (q, n).
        others: All other contributions: penalties, generated points, and points that another run never drew, with shape
            (q, m).
        real: What all real training points add up to, with shape (q,).
        change: What they add up to, with shape (q,).
        completeness: What is left over, of the sum of sizes.
        weights: The weights of the optimal denoiser there, with shape (q, n).
    """

    slot: str
    where: str
    samples: Tensor
    each: Tensor
    others: Tensor
    real: Tensor
    change: Tensor
    completeness: float
    weights: Tensor


def corrections(side: Side, z: Tensor, setting: Setting) -> list[Correction]:
    """The contributions behind what a model makes of latents; this goes through the whole run.

    Args:
        side: The model.
        z: The latents, with shape (q, *).
        setting: What both sides share.
    """
    return _of_denoiser(side, z, setting) if isinstance(side, DiffusionSide) else _of_critic(side, z, setting)


def readings_of(found: list[Correction], setting: Setting) -> list[Reading]:
    """Cancellation, completeness and concentration, as means over points."""
    readings = []
    for correction in found:
        slot, where, n = correction.slot, correction.where, correction.each.shape[-1]
        terms = torch.cat([correction.each, correction.others], dim=-1)
        readings += [Reading("cancellation", slot, where, _middle(cancellation(terms)), {UNIFORM: 1.0}),
                     Reading("from_real", slot, where, _middle(correction.real / correction.change)),
                     Reading("completeness", slot, where, correction.completeness)]
        if setting.labels is not None:
            classes = by_class(correction.each, setting.labels)
            readings.append(Reading("class_cancellation", slot, where, _middle(
                cancellation(torch.cat([classes, correction.others.sum(-1, keepdim=True)], dim=-1))), {UNIFORM: 1.0}))
        own, best = concentration(centred(correction.each)), concentration(correction.weights)
        for name, alike in (("gini", 0.0), ("participation", float(n)), ("n_eff", float(n))):
            readings.append(Reading(name, slot, where, float(getattr(own, name).mean()),
                                    {UNIFORM: alike, OPTIMAL: float(getattr(best, name).mean())}))
    return readings


def by_class(each: Tensor, labels: Tensor) -> Tensor:
    """Contributions added up by class, with shape (q, classes)."""
    classes, place = labels.unique(return_inverse=True)
    return torch.zeros(*each.shape[:-1], len(classes), dtype=each.dtype).index_add(-1, place, each)


def _middle(values: Tensor) -> float:
    """The median, which one change that happens to be nought does not carry away."""
    return float(values.median())


def _of_denoiser(side: DiffusionSide, z: Tensor, setting: Setting) -> list[Correction]:
    down = side.down(z)
    places = [int((down.levels.log() - torch.tensor(level).log()).abs().argmin()) for level in LEVELS]
    y = torch.cat([down.points[k] for k in places])
    sigma = down.levels[places].repeat_interleave(len(z))
    change = (side.reading.output(y, sigma) - side.reading.output(y, sigma, side.run.parameters(0))).flatten(1)
    along = change / change.norm(dim=1, keepdim=True)

    def followed(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.flatten(1) * targets.to(outputs)).sum(1, keepdim=True)

    ledger = decompose(side.run, (y.to(side.run.dtype), sigma.to(side.run.dtype)), output=followed,
                       targets=along.to(side.run.dtype))
    shares = ledger.contributions[:, 0].reshape(len(places), len(z), -1)
    elsewhere = _others(shares, setting)
    gone = (ledger.final - ledger.initial)[:, 0].reshape(len(places), len(z))
    optimal = OptimalDenoiser(setting.train)
    found = []
    for row, (k, level) in enumerate(zip(places, LEVELS, strict=True)):
        at = down.levels[k]
        found.append(Correction(
            "main" if level == MAIN else f"σ = {level:g}", f"the denoiser on its way at σ = {at:.2g}",
            down.final, shares[row][:, setting.ids], shares[row][:, elsewhere], shares[row].sum(-1), gone[row],
            ledger.completeness(), optimal.weights(down.points[k], at.expand(len(z)))))
    return found


def _of_critic(side: GANSide, z: Tensor, setting: Setting) -> list[Correction]:
    made, critic, n = side.generate(z), side.gan.critic, side.gan.real
    ledger = decompose(critic, made.to(critic.dtype), output=0)
    shares = ledger.contributions[:, 0]
    weights = OptimalDenoiser(setting.train).weights(made, torch.full((len(z),), BESIDE, dtype=torch.float64))
    return [Correction("main", "the critic’s score of generated points", made, shares[:, setting.ids],
                       shares[:, _others(shares, setting)], shares[:, :n].sum(-1),
                       (ledger.final - ledger.initial)[:, 0], ledger.completeness(), weights)]


def _others(shares: Tensor, setting: Setting) -> Tensor:
    """Which columns are not those of the shared training points."""
    rest = torch.ones(shares.shape[-1], dtype=torch.bool)
    rest[setting.ids] = False
    return rest
