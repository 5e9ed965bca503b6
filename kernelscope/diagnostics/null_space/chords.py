r"""The path of a run as straight chords, and the gradients along each.

A chord goes from :math:`\theta_j` to :math:`\theta_{j+1} = \theta_j + D_j`, over one step or many. Whatever the
optimizer did on the way, the outputs change along it by the averaged gradient,

.. math:: f(z; \theta_{j+1}) - f(z; \theta_j) = \langle\tilde\phi_j(z), D_j\rangle, \qquad
          \tilde\phi_j = p_j + \frac{e_j}{E_j}\, w_j^{-1} D_j, \qquad e_j = \Delta f - \langle p_j, D_j\rangle,

where :math:`p_j` is the gradient in the middle of the chord (Gonzalez' discrete gradient). Each parameter has a weight
w, its learning rates added up over the chord; :math:`E_j = \sum_p D_p^2 / w_p` is the energy of the chord. Weighted by
w the gradients have the products

.. math:: \tilde K_j(z, z') = \sum_p w_p\, p(z)\, p(z') + \frac{e(z)\, q(z') + q(z)\, e(z') + e(z)\, e(z')}{E_j},
          \qquad q = \langle p, D\rangle .
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ...decomposition.query_side import QuerySide
from ...decomposition.stochastic.gradient_products import Gradients, Place, sum_of_products
from ...decomposition.trajectory import Trajectory
from ...layers import Batch, Function
from ...layers.jacobian import push, way_to_push
from ...network import Parameters, flatten
from ...result import as_float64
from ...run.run import Run

#: How many points a forward product takes at a time.
POINTS = 512


@dataclass(frozen=True, eq=False)
class Chord:
    """A straight piece of the path.

    Attributes:
        start: The number of the step at whose start it begins.
        stop: That at whose start it ends.
        here: The parameters at its start.
        middle: Those in its middle.
        there: Those at its end.
        moved: By how much each recorded parameter moved.
        weights: The weight of each, 0 of one that did not move.
        energy: E of the chord.
    """

    start: int
    stop: int
    here: Parameters
    middle: Parameters
    there: Parameters
    moved: Parameters
    weights: dict[str, float]
    energy: float


@dataclass(eq=False)
class Travelled:
    """What was met on the way along the chords; all of the points, with shape (N, c) for each.

    Attributes:
        initial: The outputs at the start.
        final: Those at the end.
        buffers: What the change of buffers added.
        energies: The energy of each chord.
        along: q of each chord.
        beside: e of each chord.
        asymmetry: By how much the matrix differed from its transpose, relative.
    """

    initial: Tensor | None = None
    final: Tensor | None = None
    buffers: Tensor | None = None
    energies: list[float] = field(default_factory=list)
    along: list[Tensor] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    asymmetry: float = 0.0

    @property
    def energy(self) -> float:
        """The energy of the path."""
        return sum(self.energies)

    def left(self) -> float:
        """What is left of the change of outputs once chords and buffers are taken off, relative to their sizes."""
        assert self.initial is not None
        assert self.final is not None
        assert self.buffers is not None
        parts = [q + e for q, e in zip(self.along, self.beside, strict=True)]
        gap = self.final - self.initial - self.buffers - sum(parts, torch.zeros_like(self.initial))
        scale = self.initial.abs() + self.final.abs() + self.buffers.abs() + sum(
            (part.abs() for part in parts), torch.zeros_like(self.initial))
        return float(gap.abs().max() / scale.max()) if float(scale.max()) else 0.0


def rates_of(run: Run, start: int, stop: int) -> dict[str, float]:
    """The learning rates of each parameter added up over some steps; any positive weights would do."""
    found = dict.fromkeys(run.names, 0.0)
    for k in range(start, stop):
        for group in run.step(k).groups:
            rate = group.get("lr")
            for name in group["names"]:
                # A rule without a rate counts its steps.
                found[name] += abs(float(rate)) if isinstance(rate, int | float) else 1.0
    usual = max(found.values()) or 1.0
    return {name: rate or usual for name, rate in found.items()}


def chords(trajectory: Trajectory, times: list[int]) -> Iterator[Chord]:
    """The chords between some times of a run, numbered from its start."""
    run = trajectory.run
    there: Parameters | None = None
    for first, last in pairwise(times):
        start, stop = run.start + first, run.start + last
        here = trajectory.at(start) if there is None else there
        there = trajectory.at(stop)
        moved = {name: there[name] - here[name] for name in run.names}
        rates = rates_of(run, start, stop)
        weights = {name: rate if bool(moved[name].any()) else 0.0 for name, rate in rates.items()}
        energy = sum(float(moved[name].double().square().sum()) / w for name, w in weights.items() if w)
        middle = here | {name: here[name] + moved[name] / 2 for name in run.names}
        yield Chord(start, stop, here, middle, there, moved, weights, energy)


class Walk:
    """Goes along the chords of a run with some points.

    Args:
        trajectory: The run.
        side: The points, ready to be differentiated.
        times: Where chords begin and end.
    """

    def __init__(self, trajectory: Trajectory, side: QuerySide, times: list[int]):
        self.trajectory, self.side, self.times = trajectory, side, times
        self.met = Travelled()
        self._way: str | None = ""

    def chords(self) -> Iterator[tuple[Chord, Parameters, Tensor, Tensor]]:
        """Each chord that moved, with its buffers, q and e; what is met goes into :attr:`met`."""
        met, held = self.met, self.trajectory
        first = held.run.start + self.times[0]
        met.initial = now = self.outputs(held.at(first), held.first_buffers() if not self.times[0] else
                                         held.buffers(first))
        met.buffers = torch.zeros_like(now)
        if held.buffers(first) and not self.times[0]:
            # The first forward pass had moved them before the first step.
            now = self.outputs(held.at(first), held.buffers(first))
            met.buffers = now - met.initial
        for chord in chords(held, self.times):
            buffers = held.buffers(chord.start)
            if chord.energy > 0:
                ahead = self.outputs(chord.there, buffers)
                q = self.pushed(chord.middle, buffers, chord.moved)
                e = ahead - now - q
                met.energies.append(chord.energy)
                met.along.append(q)
                met.beside.append(e)
                yield chord, buffers, q, e
                now = ahead
            if buffers:
                fresh = self.outputs(chord.there, held.buffers(chord.stop))
                met.buffers = met.buffers + fresh - now
                now = fresh
        met.final = now

    def matrix(self, block: int, done: Callable[[], object]) -> Tensor:
        r"""The path kernel :math:`\bar K = \sum_j \tilde K_j`, summed over outputs, with shape (N, N)."""
        bent: list[tuple[float, Tensor, Tensor]] = []

        def places() -> Iterator[Place]:
            for chord, buffers, q, e in self.chords():
                bent.append((chord.energy, q, e))
                yield Place(Gradients([(1.0, chord.middle, buffers)]), None,
                            [chord.weights[name] for name in self.side.names])

        matrix = as_float64(sum_of_products(places(), self.side, self.side, False, block, True, done))
        for energy, q, e in bent:
            matrix += (e @ q.T + q @ e.T + e @ e.T) / energy
        size = float(matrix.abs().max()) if len(matrix) else 0.0
        self.met.asymmetry = float((matrix - matrix.T).abs().max()) / size if size else 0.0
        return (matrix + matrix.T) / 2

    def outputs(self, parameters: Parameters, buffers: Parameters) -> Tensor:
        """The explained outputs, with shape (N, c)."""
        return as_float64(self.side.outputs(parameters, buffers)[1])

    def pushed(self, parameters: Parameters, buffers: Parameters, direction: Parameters) -> Tensor:
        """The derivative of the outputs along a direction, with shape (N, c)."""
        side = self.side
        function = Function(side.network, parameters, buffers, side.functional)
        flat = flatten([direction[name] for name in side.names])[None]
        found = []
        for start in range(0, len(side), POINTS):
            part = side.part(slice(start, start + POINTS))
            batch = Batch(part.inputs, {}, part.functional.side)
            if self._way == "":
                self._way = way_to_push(function, side.names, batch)
            if self._way is None:
                rows = part.gradients(parameters, buffers)
                values = sum(g.flatten(1) @ direction[name].flatten()
                             for name, g in zip(side.names, rows, strict=True))
                assert isinstance(values, Tensor)
                found.append(values.reshape(len(part), -1))
            else:
                found.append(push(function, side.names, batch, flat, self._way)[..., 0])
        return as_float64(torch.cat(found))
