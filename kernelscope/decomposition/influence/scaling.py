r"""How the gradients of a run came to be scaled, and the derivative of that.

The recorder keeps norms, so a step tells by which factor its gradient was scaled, and not why. Over a run it shows: a
factor that stays (a summed loss, a scaled one) does not depend on the gradient, nor does what a weighted mean makes of
the mean over samples, :math:`r = n/\sum_i c_i` with class weights or without ignored targets; clipping by a norm,
:math:`u = \kappa g` with :math:`\kappa = C/(|g| + \epsilon)`, leaves one norm the same at all steps that it touched,
and its derivative is

.. math:: \gamma_g = \kappa\gamma_u - \frac{\langle\gamma_u, u\rangle}{|g| + \epsilon} \nabla|g| .
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import RuleError
from ...network import Parameters
from ...run.step import Step
from ..training_side import TrainingSide, perturbed, rows_of
from ..trajectory import Trajectory
from ..unrolling import UnrolledStep

#: What ``torch.nn.utils.clip_grad_norm_`` adds to the norm.
EPSILON = 1e-6

#: The norms by which gradients are clipped, in the order in which they are looked for.
NORMS = (2.0, float("inf"), 1.0)

#: How near 1 a factor is 1, in parts of how far numbers that are the same may differ.
ROUNDED = 1e-2

#: How closely a weighted mean is the same multiple of the mean at other parameters.
FIXED = {torch.float64: 1e-9, torch.float32: 1e-4}

#: What is said of factors without a reason.
UNKNOWN = (
    "The gradients of this run were scaled by factors that change from step to step, or may be those of a limit, and "
    "no norm of them tells which, so it is not known how the factors depend on the samples. Clip with "
    "torch.nn.utils.clip_grad_norm_ at one limit, or leave the scaling out; "
    'influence(..., method="gauss-newton") needs no steps.'
)


@dataclass(frozen=True)
class Scaled:
    """A step whose gradient was scaled.

    Attributes:
        owner: Its optimizer.
        factor: By which factor.
        count: How many samples it had.
        norms: The norms of the gradient before.
        mean: How much of the factor the loss's own mean is, which is no mean over samples alike.
    """

    owner: int
    factor: float
    count: int
    norms: tuple[float, ...]
    mean: float = 1.0

    def apart(self) -> Scaled:
        """The step as seen by what came behind the loss's own mean."""
        return replace(self, factor=self.factor / self.mean, norms=tuple(self.mean * size for size in self.norms))


class Scaling:
    """Why the gradients of each step were scaled.

    Args:
        seen: The steps with one factor for all parameters, by their number, those with the factor 1 included.
        alike: How far numbers that are the same may differ, relative.

    Raises:
        RuleError: If no reason is found.
    """

    def __init__(self, seen: Mapping[int, Scaled], alike: float):
        self._norms: dict[int, float] = {}
        self._means: dict[int, float] = {}
        for owner in {step.owner for step in seen.values()}:
            own = {k: step for k, step in seen.items() if step.owner == owner}
            if any(step.factor != 1.0 for step in own.values()):
                self._norms |= self._reason(own, alike)

    @property
    def clipped(self) -> int:
        """The number of steps whose gradient was clipped by a norm."""
        return len(self._norms)

    def _reason(self, own: Mapping[int, Scaled], alike: float) -> dict[int, float]:
        """The steps of an optimizer that were clipped, behind the loss's own mean, or of a mean over samples."""
        # A loop may take the mean over samples by itself, which shows where nothing was scaled.
        itself = any(step.factor == 1.0 != step.mean for step in own.values())
        if any(step.mean != 1.0 for step in own.values()) and not itself:
            try:
                found = _clipped({k: step.apart() for k, step in own.items()}, alike)
            except RuleError:
                return _clipped(own, alike)
            self._means |= {k: step.mean for k, step in own.items()}
            return found
        return _clipped(own, alike)

    def back(self, k: int, unrolled: UnrolledStep, cotangents: Parameters) -> Parameters:
        """From cotangents of the gradient that was used at step k, with shape (R, *), to those before scaling."""
        if not isinstance(unrolled.clip, float):
            # Clipped by value: the entries that were cut do not move.
            return {name: rows * (unrolled.clip[name] == 1) for name, rows in cotangents.items()}
        factor = unrolled.clip
        if k not in self._norms:
            return cotangents if factor == 1.0 else {name: rows * factor for name, rows in cotangents.items()}
        order = self._norms[k]
        used = {name: unrolled.before[name].gradient for name in unrolled.linear}
        size = norm([u / factor for u in used.values()], order)
        met = sum(rows_of(rows) @ used[name].reshape(-1) for name, rows in cotangents.items())
        assert isinstance(met, Tensor)
        slopes = _slopes({name: u / factor for name, u in used.items()}, order, size)
        share = met / (size + EPSILON / self._means.get(k, 1.0))
        return {name: rows * factor - share.view(-1, *[1] * (rows.ndim - 1)) * slopes[name]
                for name, rows in cotangents.items()}


