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

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..network import Parameters
from ..run.chords import ChordRun
from ..run.run import Run
from .adjoint import Adjoint
from .aside import Aside
from .chords import ChordForm
from .ledger import TURNED, Ledger
from .quadrature import Quadrature
from .query_side import QuerySide
from .training_side import Products, TrainingSide, rows_of
from .trajectory import AveragedTrajectory, Stretch, Trajectory
from .unrolling import Key, OptimizerState, UnrolledStep, Unroller, sample_weights, stored_state


class Unrolled:
    """The steps of a segment and the parameters along it, as the way back reads them.

    Args:
        rows: The parameters.
        steps: The steps from ``start`` on, unrolled as they are asked for.
        start: The first of them.
        end: The optimizer's states, which the unrolling advances.
        aside: Where steps wait until they are read, if memory is too small for them.
    """

    def __init__(self, rows: Stretch, steps: Iterable[UnrolledStep], start: int, end: OptimizerState,
                 aside: Aside | None):
        self.rows, self.start, self.end, self._aside = rows, start, end, aside
        self._steps: list[Any] = [step if aside is None else aside.put_all(step) for step in steps]

    def step(self, k: int) -> UnrolledStep:
        """Step k."""
        step = self._steps[k - self.start]
        return step if self._aside is None else self._aside.get_all(step)

    def close(self) -> None:
        """Lets go of what waits."""
        if self._aside is not None:
            self._aside.close()


@dataclass(eq=False)
class Segment:
    """A stretch of steps and the optimizer's states at its start.

    What unrolling gives is kept if the segment is the only one, so that further queries find it.

    Attributes:
        start: The first step.
        stop: The step after the last.
        state: The states before the first step, which the steps before it have left.
        alone: Whether there is no other segment.
        stored: Whether the states are those that the recording holds, so that no step before has to be gone through.
        aside: Whether its steps do not fit into memory, and wait on the disk.
        waits: Where the states before the first step wait, if they do.
    """

    start: int
    stop: int
    state: OptimizerState
    alone: bool
    stored: bool = False
    aside: bool = False
    waits: Aside | None = None
    _unrolled: Unrolled | None = None

    def unroll(self, unroller: Unroller, trajectory: Trajectory) -> tuple[Stretch, list[UnrolledStep]]:
        """The parameters along the stretch, and its steps."""
        held = self.held(unroller, trajectory)
        return held.rows, [held.step(k) for k in range(self.start, self.stop)]

    def held(self, unroller: Unroller, trajectory: Trajectory) -> Unrolled:
        """The stretch as the way back reads it."""
        if self._unrolled is not None:
            return self._unrolled
        aside = Aside() if self.aside else None
        rows = unroller.stretch(trajectory, self.start, self.stop, aside)
        state = self.begins(trajectory.run, unroller).copy()
        unrolled = Unrolled(rows, unroller.steps(self.start, self.stop, state, rows), self.start, state, aside)
        if self.alone:
            self._unrolled = unrolled
        return unrolled

    def begins(self, run: Run, unroller: Unroller) -> OptimizerState:
        """The states before the first step; those that are stored are read when they are asked for."""
        if self.stored:
            return stored_state(run, self.start, unroller.side)
        return self.state if self.waits is None else self.waits.get_all(self.state)


def cut(run: Run, unroller: Unroller, trajectory: Trajectory, length: int, aside: Aside | None = None,
        fits: int | None = None) -> list[Segment]:
    """Cuts the run into stretches of ``length`` steps, each with the optimizer's states at its start.

    Args:
        run: The run.
        unroller: What unrolls its steps.
        trajectory: Its parameters.
        length: The number of steps in a stretch.
        aside: Where the states wait, if memory is too small for them.
        fits: How many steps of a stretch fit in memory; all, if not given.
    """
    state = OptimizerState()
    segments: list[Segment] = []
    # The steps before a slice are gone through for the states they leave behind.
    before = [(a, min(a + length, run.start)) for a in range(0, run.start, length)]
    own = [(a, min(a + length, run.stop)) for a in range(run.start, run.stop, length)]
    for a, b in before + own:
        if a >= run.start:
            kept = state.copy() if aside is None else aside.put_all(state)
            segments.append(Segment(a, b, kept, len(own) == 1, aside=b - a > (fits or length), waits=aside))
        if b < run.stop and not unroller.displacement:
            for _ in unroller.steps(a, b, state, unroller.stretch(trajectory, a, b)):
                pass
    return segments


