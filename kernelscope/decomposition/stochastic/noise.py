r"""What the sampling noise of one step does to the mean output.

A noise :math:`\xi_s` of covariance :math:`v\Sigma` that moves the parameters by :math:`-W_s\xi_s` in all changes an
output on average by :math:`\frac v2\,\mathrm{tr}(H W_s \Sigma W_s)`, with H the Hessian of the output. Where batches
are reshuffled, two steps of an epoch have the covariance :math:`-\kappa\Sigma`: with L the sum of the weights of the
later steps of the epoch, and U the weight that the earlier ones have in :math:`\theta_s`, a step changes it by

.. math:: \mathrm{tr}\big(H W (\tfrac v2 W - \kappa L) \Sigma\big)
          - \kappa\, \big\langle W\phi,\ \tfrac1n \textstyle\sum_i H_i\, U (g_i - g)\big\rangle ,

:math:`H_i` being the Hessian of a sample's loss. For SGD with equal batches an epoch's traces cancel, and what is left
is the drift :math:`-\frac{\eta^2 m}{4}\langle\phi, \nabla_\theta\mathrm{tr}\,\Sigma_B\rangle`.

The trace is found exactly from second derivatives along each sample's gradient, which also tells each sample's share,
or estimated from pairs of batches: :math:`\xi = (\hat g_a - \hat g_b)/\sqrt2` has the covariance :math:`\Sigma/B`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network import Parameters
from ...run.step import Step
from ..training_side import rows_of
from .mean_path import MeanStep, Weights
from .passes import Passes
from .second_order import SecondOrder

#: The estimators of the trace.
ESTIMATORS = ("exact", "two-batch", "difference")


@dataclass(frozen=True, eq=False)
class NoiseWeights:
    r"""How the noise of one step enters the mean output.

    Attributes:
        total: W, by parameter.
        bilinear: :math:`\frac v2 W - \kappa L`.
        earlier: U, empty where epochs mean nothing.
        pair: :math:`\kappa`.
    """

    total: Weights
    bilinear: Weights
    earlier: Weights
    pair: float

    @property
    def silent(self) -> bool:
        """Whether the step has no noise."""
        return not self.pair and not any(bool(z.any()) for z in self.bilinear.values())


def exact_shares(curve: SecondOrder, step: MeanStep, buffers: Parameters, weights: NoiseWeights, rows: Parameters,
                 bent: Parameters | None, phi: Parameters, count: int) -> Tensor:
    r"""The share of some samples in the noise term, with shape (m, q c).

    Args:
        curve: The second derivatives of the queries.
        step: The step.
        buffers: The buffers there.
        weights: How the noise enters.
        rows: The gradients of the samples.
        bent: :math:`H_i U (g_i - g)`, where batches are reshuffled.
        phi: The gradients of the outputs.
        count: The number of all samples n.
    """
    left = _weighted(rows, weights.total)
    own = curve.bends(step.theta, buffers, left, _weighted(rows, weights.bilinear))
    mean = _weighted({name: g.expand_as(rows[name]) for name, g in step.gradient.items()}, weights.bilinear)
    shares = own - curve.bends(step.theta, buffers, left, mean)
    if bent is not None:
        pushed = _weighted(bent, weights.total)
        shares = shares - weights.pair * sum(rows_of(pushed[name]) @ rows_of(phi[name]).T for name in pushed)
    return shares / count


def estimated(curve: SecondOrder, passes: Passes, recorded: Step, k: int, step: MeanStep, buffers: Parameters,
              weights: NoiseWeights, way: str, probes: int, size: int,
              generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The noise term from pairs of batches of ``size`` samples, and the variance of this estimate, each (q c,)."""
    found = []
    for _ in range(probes):
        pair = [torch.randint(len(passes), (size,), generator=generator) for _ in range(2)]
        a, b = (passes.gradient(recorded, k, step.theta, step.heard, part) for part in pair)
        # A pair stands for one sample's covariance where it is as long as the batch times that.
        xi = {name: (a[name] - b[name]) * math.sqrt(size / 2) for name in a}
        left, right = _weighted(xi, weights.total), _weighted(xi, weights.bilinear)
        if way == "difference":
            # Where W and Z are multiples of each other; else their mean and half their difference.
            value = _polarised(curve, step, buffers, left, right)
        else:
            value = curve.bends(step.theta, buffers, _row(left), _row(right))[0]
        if weights.pair:
            moved = {name: xi[name] * weights.earlier[name] for name in xi}
            drift = _hessian_difference(passes, recorded, k, step, pair, moved, size)
            value = value - weights.pair * curve.along(step.theta, buffers, _weighted(drift, weights.total))
        found.append(value)
    values = torch.stack(found)
    spread = values.var(0) / probes if probes > 1 else torch.full_like(values[0], math.nan)
    return values.mean(0), spread


def _polarised(curve: SecondOrder, step: MeanStep, buffers: Parameters, left: Parameters,
               right: Parameters) -> Tensor:
    """u^T H v by differences: a quarter of the bend along u + v less that along u - v, each at a length that fits."""
    total = torch.zeros_like(curve.along(step.theta, buffers, left))
    for sign in (1, -1):
        d = {name: left[name] + sign * right[name] for name in left}
        length = float(torch.sqrt(sum(t.square().sum() for t in d.values())))  # type: ignore[arg-type]
        if length:
            scale = float(torch.sqrt(sum(step.theta[name].square().sum() for name in d)))  # type: ignore[arg-type]
            h = torch.finfo(total.dtype).eps ** 0.25 * max(scale, 1e-3) / length
            total = total + sign * curve.difference(step.theta, buffers, d, h) / 4
    return total


def _hessian_difference(passes: Passes, recorded: Step, k: int, step: MeanStep, pair: list[Tensor],
                        moved: Parameters, size: int) -> Parameters:
    """(H_a - H_b) U xi / sqrt 2, whose mean over pairs is that of H_i U (g_i - g) over samples."""
    rows = _row(moved)
    a, b = (passes.training.bent(passes.at(recorded, k, part), k, step.theta, rows) for part in pair)
    return {name: (a[name] - b[name])[0] * math.sqrt(size / 2) for name in a}


def _row(tree: Parameters) -> Parameters:
    return {name: t.unsqueeze(0) for name, t in tree.items()}


def _weighted(rows: Parameters, weights: Weights) -> Parameters:
    """Gradients as they enter the parameters."""
    return {name: t * weights[name] for name, t in rows.items()}