def scaled(step: Step, unrolled: UnrolledStep) -> Scaled | None:
    """What a step tells of how its gradient was scaled; ``None`` of one that was clipped by value, or has none."""
    if not isinstance(unrolled.clip, float) or not unrolled.before:
        return None
    before = [state.gradient / unrolled.clip for state in unrolled.before.values()]
    return Scaled(step.owner, unrolled.clip, sum(len(batch.columns) for batch in step.batches),
                  tuple(norm(before, order) for order in NORMS))


def with_means(seen: Mapping[int, Scaled], side: TrainingSide, trajectory: Trajectory) -> dict[int, Scaled]:
    """The steps with what the loss's own mean makes of each, where any was scaled."""
    if all(step.factor == 1.0 for step in seen.values()):
        return dict(seen)
    return {k: replace(step, mean=own_mean(k, side, trajectory)) for k, step in seen.items()}


def own_mean(k: int, side: TrainingSide, trajectory: Trajectory) -> float:
    r"""The loss's own mean of a batch over the mean of its samples' losses, such as :math:`n/\sum_i c_i`.

    It is 1 where it depends on the parameters, so that it is no weighted mean, and of several passes, the weights of
    which are told by norms, denominators included.
    """
    batch, *others = side.run.step(k).batches
    if others:
        return 1.0
    here = trajectory.at(batch.at)
    found = side.own_mean(batch, k, here)
    if math.isclose(found, 1.0, rel_tol=FIXED[side.dtype]):
        return 1.0
    there = side.own_mean(batch, k, perturbed(here, side.run.names))
    return found if found > 0 and math.isclose(found, there, rel_tol=FIXED[side.dtype]) else 1.0


def norm(tensors: list[Tensor], order: float) -> float:
    """The norm of the entries of all tensors together."""
    return float(torch.linalg.vector_norm(torch.cat([t.reshape(-1).double() for t in tensors]), order))


def _clipped(own: Mapping[int, Scaled], alike: float) -> dict[int, float]:
    """The steps that were clipped, and by which norm."""
    factors = [step.factor for step in own.values()]
    each = [step.factor / step.count for step in own.values()]
    if _alike(factors, alike) or _alike(each, alike):
        return _steady(own, factors, each, alike)
    for which, order in enumerate(NORMS):
        # What is left of a norm by clipping is its limit, to the last digits, and never more.
        left = {k: step.factor * (step.norms[which] + EPSILON) for k, step in own.items()}
        limit = max(left.values())
        touched = [k for k, value in left.items() if value >= limit * (1 - alike)]
        others = [step.factor for k, step in own.items() if k not in touched]
        if len(touched) > 1 and _alike(others, alike):
            most = max(others, default=float("inf"))
            return {k: order for k in touched if own[k].factor < most * (1 - alike)}
    # A single step stands out, and the limit of its norm is a number that people write.
    others = [factor for factor in factors if factor != min(factors)]
    if len(factors) - len(others) == 1 and _alike(others, alike):
        k = min(own, key=lambda place: own[place].factor)
        for which, order in enumerate(NORMS):
            if _is_written(own[k].factor * (own[k].norms[which] + EPSILON)):
                return {k: order}
    raise RuleError(UNKNOWN)


def _steady(own: Mapping[int, Scaled], factors: list[float], each: list[float], alike: float) -> dict[int, float]:
    """Of one factor at all steps: it was meant, but where it may be that of a limit to norms that stay as well."""
    # Nothing is clipped by less than round-off.
    if max(factors) >= 1 - ROUNDED * alike:
        return {}
    doubtful = False
    for which, order in enumerate(NORMS):
        left = [step.factor * (step.norms[which] + EPSILON) for step in own.values()]
        if _alike(left, alike):
            if _is_written(left[0]):
                return dict.fromkeys(own, order)
            doubtful = True
    if doubtful and not any(_is_written(number) for f in (factors[0], each[0]) for number in (f, 1 / f)):
        raise RuleError(UNKNOWN)
    return {}


def _is_written(number: float) -> bool:
    """Whether it is a number that people write, of two digits."""
    return abs(number - float(f"{number:.2g}")) <= 1e-5 * number


def _alike(values: list[float], tolerance: float) -> bool:
    return not values or max(values) - min(values) <= tolerance * max(values)


def _slopes(gradient: Parameters, order: float, size: float) -> Parameters:
    """The derivative of the norm by each entry."""
    if order == 2.0:
        return {name: g / size for name, g in gradient.items()}
    if order == 1.0:
        return {name: g.sign() for name, g in gradient.items()}
    return {name: g.sign() * (g.abs() == size) for name, g in gradient.items()}
