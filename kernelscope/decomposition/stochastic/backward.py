r"""The backward sweep of the expected output.

Two query gradients go back through the run as adjoints: :math:`\phi_k` at the start of step k, and
:math:`\frac12 H_k\bar D_k`, what curvature adds to it along the mean displacement. Each meets the gradients of all
samples, so that

.. math:: \sum_k \big\langle\phi_k + \tfrac12 H_k\bar D_k,\ \bar D_k\big\rangle
          = -\frac1n\sum_s\sum_i \langle\psi_s + \psi^H_s,\ g_i(\theta_s)\rangle + \text{decay} + \text{momentum},

and a third adjoint, of ones, is the weight W of each step's noise in the final parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network import Parameters
from ...run.step import MicroBatch
from ..adjoint import Adjoint
from ..query_side import QuerySide
from ..sweep import same
from ..training_side import TrainingSide, rows_of
from ..trajectory import Trajectory
from ..way_back import dot
from .account import Account
from .carried import Carried
from .mean_path import MeanPath, MeanStep, Segment, Weights
from .noise import NoiseWeights, estimated, exact_shares
from .passes import Passes
from .second_order import SecondOrder


@dataclass(frozen=True)
class Method:
    """How the terms are computed.

    Attributes:
        order: 1 or 2.
        noise: The estimator of the trace; ``None`` where the number of samples decides.
        probes: How many pairs of batches it takes at a step.
        carried: Whether pushes are carried to the end.
        seed: What pairs of batches are drawn with.
    """

    order: int
    noise: str | None
    probes: int
    carried: bool
    seed: int


class BackwardSweep:
    """Some queries on their way back through the run.

    Args:
        account: Where the amounts go.
        rows: Which of the account's queries these are.
        side: These queries.
        trajectory: The run's parameters.
        path: The mean steps.
        passes: The passes of all samples.
        method: How the terms are computed.
    """

    def __init__(self, account: Account, rows: slice, side: QuerySide, trajectory: Trajectory, path: MeanPath,
                 passes: Passes, method: Method):
        self.account, self.rows, self.side, self.method = account, rows, side, method
        self.trajectory, self.path, self.passes = trajectory, path, passes
        self.run, self.sampling = trajectory.run, account.sampling
        self.curve = SecondOrder(side, self.run.names)
        self._adjoints = {"path": Adjoint(), "curvature": Adjoint()}
        self._weights = Adjoint()
        self._later: Weights = {}  # L, the weights of the later steps of the epoch
        self._generator = torch.Generator().manual_seed(method.seed)

    def run_through(self, segments: list[Segment], training: TrainingSide, advance: Callable[[int], object]) -> None:
        """Goes over all segments, last first."""
        stop = self.run.stop
        theta, buffers = self.trajectory.at(stop), self.trajectory.buffers(stop)
        value = self.side.outputs(theta, buffers)[1]
        self.account.see(self.rows, stop, value)
        carried = None
        if self.method.carried:
            final = dict(zip(self.side.names, self.side.gradients(theta, buffers), strict=True))
            carried = Carried(final, training)
        for segment in reversed(segments):
            steps = self.path.steps(segment)
            for k in range(segment.stop - 1, segment.start - 1, -1):
                value = self._step(k, theta, value, steps[k - segment.start], carried)
                theta = steps[k - segment.start].theta
                advance(1)
        for adjoint in self._adjoints.values():
            adjoint.left(segments[0].state.momentum, self._booked("momentum"))
        first = self.side.outputs(theta, self.trajectory.first_buffers())[1]
        self.account.see(self.rows, 0, first)
        self.account.book("buffers", self.rows, (value - first).flatten())

    def _booked(self, term: str) -> Callable[[Tensor, Tensor], None]:
        return lambda adjoint, vector: self.account.book(term, self.rows, dot(adjoint, vector))

    def _step(self, k: int, later: Parameters, after: Tensor, step: MeanStep, carried: Carried | None) -> Tensor:
        """Books step k; ``after`` are the outputs after it, and those before it are returned."""
        buffers = self.trajectory.buffers(k)
        if not same(buffers, self.run.buffers(k + 1)):
            there = self.side.outputs(later, buffers)[1]
            self.account.book("buffers", self.rows, (after - there).flatten())
        here = self.side.outputs(step.theta, buffers)[1]
        self.account.see(self.rows, k, here)
        if self.method.order == 1:
            phi = dict(zip(self.side.names, self.side.gradients(step.theta, buffers), strict=True))
            found = {"path": phi}
        else:
            phi, bent = self.curve.rows(step.theta, buffers, step.displacement)
            found = {"path": phi, "curvature": {name: t / 2 for name, t in bent.items()}}
        directions = {term: self._directions(term, p, step) for term, p in found.items()}
        pushes = carried.back(k, self.run.step(k), step) if carried else None
        weights = self._noise_weights(k, step)
        if step.heard:
            self._meet(k, step, buffers, phi, directions, pushes, weights)
        return here

    def _directions(self, term: str, p: Parameters, step: MeanStep) -> Parameters:
        """What meets the samples' gradients; books decay."""
        directions = {}
        for name, rule in step.unrolled.linear.items():
            if rule.decoupled:
                self.account.book("decay", self.rows, -rule.decoupled * dot(p[name], step.theta[name]))
            psi = self._adjoints[term].direction(name, p[name], step.unrolled, self._booked("momentum"))
            if rule.coupled:
                self.account.book("decay", self.rows, -rule.coupled * dot(psi, step.theta[name]))
            if name in step.gradient:
                directions[name] = psi * (rule.sign * step.factor[name])
        return directions

    def _noise_weights(self, k: int, step: MeanStep) -> NoiseWeights | None:
        """How the noise of step k enters the mean."""
        if self.method.order == 1:
            return None
        total: Weights = {}
        for name, rule in step.unrolled.linear.items():
            weight = self._weights.direction(name, step.theta[name].new_ones(()), step.unrolled)
            if name in step.gradient:
                total[name] = weight * (rule.sign * step.factor[name])
        own, pair = self.sampling.own(k), self.sampling.pair
        bilinear = {name: own / 2 * w - pair * self._later.get(name, 0.0) for name, w in total.items()}
        if pair:
            self._later = {} if self.sampling.starts_epoch(k) else {
                name: w + self._later.get(name, 0.0) for name, w in total.items()}
        return NoiseWeights(total, bilinear, step.earlier, pair)

    def _meet(self, k: int, step: MeanStep, buffers: Parameters, phi: Parameters, directions: dict[str, Parameters],
              pushes: Parameters | None, weights: NoiseWeights | None) -> None:
        """Books what the samples did at step k."""
        recorded, chosen = self.run.step(k), self.passes.chosen(k, 1)
        exact = weights is not None and not weights.silent and self.method.noise == "exact"
        met: dict[str, list[Tensor]] = {name: [] for name in self.account.variances}
        for block in self.passes.blocks(chosen):
            there = self.passes.at(recorded, k, block)
            rows = self.passes.training.rows(there, k, step.theta, step.heard)
            columns = self.passes.columns[block]
            here = {term: _products(d, rows) for term, d in directions.items()}
            for term, found in here.items():
                self.account.share(term, self.rows, k, columns, found / -len(chosen))
            met["row"].append(here["path"])
            if pushes is not None:
                arrived = _products(pushes, rows)
                met["carried"].append(arrived)
                met["mean"].append(arrived - here["path"])
            if exact and weights is not None:
                bent = self._bent(there, k, step, weights, rows)
                shares = exact_shares(self.curve, step, buffers, weights, rows, bent, phi,
                                      len(chosen))
                self.account.share("noise", self.rows, k, columns, shares.T)
        products = {name: torch.cat(parts, 1) for name, parts in met.items()}
        self.account.spread(self.rows, k, self.passes.columns[chosen], products)
        if weights is not None and not weights.silent and not exact:
            size = self.sampling.sizes[k]
            amounts, variance = estimated(self.curve, self.passes, recorded, k, step, buffers, weights,
                                       self.method.noise or "two-batch", self.method.probes, size, self._generator)
            self.account.book("noise", self.rows, amounts, k)
            self.account.estimate_variance[self.rows] += variance.double().cpu().view(-1, self.account.outputs)

    def _bent(self, there: MicroBatch, k: int, step: MeanStep, weights: NoiseWeights,
              rows: Parameters) -> Parameters | None:
        if not weights.pair:
            return None
        moved = {name: (g - step.gradient[name]) * weights.earlier[name] for name, g in rows.items()}
        return self.passes.training.bent_rows(there, k, step.theta, moved)


def _products(directions: Parameters, rows: Parameters) -> Tensor:
    """The inner products of rows of directions with rows of gradients, with shape (q c, m)."""
    return torch.stack([rows_of(directions[name]) @ rows_of(rows[name]).T for name in directions]).sum(0)
