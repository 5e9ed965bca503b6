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
from typing import Any, Protocol

import torch
from torch import Tensor

from ..network import Parameters
from .ledger import Ledger
from .quadrature import Quadrature
from .query_side import QuerySide
from .segments import Segment
from .stride import Stride, stride_of
from .training_side import Products, TrainingSide, rows_of
from .trajectory import AveragedTrajectory, Trajectory
from .unrolling import Key, OptimizerState, UnrolledStep, Unroller
from .way_back import WayBack, dots


class Part(Protocol):
    """What goes back through a run with others."""

    def begin(self) -> None:
        """Sees the end of the run."""

    def step(self, k: int, held: tuple[Parameters, Parameters], unrolled: UnrolledStep,
             products: list[Products]) -> None:
        """Books step k, between the parameters ``held``; ``products`` meet directions with the samples' gradients."""

    def cross(self, k: int, ends: OptimizerState, begins: OptimizerState, close: bool) -> None:
        """Books by how much the states stored before step k are not those that the steps before it left."""

    def end(self, theta: Parameters, momentum: dict[Key, Tensor]) -> None:
        """Books what was there before the first step."""


def sweep(parts: Sequence[Part], segments: list[Segment], unroller: Unroller, trajectory: Trajectory,
          training: TrainingSide, advance: Callable[[int], object]) -> None:
    """Goes over all segments, last first, with parts of the queries side by side: they share each batch's gradients."""
    run = trajectory.run
    for part in parts:
        part.begin()
    theta: Parameters = {}
    later: OptimizerState | None = None
    for segment in reversed(segments):
        held = segment.held(unroller, trajectory)
        rows = held.rows
        if later is not None:
            close = unroller.left_alike(held.end, later, segment.start, segment.stop)
            for part in parts:
                part.cross(segment.stop, held.end, later, close)
        for k in range(segment.stop - 1, segment.start - 1, -1):
            step = held.step(k)
            stride = Stride(rows[k], rows[k + 1])
            if k == run.start:
                theta = stride.here
            heard = [name for name in step.linear if name not in step.silent]
            products = [training.products(batch, batch.at if step.chord else k, rows.seen(batch), heard)
                        for batch in (run.step(k).batches if heard else ())]
            for part in parts:
                part.step(k, stride, step, products)
            del step, stride, products
            advance(1)
        rows.forget()
        later = segment.begins(run, unroller) if segment.stored else None
        if not segment.alone:
            held.close()
            # What the stretch before needs is not to come beside this one.
            del held, rows
    first = segments[0].begins(run, unroller)
    for part in parts:
        part.end(theta, first.momentum)


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
            self.ledger.book("momentum", self.rows, dots(self._received, apart))
            theta = self.averaged[0]
        first = self._see(self.run.start, theta, self.trajectory.first_buffers())
        self.ledger.book("buffers", self.rows, self._value - first)

    def cross(self, k: int, ends: OptimizerState, begins: OptimizerState, close: bool) -> None:
        """Books by how much the states stored before step k are not those that the steps before it left."""
        self._back.cross(k, ends, begins, close)

    def _see(self, k: int, parameters: Parameters, buffers: Parameters) -> Tensor:
        raw, values = self.side.outputs(parameters, buffers)
        self.ledger.see(self.rows, k, raw, values)
        return values

    def step(self, k: int, held: tuple[Parameters, Parameters], unrolled: UnrolledStep,
             products: list[Products]) -> None:
        """Books step k, between the parameters ``held``; ``products`` meet directions with the samples' gradients."""
        theta = held[0]
        ends = stride_of(held) if self.averaged is None else Stride(self.averaged[k], self.averaged[k + 1])
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

    def _gradients(self, k: int, ends: Stride, buffers: Parameters,
                   change: Tensor) -> Parameters:
        """The query gradients averaged along the step; books what the quadrature missed."""
        names = self.side.names
        moved = ends.moved(names)
        p: Parameters = {}
        for node, weight in zip(self.quadrature.nodes, self.quadrature.weights, strict=True):
            found = self.side.gradients(ends.at(node, names), buffers)
            for name, rows in zip(names, found, strict=True):
                if name in p:
                    p[name].add_(rows, alpha=weight)
                else:
                    # The correction below writes through a flat view, which only contiguous rows have.
                    p[name] = (rows if weight == 1.0 else rows * weight).contiguous()
        missed = self.side.spread(change.reshape(-1) - dots(p, moved))
        place = k - self.run.start
        self.ledger.missed[self.rows, :, place] = missed.detach().cpu().double().view(-1, len(self.ledger.names))
        square = ends.square(names)
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


def same(a: Parameters, b: Parameters) -> bool:
    """Whether all tensors of ``a`` are those of ``b``."""
    return all(torch.equal(t, b[name].to(t)) for name, t in a.items())


def outputs_only(ledger: Ledger, side: QuerySide, trajectory: Trajectory,
                 averaged: AveragedTrajectory | None) -> None:
    """Fills in the outputs of a run without steps."""
    k = trajectory.run.stop
    parameters: Any = trajectory.at(k) if averaged is None else averaged.recorded_end
    ledger.see(slice(None), k, *side.outputs(parameters, trajectory.buffers(k)))
