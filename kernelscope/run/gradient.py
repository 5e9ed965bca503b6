r"""Which gradient an optimizer was given, told from its recorded norms.

The recorder keeps the norm of each parameter's gradient at the step, not the gradient. Recomputing the mean gradient
:math:`g_j` of each forward pass then tells the rest: with several passes the weights :math:`w_j` follow one after the
other from :math:`|w_1g_1 + \dots + w_jg_j|`; a ratio of norms that is the same for all parameters is a scale (clipping
by norm, a summed loss, loss scaling); an even cut at the largest recorded entry is clipping by value. Nothing else is
guessed: what remains is found as a step that the rule does not explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .step import Step


@dataclass(frozen=True, eq=False)
class UsedGradient:
    r"""The gradient of a step as :math:`\kappa\odot\sum_j w_j g_j`.

    Attributes:
        weights: :math:`w_j`, one for each forward pass.
        clip: :math:`\kappa`: a number, or a tensor for each parameter.
        gradient: The gradient used, for each parameter.
    """

    weights: list[float]
    clip: float | list[Tensor]
    gradient: list[Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How closely recorded norms of a given precision can be met."""

    equal: float  # a ratio this close to a round number is that number
    alike: float  # ratios of all parameters that differ by no more than this are one ratio

    @classmethod
    def of(cls, dtype: torch.dtype, autocast: bool) -> Tolerance:
        """The tolerance of a recording made in ``dtype``."""
        if autocast or dtype in (torch.bfloat16, torch.float16):
            return cls(2e-2, 1e-1)
        return cls(1e-12, 1e-7) if dtype == torch.float64 else cls(2e-5, 2e-3)


def used_gradient(step: Step, means: Sequence[Sequence[Tensor]], which: Sequence[int],
                  tolerance: Tolerance) -> UsedGradient:
    """Finds weights and clipping from the recorded norms.

    Args:
        step: The recorded step.
        means: For each forward pass the gradient of its mean loss, for each parameter that had a gradient.
        which: The places of those parameters among all recorded ones, to read ``step.norms``.
        tolerance: How closely norms can be met.
    """
    weights = _weights(step, means, which, tolerance)
    total = [sum(w * g for w, g in zip(weights, parts, strict=True)) for parts in zip(*means, strict=True)]
    target = step.norms[list(which)].double()
    clip = _clip(target, step.largest, total, tolerance)
    if isinstance(clip, float):
        return UsedGradient(weights, clip, total if clip == 1.0 else [clip * t for t in total])
    return UsedGradient(weights, clip, [k * t for k, t in zip(clip, total, strict=True)])


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([t.double().norm().cpu() for t in tensors]) if tensors else torch.zeros(0, dtype=torch.float64)


def _weights(step: Step, means: Sequence[Sequence[Tensor]], which: Sequence[int], tolerance: Tolerance) -> list[float]:
    if len(means) == 1:
        return [1.0]
    counts = [len(batch.columns) for batch in step.batches]
    usual = [1.0, 1 / len(means)]
    weights: list[float] = []
    gathered: list[Tensor] | None = None
    for j, mean in enumerate(means):
        norms = step.batches[j].norms if j + 1 < len(means) else step.norms
        weight = None if norms is None else _next_weight(gathered, mean, float(norms[list(which)].double().norm()))
        round_ones = [*usual, counts[j] / sum(counts), *([weights[-1]] if weights else [])]
        near = [r for r in round_ones if weight is not None and abs(weight - r) <= 10 * tolerance.equal * r]
        if near:
            weight = near[0]
        elif weight is None or (j + 1 == len(means) and norms is step.norms):
            # The last norm is that of the clipped gradient: the passes before it tell how this loop weighs a pass.
            weight = weights[-1] if weights else 1 / len(means)
        weights.append(weight)
        gathered = [weight * g if gathered is None else s + weight * g
                    for g, s in zip(mean, gathered or mean, strict=True)]
    return weights


def _next_weight(gathered: list[Tensor] | None, mean: Sequence[Tensor], norm: float) -> float | None:
    """The positive w with |gathered + w mean| = norm, or ``None``."""
    square = float(sum((g.double() ** 2).sum() for g in mean))
    if square == 0:
        return None
    if gathered is None:
        return norm / square**0.5
    cross = float(sum((s.double() * g.double()).sum() for s, g in zip(gathered, mean, strict=True)))
    constant = float(sum((s.double() ** 2).sum() for s in gathered)) - norm**2
    root = cross**2 - square * constant
    if root < 0:
        return None
    weight = (-cross + root**0.5) / square
    return weight if weight > 0 else None


def _clip(target: Tensor, largest: float, total: list[Tensor], tolerance: Tolerance) -> float | list[Tensor]:
    norms = _norms(total)
    whole, wanted = float(norms.norm()), float(target.norm())
    if whole == 0 or wanted == 0:
        return 1.0
    ratio = wanted / whole
    if float((target - ratio * norms).norm()) <= tolerance.alike * wanted:
        return 1.0 if abs(ratio - 1) <= tolerance.equal else ratio
    cut = [t.clamp(-largest, largest) for t in total]
    if float((target - _norms(cut)).norm()) <= tolerance.alike * wanted:
        return [torch.where(t == 0, torch.ones_like(t), c / torch.where(t == 0, torch.ones_like(t), t))
                for c, t in zip(cut, total, strict=True)]
    return 1.0
