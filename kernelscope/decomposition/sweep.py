r"""The backward sweep.

At step s, with :math:`p_s` the averaged query gradient and :math:`\psi_s` the direction that its adjoint gives, the
ledger receives :math:`-\langle\psi_s, w g_i\rangle` for each sample,
:math:`-\lambda\langle\psi_s,\theta_s\rangle` and :math:`-w_s\langle p_s, \theta_s\rangle` for decay,
:math:`\langle p_s, \text{gap}_s\rangle` for what the rule does not explain, and at the start
:math:`-\langle a M, m\rangle` for momentum that was there before. Averaged weights are explained by taking the query
gradient along them and carrying one more adjoint: with :math:`\lambda_k = p_k + \epsilon_{k+1}`, a step receives
:math:`\sum_{k\ge s}(1-a_k)\lambda_k`, and :math:`\epsilon_k = a_k\epsilon_{k+1} - (1-a_k)p_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..network import Parameters
from ..run.run import Run
from .adjoint import Adjoint
from .chords import ChordForm
from .ledger import TURNED, Ledger
from .quadrature import Quadrature
from .query_side import QuerySide
from .training_side import Products, TrainingSide, rows_of
from .trajectory import AveragedTrajectory, Stretch, Trajectory
from .unrolling import Key, OptimizerState, UnrolledStep, Unroller, sample_weights


@dataclass(eq=False)
class Segment:
    """A stretch of steps and the optimizer's states at its start.

    What unrolling gives is kept if the segment is the only one, so that further queries find it.
    """

    start: int
    stop: int
    state: OptimizerState
    alone: bool
    _unrolled: tuple[Stretch, list[UnrolledStep]] | None = None

    def unroll(self, unroller: Unroller, trajectory: Trajectory) -> tuple[Stretch, list[UnrolledStep]]:
        """The parameters along the stretch, and its steps."""
        if self._unrolled is not None:
            return self._unrolled
        rows = unroller.stretch(trajectory, self.start, self.stop)
        unrolled = rows, list(unroller.steps(self.start, self.stop, self.state.copy(), rows))
        if self.alone:
            self._unrolled = unrolled
        return unrolled


def cut(run: Run, unroller: Unroller, trajectory: Trajectory, length: int) -> list[Segment]:
    """Cuts the run into stretches that fit in memory, each with the optimizer's states at its start."""
    state = OptimizerState()
    segments: list[Segment] = []
    # The steps before a slice are gone through for the states they leave behind.
    before = [(a, min(a + length, run.start)) for a in range(0, run.start, length)]
    own = [(a, min(a + length, run.stop)) for a in range(run.start, run.stop, length)]
    for a, b in before + own:
        if a >= run.start:
            segments.append(Segment(a, b, state.copy(), alone=len(own) == 1))
        if b < run.stop and not unroller.displacement:
            for _ in unroller.steps(a, b, state, unroller.stretch(trajectory, a, b)):
                pass
    return segments


class Part(Protocol):
    """What goes back through a run with others."""

    def begin(self) -> None:
        """Sees the end of the run."""

    def step(self, k: int, held: tuple[Parameters, Parameters], unrolled: UnrolledStep,
             products: list[Products]) -> None:
        """Books step k, between the parameters ``held``; ``products`` meet directions with the samples' gradients."""

    def end(self, theta: Parameters, momentum: dict[Key, Tensor]) -> None:
        """Books what was there before the first step."""


def sweep(parts: Sequence[Part], segments: list[Segment], unroller: Unroller, trajectory: Trajectory,
          training: TrainingSide, advance: Callable[[int], object]) -> None:
    """Goes over all segments, last first, with parts of the queries side by side: they share each batch's gradients."""
    run = trajectory.run
    for part in parts:
        part.begin()
    theta: Parameters = {}
    for segment in reversed(segments):
        rows, unrolled = segment.unroll(unroller, trajectory)
        for k in range(segment.stop - 1, segment.start - 1, -1):
            step = unrolled[k - segment.start]
            later, theta = rows[k + 1], rows[k]
            heard = [name for name in step.linear if name not in step.silent]
            products = [training.products(batch, batch.at if step.chord else k, rows.seen(batch), heard)
                        for batch in (run.step(k).batches if heard else ())]
            for part in parts:
                part.step(k, (theta, later), step, products)
            advance(1)
    for part in parts:
        part.end(theta, segments[0].state.momentum)


