r"""The generator's motion traced to the real points, exactly.

The generator never sees a real point: it moves by the critic's field. At its step s, with :math:`\psi_s` the direction
that meets the gradients of the draws :math:`z'`, the generated point z moves by

.. math:: V_s(\theta_D) = \sum_{z'} \langle u_{s,z'},\, \nabla_x\ell_G(D_{\theta_D}(x'))\rangle, \qquad
          u_{s,z'} = -\frac{w}{B} J_G(z')\,\psi_s, \quad x' = G_s(z'),

a number that the critic's parameters say. So it is what the critic's first parameters said, plus the integral of its
gradient along the critic's steps, and each of these steps is the sum of what the real points, their penalties and the
generated points did. The adjoint of the critic's rule is linear, so one way back with

.. math:: p_j = \sum_{s:\ \mathrm{seen}(s) > j} \overline{\nabla_\theta V_s}

serves all steps of the generator. The averages are discrete gradients, complete along chords of m critic steps; with
m = 1 the split is exact, and a longer chord only moves mass between samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from ...decomposition.ledger import Ledger
from ...decomposition.quadrature import Quadrature
from ...decomposition.query_side import QuerySide
from ...decomposition.segments import cut
from ...decomposition.sweep import PartSweep, sweep
from ...decomposition.training_side import Products, TrainingSide, rows_of
from ...decomposition.trajectory import Trajectory
from ...decomposition.unrolling import Key, OptimizerState, UnrolledStep, Unroller
from ...decomposition.way_back import WayBack, dot
from ...network import Parameters, apart, cast, gradients_of, random_state
from ...run.replay import batch_tensors
from ...run.step import MicroBatch
from .critic_course import CriticCourse, CriticLedger

__all__ = ["Draws", "FieldSweep", "Fields", "GeneratorCourse", "moved_draws", "standing_draws"]

#: How many numbers of an intermediate result are made at once: enough for a product, few enough to stay near the core.
BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws that moved some numbers, in the order of the generator's steps.

    Attributes:
        points: The generated points x', with shape (m, *).
        pulls: The directions u for each of the numbers, with shape (rows, m, *).
        seen: How many steps the critic had made, with shape (m,), ascending.
    """

    points: Tensor
    pulls: Tensor
    seen: Tensor

    def part(self, rows: slice) -> Draws:
        """Some of the draws."""
        return Draws(self.points[rows], self.pulls[:, rows], self.seen[rows])

    def of(self, numbers: slice) -> Draws:
        """The draws as they move some of the numbers."""
        return Draws(self.points, self.pulls[numbers], self.seen)

    def __len__(self) -> int:
        return len(self.seen)


