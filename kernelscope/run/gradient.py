r"""Which gradient an optimizer was given, told from its recorded norms.

The recorder keeps the norm of each parameter's gradient at the step, not the gradient. Recomputing the mean gradient
:math:`g_j` of each forward pass then tells the rest: with several passes the weights :math:`w_j` follow one after the
other from :math:`|w_1g_1 + \dots + w_jg_j|`; a ratio of norms that is the same for all parameters is a scale (clipping
by norm, a summed loss, loss scaling); an even cut at the largest recorded entry is clipping by value; a norm of nought
where the samples have a gradient is that of a parameter that was frozen while its gradient was kept and cleared.
Nothing else is guessed: what remains is found as a step that the rule does not explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sizes import largest_of, norm_of
from .step import Step


@dataclass(frozen=True, eq=False)
class UsedGradient:
    r"""The gradient of a step as :math:`\kappa\odot\sum_j w_j g_j`.

    Attributes:
        weights: :math:`w_j`, one for each forward pass.
        clip: :math:`\kappa`: a number, or a tensor for each parameter.
        gradient: The gradient used, for each parameter.
        still: The places of the parameters that were frozen, whose gradient is nought.
        met: Whether it has the recorded norms, as far as they tell.
    """

    weights: list[float]
    clip: float | list[Tensor]
    gradient: list[Tensor]
    still: frozenset[int]
    met: bool


@dataclass(frozen=True)
class Tolerance:
    """How closely recorded norms of a given precision can be met."""

    equal: float  # a ratio this close to a round number is that number
    alike: float  # ratios of all parameters that differ by no more than this are one ratio
    near: float  # norms that differ by no more than this are those of the same gradient

    @classmethod
    def of(cls, dtype: torch.dtype, autocast: bool) -> Tolerance:
        """The tolerance of a recording made in ``dtype``."""
        if autocast or dtype in (torch.bfloat16, torch.float16):
            return cls(2e-2, 1e-1, 1e-1)
        return cls(1e-12, 1e-7, 1e-9) if dtype == torch.float64 else cls(2e-5, 2e-3, 1e-3)


def used_gradient(step: Step, means: Sequence[Sequence[Tensor]], which: Sequence[int],
                  tolerance: Tolerance) -> UsedGradient:
    """Finds weights and clipping from the recorded norms.

    Args:
        step: The recorded step.
        means: For each forward pass the gradient of its mean loss, for each parameter that had a gradient.
        which: The places of those parameters among all recorded ones, to read ``step.norms``.
        tolerance: How closely norms can be met.
    """
    target = step.norms[list(which)].double()
    still = _still(target, means, tolerance)
    means = [[torch.zeros_like(g) if i in still else g for i, g in enumerate(mean)] for mean in means]
    weights = _weights(step, means, which, tolerance)
    # Of one pass it is the gradient itself, of which no copy is made.
    total = list(means[0]) if weights == [1.0] else [
        sum(w * g for w, g in zip(weights, parts, strict=True)) for parts in zip(*means, strict=True)]
    norms = _norms(total)
    clip = _clip(target, step, total, norms, tolerance)
    if not isinstance(clip, float):
        total = [k * t for k, t in zip(clip, total, strict=True)]
        norms = _norms(total)
    elif clip != 1.0:
        total = [clip * t for t in total]
        norms = clip * norms
    return UsedGradient(weights, clip, total, still, _is_met(step, target, total, norms, clip, tolerance))


def _is_met(step: Step, target: Tensor, total: Sequence[Tensor], norms: Tensor, clip: float | list[Tensor],
            tolerance: Tolerance) -> bool:
    """Whether the gradient used has the norms, and the largest entry, that were recorded."""
    if clip != 1.0 and int((target != 0).sum()) == 1:
        # There is a factor that meets a single norm, whatever the gradient is.
        return False
    met = float((target - norms).norm()) <= tolerance.near * float(target.norm())
    if met and _are_all(step, target):
        met = abs(_largest(total) - step.largest) <= tolerance.near * step.largest
    return met


def _are_all(step: Step, target: Tensor) -> bool:
    """Whether these are all gradients of a step, so that their largest entry is the one recorded."""
    return math.isclose(float(step.norms.double().norm()), float(target.norm()), rel_tol=1e-12)


def _largest(tensors: Sequence[Tensor]) -> float:
    return max(map(largest_of, tensors), default=0.0)


def _still(target: Tensor, means: Sequence[Sequence[Tensor]], tolerance: Tolerance) -> frozenset[int]:
    """The places where the recorded gradient is nought and the recomputed one is not."""
    if bool(target.all()):
        return frozenset()
    norms = _norms([sum(parts) for parts in zip(*means, strict=True)])
    return frozenset(((target == 0) & (norms > tolerance.equal * norms.norm())).nonzero().flatten().tolist())


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    return torch.tensor([norm_of(t) for t in tensors], dtype=torch.float64)


def _weights(step: Step, means: Sequence[Sequence[Tensor]], which: Sequence[int], tolerance: Tolerance) -> list[float]:
    if len(means) == 1:
        return [1.0]
    counts = [len(batch.columns) for batch in step.batches]
    weights: list[float] = []
    gathered = [torch.zeros_like(g) for g in means[0]]
    for j, mean in enumerate(means):
        last = j + 1 == len(means)
        norms = step.norms if last else step.batches[j].norms
        usual = [1.0, 1 / len(means), counts[j] / sum(counts)]
        if weights:
            # A loop weighs its passes alike, or each by its size.
            usual = [weights[-1], weights[0] * counts[j] / counts[0], *usual]
        if norms is None:
            weight = weights[-1] if weights else 1 / len(means)
        else:
            target, largest = norms[list(which)].double(), step.largest if last else None
            weight = _next_weight(gathered, mean, target, usual, largest, tolerance)
        weights.append(weight)
        gathered = [s + weight * g for s, g in zip(gathered, mean, strict=True)]
    return weights


def _next_weight(gathered: Sequence[Tensor], mean: Sequence[Tensor], target: Tensor, usual: list[float],
                 largest: float | None, tolerance: Tolerance) -> float:
    """The w for which ``gathered + w mean`` has the norms recorded; after the last pass it may have been clipped."""
    wanted = float(target.norm())
    if wanted == 0:
        return usual[0]

    def total(w: float) -> list[Tensor]:
        return [s + w * g for s, g in zip(gathered, mean, strict=True)]

    plain = {w: float((target - _norms(total(w))).norm()) / wanted for w in [*usual, *_roots(gathered, mean, wanted)]}
    near = min(max(2 * min(plain.values()), tolerance.equal), tolerance.alike)
    for w in usual:
        # A weight that people write is meant where it fits as well as the data can tell.
        if plain[w] <= near:
            return w
    if largest is not None:
        clipped = {w: _misfit_of_clipping(total(w), target, largest) for w in usual}
        w = min(clipped, key=clipped.__getitem__)
        if clipped[w] <= tolerance.alike:
            return w
    return min(plain, key=plain.__getitem__)


def _roots(gathered: Sequence[Tensor], mean: Sequence[Tensor], norm: float) -> list[float]:
    """The positive w with |gathered + w mean| = norm: up to two."""
    square = float(sum((g.double() ** 2).sum() for g in mean))
    cross = float(sum((s.double() * g.double()).sum() for s, g in zip(gathered, mean, strict=True)))
    constant = float(sum((s.double() ** 2).sum() for s in gathered)) - norm**2
    root = cross**2 - square * constant
    if square == 0 or root < 0:
        return []
    return [w for w in ((-cross + root**0.5) / square, (-cross - root**0.5) / square) if w > 0]


def _misfit_of_clipping(total: list[Tensor], target: Tensor, largest: float) -> float:
    """How far the recorded norms are from those of the gradient after the clipping that suits best, relative."""
    wanted, norms = float(target.norm()), _norms(total)
    ratio = wanted / max(float(norms.norm()), torch.finfo(torch.float64).tiny)
    scaled = float((target - ratio * norms).norm())
    cut = float((target - _norms([t.clamp(-largest, largest) for t in total])).norm())
    return min(scaled, cut) / wanted


def _clip(target: Tensor, step: Step, total: list[Tensor], norms: Tensor,
          tolerance: Tolerance) -> float | list[Tensor]:
    largest = step.largest
    whole, wanted = float(norms.norm()), float(target.norm())
    if whole == 0 or wanted == 0:
        return 1.0
    ratio = wanted / whole
    if float((target - ratio * norms).norm()) <= tolerance.alike * wanted:
        if abs(ratio - 1) <= tolerance.equal:
            return 1.0
        # Norms of long tensors were recorded less closely than their largest entry, which clipping changes as well.
        same = (abs(ratio - 1) <= tolerance.near and _are_all(step, target)
                and abs(_largest(total) - largest) <= tolerance.equal * largest)
        return 1.0 if same else ratio
    cut = [t.clamp(-largest, largest) for t in total]
    if float((target - _norms(cut)).norm()) <= tolerance.alike * wanted:
        return [torch.where(t == 0, torch.ones_like(t), c / torch.where(t == 0, torch.ones_like(t), t))
                for c, t in zip(cut, total, strict=True)]
    return 1.0