def cut_long(run: Run, unroller: Unroller, trajectory: Trajectory, length: int) -> list[Segment]:
    r"""Cuts a run of which ``length`` steps fit in memory where the recording holds the optimizer's states.

    Then no step is gone through for the states it leaves behind, and none is computed again more than once. Where no
    states are stored, about :math:`\sqrt T` stretches are made. A stretch that does not fit waits on the disk.
    """
    places = [] if unroller.displacement else [k for k in run.anchors if k not in run.restarts]
    inner = [k for k in (run.anchors if unroller.displacement else places) if run.start < k < run.stop]
    if isinstance(run, ChordRun):
        # To go along a chord costs as much as the way back, so none is gone along twice.
        return cut(run, unroller, trajectory, max(len(run), 1), Aside(), length)
    if not inner:
        return cut(run, unroller, trajectory, max(length, math.isqrt(len(run))), Aside(), length)
    state = OptimizerState()
    if run.start not in (0, *places) and not unroller.displacement:
        # A slice begins at the last such step before it.
        before = max([k for k in places if k < run.start], default=0)
        state = stored_state(run, before, unroller.side) if before else state
        for k in range(before, run.start, length):
            end = min(k + length, run.start)
            for _ in unroller.steps(k, end, state, unroller.stretch(trajectory, k, end)):
                pass
    segments: list[Segment] = []
    start = run.start
    while start < run.stop:
        near = [k for k in (*inner, run.stop) if start < k <= start + length]
        stop = near[-1] if near else next(k for k in (*inner, run.stop) if k > start)
        segments.append(Segment(start, stop, state if start == run.start else OptimizerState(), alone=False,
                                stored=start in places, aside=stop - start > length))
        start = stop
    return segments


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


class Stride(tuple[Parameters, Parameters]):
    """The parameters at both ends of a step, and what all parts ask of them, computed once."""

    def __new__(cls, here: Parameters, there: Parameters) -> Stride:  # noqa: D102
        return super().__new__(cls, (here, there))

    @property
    def here(self) -> Parameters:
        """The parameters before the step."""
        return self[0]

    @property
    def there(self) -> Parameters:
        """The parameters after it."""
        return self[1]

    def moved(self, names: list[str]) -> Parameters:
        """By how much the step moved them."""
        if not hasattr(self, "_moved"):
            self._moved = {name: self.there[name] - self.here[name] for name in names}
        return self._moved

    def square(self, names: list[str]) -> float:
        """The square of the step's length."""
        if not hasattr(self, "_square"):
            self._square = sum(float(d.double().flatten().dot(d.double().flatten()))
                               for d in self.moved(names).values())
        return self._square

    def at(self, node: float, names: list[str]) -> Parameters:
        """The parameters on the way, at this share of it."""
        if getattr(self, "_point", (None, {}))[0] != node:
            moved = self.moved(names)
            self._point = node, {**self.here, **{name: torch.add(self.here[name], moved[name], alpha=node)
                                                 for name in names}}
        return self._point[1]


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

    def cross(self, k: int, ends: OptimizerState, begins: OptimizerState, close: bool) -> None:
        """Books by how much the states stored before step k are not those that the steps before it left."""
        channel = "rounding" if close else "unattributed"
        self._adjoints.cross(ends, begins, lambda adjoint, apart: self.ledger.book(channel, self.rows,
                                                                                  dot(adjoint, apart)))
        if not close:
            self.ledger.unexplained.setdefault(k - 1, True)

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
        ends = _stride(held) if self.averaged is None else Stride(self.averaged[k], self.averaged[k + 1])
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
        missed = self.side.spread(change.reshape(-1) - _dots(p, moved))
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


def _stride(held: tuple[Parameters, Parameters]) -> Stride:
    return held if isinstance(held, Stride) else Stride(*held)


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