class WayBack:
    """Query gradients on their way back through a run: what they meet at each step goes to the ledger.

    Args:
        ledger: Where the amounts go.
        rows: Which of the ledger's queries these are.
        run: The run.
    """

    def __init__(self, ledger: Ledger, rows: slice, run: Run):
        self.ledger, self.rows, self.run = ledger, rows, run
        self._adjoints = Adjoint()

    def step(self, k: int, theta: Parameters, unrolled: UnrolledStep, p: Parameters, products: list[Products]) -> None:
        """Books step k, which began at ``theta`` and along which the query gradients are ``p``."""
        gap = _dots(p, unrolled.gap)
        self.ledger.book("rounding" if unrolled.explained else "unattributed", self.rows, gap)
        if not unrolled.explained:
            self.ledger.unexplained[k] = TURNED if unrolled.turned else unrolled.led
            self.ledger.leave(self.rows, k, gap)
        if unrolled.chord is not None:
            self._along(k, unrolled, unrolled.chord, p, products)
            return
        if unrolled.restored:
            self.ledger.restored.add(k)
        directions = {name: self._adjoint(name, p[name], theta[name], unrolled) for name in unrolled.linear}
        directions = {name: rows for name, rows in directions.items() if name not in unrolled.silent}
        scales = {name: rule.sign for name, rule in unrolled.linear.items()}
        if isinstance(unrolled.clip, float):
            scales = {name: sign * unrolled.clip for name, sign in scales.items()}
        together = {name: directions.pop(name) for name in unrolled.cancelled if name in directions}
        if together:
            self.ledger.cancelled[k] = sorted(together)
        for j, (batch, meet) in enumerate(zip(self.run.step(k).batches, products, strict=False)):
            weight = -sample_weights(unrolled, batch, j)
            weights = {name: weight * scale for name, scale in scales.items()}
            if directions:
                self.ledger.share(self.rows, k, j, batch, meet(directions, weights))
            if together:
                self.ledger.book("cancelled", self.rows, meet(together, weights).sum(1))

    def _along(self, k: int, unrolled: UnrolledStep, form: ChordForm, p: Parameters,
               products: list[Products]) -> None:
        """Books what the samples and decay did on a chord."""
        if form.rate is not None:
            self.ledger.rates[k] = form.rate
        directions: list[Parameters] = [{}, {}]
        for name in form.memories:
            if name in form.shrunk:
                self.ledger.book("decay", self.rows, -dot(p[name], form.shrunk[name]))
            for i, rows in enumerate(self._adjoints.along(name, p[name], unrolled, self._meet_momentum)):
                if rows is not None:
                    directions[i][name] = rows
                    if name in form.pulled:
                        self.ledger.book("decay", self.rows, -dot(rows, form.pulled[name][i]))
        for j, (batch, meet) in enumerate(zip(form.passes, products, strict=True)):
            shares: Tensor | None = None
            for names, own in zip(form.groups, form.weights[j], strict=True):
                for rows_of_kind, weights in zip(directions, own, strict=True):
                    asked = {name: rows_of_kind[name] for name in names if name in rows_of_kind}
                    if asked and bool(weights.any()):
                        scales = {name: -form.memories[name].linear.sign for name in asked}
                        found = meet(asked, scales)
                        found = found * weights.to(found)
                        shares = found if shares is None else shares + found
            if shares is not None:
                self.ledger.share(self.rows, k, j, batch, shares)

    def end(self, momentum: dict[Key, Tensor]) -> None:
        """Books the momentum that was there before the first step."""
        self._adjoints.left(momentum, self._meet_momentum)

    def _adjoint(self, name: str, p: Tensor, theta: Tensor, unrolled: UnrolledStep) -> Tensor:
        """The direction that the gradient of this parameter meets; books its decay."""
        rule = unrolled.linear[name]
        if rule.decoupled:
            self.ledger.book("decay", self.rows, -rule.decoupled * dot(p, theta))
        psi = self._adjoints.direction(name, p, unrolled, self._meet_momentum)
        if rule.coupled:
            self.ledger.book("decay", self.rows, -rule.coupled * dot(psi, theta))
        return psi if isinstance(unrolled.clip, float) else psi * unrolled.clip[name]

    def _meet_momentum(self, adjoint: Tensor, momentum: Tensor) -> None:
        self.ledger.book("momentum", self.rows, dot(adjoint, momentum))