class Fields:
    """The critic's fields at generated points, and how they depend on its parameters."""

    def __init__(self, course: CriticCourse):
        self.course = course
        self.buffers = course.trajectory.buffers(0)
        self._batched = True

    def at(self, theta: Parameters, x: Tensor) -> Tensor:
        """The fields at points of shape (m, *)."""
        score = lambda points: self.course.scores(theta, self.buffers, (points,))
        block = max(1, BLOCK // max(1, x[0].numel())) if len(x) else 1
        parts = [self.course.game.game.field(score, x[a:a + block]) for a in range(0, len(x), block)]
        return torch.cat(parts) if parts else torch.zeros_like(x)

    def pulled(self, theta: Parameters, draws: Draws) -> Tensor:
        """The numbers V, with shape (rows,)."""
        return draws.pulls.flatten(1) @ self.at(theta, draws.points).flatten()

    def gradients(self, theta: Parameters, draws: Draws, names: list[str]) -> Parameters:
        """The gradients of the numbers V by the critic's parameters, with shape (rows, *) each."""
        rows = len(draws.pulls)
        total = {name: theta[name].new_zeros(rows, *theta[name].shape) for name in names}
        width = max([theta[name].shape[0] for name in names if theta[name].ndim] + [1])
        block = max(1, BLOCK // max(1, rows * width))
        for a in range(0, len(draws), block):
            for name, found in self._gradients(theta, draws.part(slice(a, a + block)), names).items():
                total[name] += found
        return total

    def _gradients(self, theta: Parameters, draws: Draws, names: list[str]) -> Parameters:
        leaves = {name: theta[name].detach().clone().requires_grad_() for name in names}
        game = self.course.game.game
        with torch.enable_grad():
            x = draws.points.detach().requires_grad_()
            scores = self.course.scores({**theta, **leaves}, self.buffers, (x,)).reshape(len(x))
            field = torch.autograd.grad(game.generator_loss(scores).sum(), x, create_graph=True)[0]
            if not field.requires_grad:
                return {}
            if self._batched:
                try:
                    found = torch.autograd.grad(field, list(leaves.values()), draws.pulls, retain_graph=True,
                                                allow_unused=True, is_grads_batched=True)
                    return {name: g for name, g in zip(names, found, strict=True) if g is not None}
                # torch reports what it cannot vectorise by one of these.
                except (RuntimeError, NotImplementedError):
                    self._batched = False
            rows = [gradients_of((field * pull).sum(), leaves, retain_graph=True) for pull in draws.pulls]
        return {name: torch.stack([torch.zeros_like(leaves[name]) if g is None else g for g in column])
                for name, column in zip(names, zip(*rows, strict=True), strict=True)}


class FieldSweep:
    """The pull of the critic's fields on some numbers, on its way back through the critic's run.

    Args:
        ledger: Where the shares go.
        rows: Which of the ledger's queries these are.
        fields: The critic's fields.
        draws: The draws.
        chord: Along how many steps of the critic one gradient is averaged.
    """

    def __init__(self, ledger: CriticLedger, rows: slice, fields: Fields, draws: Draws, chord: int):
        self.fields, self.draws, self.chord = fields, draws, chord
        self.run = fields.course.run
        self.trajectory = fields.course.trajectory
        self._back = WayBack(ledger, rows, self.run)
        self._p: Parameters = {}

    def begin(self) -> None:
        """There is nothing behind the last step that was seen."""

    def step(self, k: int, held: tuple[Parameters, Parameters], unrolled: UnrolledStep,
             products: list[Products]) -> None:
        """Books step k of the critic."""
        start = k // self.chord * self.chord
        stop = min(start + self.chord, self.run.stop)
        if k + 1 == stop:
            self._p = self._averaged(start, stop, self._after(stop))
        elif self._after(k + 1).start < self._after(k + 2).start:
            # Steps of the generator within the chord saw it up to here.
            inner = slice(self._after(k + 1).start, self._after(k + 2).start)
            for name, rows in self._averaged(start, k + 1, inner).items():
                self._p[name] = self._p[name] + rows
        self._back.step(k, held[0], unrolled, self._p, products)

    def cross(self, k: int, ends: OptimizerState, begins: OptimizerState, close: bool) -> None:
        """Books by how much the states stored before step k are not those that the steps before it left."""
        self._back.cross(k, ends, begins, close)

    def end(self, theta: Parameters, momentum: dict[Key, Tensor]) -> None:
        """Books the momentum that was there before the first step."""
        self._back.end(momentum)

    def _after(self, k: int) -> slice:
        """The draws that saw k steps or more."""
        first = int(torch.searchsorted(self.draws.seen, torch.tensor(k)))
        return slice(first, len(self.draws))

    def _averaged(self, start: int, stop: int, which: slice) -> Parameters:
        """The gradient averaged between two steps, complete to the last digit (Gonzalez)."""
        draws, names = self.draws.part(which), self.run.names
        here, there = self.trajectory.at(start), self.trajectory.at(stop)
        moved = {name: there[name] - here[name] for name in names}
        middle = {**here, **{name: here[name] + moved[name] / 2 for name in names}}
        p = self.fields.gradients(middle, draws, names)
        square = sum(float(d.square().sum()) for d in moved.values())
        if square > 0 and len(draws):
            change = draws.pulls.flatten(1) @ (
                self.fields.at(there, draws.points) - self.fields.at(here, draws.points)).flatten()
            missed = change - torch.stack([dot(p[name], moved[name]) for name in names]).sum(0)
            for name in names:
                rows_of(p[name]).addr_(missed, moved[name].flatten(), alpha=1 / square)
        return p


class GeneratorCourse(TrainingSide):
    """The generator's training side, which hears what its draws are pulled by.

    Args:
        course: The critic's course.
        memory: About how many bytes a block may fill.
    """

    def __init__(self, course: CriticCourse, memory: int):
        self.course, self.game = course, course.game
        super().__init__(course.game.generator, torch.float64, course.device, memory // 4)
        self.trajectory = Trajectory(self.run, torch.float64, course.device)
        self.unroller = Unroller(self.run, self, False)
        length = min(max(1, memory // (12 * max(self.run.parameter_count, 1) * 8)), max(len(self.run), 1))
        self.segments = cut(self.run, self.unroller, self.trajectory, length) if len(self.run) else []
        self._heard: list[Draws] | None = None

    def products(self, batch: MicroBatch, k: int, parameters: Parameters, moving: list[str]) -> Products:
        """The products of a forward pass, which are heard too."""
        meet = super().products(batch, k, parameters, moving)

        def heard(directions: Parameters, scales: dict[str, float]) -> Tensor:
            if self._heard is not None:
                scaled = {name: rows * scales[name] for name, rows in directions.items()}
                points, pulls = self.pushed(batch, k, parameters, scaled)
                seen = self.game.seen[k].expand(len(points)).to(torch.int64)
                self._heard.append(Draws(points, pulls, seen))
            return meet(directions, scales)

        return heard

    def pushed(self, batch: MicroBatch, k: int, parameters: Parameters,
               directions: Parameters) -> tuple[Tensor, Tensor]:
        """What the draws of a forward pass are made into, (B, *), and how directions move it, (rows, B, *)."""
        (inputs, _), buffers = self.to(batch_tensors(self.run, batch)), self.to(self.run.buffers(k))
        own = apart(parameters, list(directions))
        made = lambda p: self.run.network({**parameters, **p}, buffers, inputs, batch.training)
        with random_state(batch.random, self.device):
            points, pulls = vmap(lambda d: _pushed(made, own, d), randomness="same")(directions)
        return points[0], pulls

    def back(self, side: QuerySide, ledger: Ledger, advance: Any) -> Draws:
        """Takes queries back through the generator's run; returns the draws that moved them."""
        self._heard = []
        part = PartSweep(ledger, slice(0, len(side)), side, Quadrature.parse("gonzalez"), self.trajectory, None)
        sweep([part], self.segments, self.unroller, self.trajectory, self, advance)
        # The way back hears the last step first, and the passes of a step in their order.
        heard, self._heard = self._heard[::-1], None
        rows = len(side) * len(ledger.names)
        shape = side.inputs[0].shape
        if not heard:
            nothing = torch.zeros(0, *shape[1:], dtype=torch.float64)
            return Draws(nothing, nothing.expand(rows, *nothing.shape), torch.zeros(0, dtype=torch.int64))
        return Draws(torch.cat([d.points for d in heard]), torch.cat([d.pulls for d in heard], 1),
                     torch.cat([d.seen for d in heard]))


def moved_draws(generator: GeneratorCourse, side: QuerySide, ledger: Ledger, advance: Any) -> Draws:
    """The draws of the whole run and how they moved the numbers of ``side``; fills the generator's ledger."""
    side.probe(generator.trajectory.at(0), generator.trajectory.buffers(0))
    return generator.back(side, ledger, advance)


def standing_draws(generator: GeneratorCourse, side: QuerySide, draws: int) -> Draws:
    """The last draws of the run and how they would move the numbers of ``side`` now, by a unit of gradient descent."""
    run, trajectory = generator.run, generator.trajectory
    theta, buffers = trajectory.at(run.stop), trajectory.buffers(run.stop)
    side.probe(theta, buffers)
    rows = side.gradients(theta, buffers)
    latents = last_latents(generator, draws)
    own = {name: theta[name].clone() for name in side.names}
    made = lambda p: run.network({**theta, **p}, buffers, (latents,))
    points, pulls = vmap(lambda d: _pushed(made, own, d))(dict(zip(side.names, rows, strict=True)))
    seen = torch.full((len(latents),), len(generator.game.critic), dtype=torch.int64)
    return Draws(points[0], pulls / -len(latents), seen)


def _pushed(made: Callable[[Parameters], Tensor], own: Parameters, direction: Parameters) -> tuple[Tensor, Tensor]:
    """What is made at some parameters, and how it moves with them."""
    points, pushed = jvp(made, (own,), (direction,))[:2]
    return points, pushed


def last_latents(generator: GeneratorCourse, count: int) -> Tensor:
    """The latents of the last draws of the generator's run, at most ``count``, in float64."""
    run, found = generator.run, []
    for k in range(run.stop - 1, -1, -1):
        found += [run.samples.read(batch)[0][0] for batch in run.step(k).batches]
        if sum(map(len, found)) >= count:
            break
    return cast(torch.cat(found)[:count], torch.float64, generator.device)