class PartSweep:
    """The adjoints of some of the queries on their way back through the run.

    Args:
        ledger: Where the amounts go.
        rows: Which of the ledger's queries these are.
        side: These queries.
        quadrature: How the query gradient is averaged.
        trajectory: The run's parameters.
        averaged: The averaged weights, if they are what is explained.
    """

    def __init__(self, ledger: Ledger, rows: slice, side: QuerySide, quadrature: Quadrature, trajectory: Trajectory,
                 averaged: AveragedTrajectory | None):
        self.ledger, self.rows, self.side, self.quadrature = ledger, rows, side, quadrature
        self.trajectory, self.averaged = trajectory, averaged
        self.run = trajectory.run
        self._value = torch.zeros(0)  # the output after the step that is next
        self._back = WayBack(ledger, rows, trajectory.run)
        self._epsilon: Parameters = {}
        self._received: Parameters = {}

    def begin(self) -> None:
        """Sees the outputs at the end of the run."""
        stop = self.run.stop
        buffers = self.trajectory.buffers(stop)
        if self.averaged is None:
            self._value = self._see(stop, self.trajectory.at(stop), buffers)
            return
        recorded = self._see(stop, self.averaged.recorded_end, buffers)
        self._value = self.side.outputs(self.averaged[stop], buffers)[1]
        # The average was kept in the precision of training; what that did to it is rounding.
        self.ledger.book("rounding", self.rows, recorded - self._value)

    def end(self, theta: Parameters, momentum: dict[Key, Tensor]) -> None:
        """Books what was there before the first step, and sees the initial outputs."""
        self._back.end(momentum)
        if self.averaged is not None:
            # Averaged weights that differ from the trained ones as recording begins are states from before.
            apart = {name: theta[name] - self.averaged[0][name] for name in self._received}
            self.ledger.book("momentum", self.rows, _dots(self._received, apart))
            theta = self.averaged[0]
        first = self._see(self.run.start, theta, self.trajectory.first_buffers())
        self.ledger.book("buffers", self.rows, self._value - first)

    def _see(self, k: int, parameters: Parameters, buffers: Parameters) -> Tensor:
        raw, values = self.side.outputs(parameters, buffers)
        self.ledger.see(self.rows, k, raw, values)
        return values

    def step(self, k: int, held: tuple[Parameters, Parameters], unrolled: UnrolledStep,
             products: list[Products]) -> None:
        """Books step k, between the parameters ``held``; ``products`` meet directions with the samples' gradients."""
        theta = held[0]
        ends = held if self.averaged is None else (self.averaged[k], self.averaged[k + 1])
        buffers = self.trajectory.buffers(k)
        there = self._value
        if not same(buffers, self.run.buffers(k + 1)):
            there = self.side.outputs(ends[1], buffers)[1]
            self.ledger.book("buffers", self.rows, self._value - there)
        here = self._see(k, ends[0], buffers)
        p = self._gradients(k, ends, buffers, there - here)
        if self.averaged is not None:
            p = self._through_average(self.averaged.factors[k], p)
        self._back.step(k, theta, unrolled, p, products)
        self._value = here

    def _gradients(self, k: int, ends: tuple[Parameters, Parameters], buffers: Parameters,
                   change: Tensor) -> Parameters:
        """The query gradients averaged along the step; books what the quadrature missed."""
        names = self.side.names
        moved = {name: ends[1][name] - ends[0][name] for name in names}
        p: Parameters = {}
        for node, weight in zip(self.quadrature.nodes, self.quadrature.weights, strict=True):
            point = {**ends[0], **{name: ends[0][name] + node * moved[name] for name in names}}
            found = self.side.gradients(point, buffers)
            for name, rows in zip(names, found, strict=True):
                if name in p:
                    p[name].add_(rows, alpha=weight)
                else:
                    # The correction below writes through a flat view, which only contiguous rows have.
                    p[name] = (rows if weight == 1.0 else rows * weight).contiguous()
        missed = self.side.spread(change.reshape(-1) - _dots(p, moved))
        place = k - self.run.start
        self.ledger.missed[self.rows, :, place] = missed.detach().cpu().double().view(-1, len(self.ledger.names))
        square = sum(float((d.double() ** 2).sum()) for d in moved.values())
        if self.quadrature.corrected and square > 0:
            for name in names:
                rows_of(p[name]).addr_(missed, moved[name].flatten(), alpha=1 / square)
        return p

    def _through_average(self, a: float, p: Parameters) -> Parameters:
        """What a step of the trained weights receives, from the gradient along the averaged ones."""
        for name, rows in p.items():
            epsilon = self._epsilon.get(name)
            both = rows if epsilon is None else rows + epsilon
            received = self._received.get(name)
            self._received[name] = both * (1 - a) if received is None else received.add_(both, alpha=1 - a)
            self._epsilon[name] = rows * (a - 1) if epsilon is None else epsilon.mul_(a).add_(rows, alpha=a - 1)
        return self._received


def dot(rows: Tensor, vector: Tensor) -> Tensor:
    """The inner products of rows with a vector."""
    return rows_of(rows) @ vector.reshape(-1).to(rows.dtype)


def _dots(rows: Parameters, vectors: Parameters) -> Tensor:
    return torch.stack([dot(part, vectors[name]) for name, part in rows.items()]).sum(0)


def same(a: Parameters, b: Parameters) -> bool:
    """Whether all tensors of ``a`` are those of ``b``."""
    return all(torch.equal(t, b[name].to(t)) for name, t in a.items())


def outputs_only(ledger: Ledger, side: QuerySide, trajectory: Trajectory,
                 averaged: AveragedTrajectory | None) -> None:
    """Fills in the outputs of a run without steps."""
    k = trajectory.run.stop
    parameters: Any = trajectory.at(k) if averaged is None else averaged.recorded_end
    ledger.see(slice(None), k, *side.outputs(parameters, trajectory.buffers(k)))
