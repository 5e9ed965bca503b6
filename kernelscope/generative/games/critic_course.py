r"""The critic's run gone through backwards: who made a number that the critic's parameters say.

The number may be the score at a point, the slope there, or the pull of the critic's fields on a generated point. Its
gradient by the parameters, averaged along each step, meets the gradients of what the critic was shown: real points,
their penalties, generated points. A rule that divides by the size of the gradient blows up groups that cancel in it;
these are told together, as ``cancelled``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from ...decomposition.ledger import Ledger
from ...decomposition.output import OutputFunctional
from ...decomposition.quadrature import Quadrature
from ...decomposition.query_side import QuerySide
from ...decomposition.segments import cut
from ...decomposition.sweep import Part, PartSweep, sweep
from ...decomposition.training_side import TrainingSide
from ...decomposition.trajectory import Trajectory
from ...decomposition.unrolling import Unroller
from ...errors import DataError
from ...network import Network
from ...result import as_float64
from ...run.step import MicroBatch
from .game import STILL, GANRun

__all__ = ["KINDS_OF_SHARES", "CriticCourse", "CriticLedger", "Places"]

#: What the critic was shown, in the order of its samples.
KINDS_OF_SHARES = ("real", "penalty", "fake")

#: What is said where groups cancel in a gradient.
CANCEL = (
    "In {count} of {total} steps of the critic the gradients of real points, penalties and generated points cancelled "
    "in {names}, and the rule divides by the size of what is left: what they did there has no parts, and is told "
    "together as cancelled."
)

#: How many bytes of query gradients are made at once.
PART = 2**25


@dataclass(frozen=True)
class Places:
    """Which of the critic's samples are real points, their penalties and generated points."""

    real: slice
    penalty: slice
    fake: slice

    @classmethod
    def of(cls, run: GANRun) -> Places:
        """The places in a recorded game."""
        n = run.real
        ends = n, n + (n if run.game.r1 > 0 else 0), run.critic.size
        return cls(slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], ends[2]))

    @property
    def kinds(self) -> Tensor:
        """For each sample its kind, as a place in :data:`KINDS_OF_SHARES`."""
        found = torch.zeros(self.fake.stop, dtype=torch.int64)
        found[self.penalty], found[self.fake] = 1, 2
        return found


class CriticLedger(Ledger):
    """A ledger with what cancels in a column of its own, and with the age of what each sample did.

    Attributes:
        moved: The sum over steps of the absolute share of each sample, with shape (q, c, n).
        aged: The same, each share times the number of steps that came after it.
    """

    def __init__(self, run: GANRun, queries: int, names: list[str]):
        super().__init__(run.critic, queries, names, Places.of(run).kinds, list(KINDS_OF_SHARES))
        self.channels["cancelled"] = torch.zeros_like(self.magnitude)
        self.moved = torch.zeros_like(self.contributions)
        self.aged = torch.zeros_like(self.contributions)

    def share(self, rows: slice, k: int, j: int, batch: MicroBatch, shares: Tensor) -> None:
        """Adds the shares of samples in forward pass j of step k."""
        super().share(rows, k, j, batch, shares)
        amounts = as_float64(shares).view(-1, len(self.names), shares.shape[1]).abs()
        self.moved[rows].index_add_(2, batch.columns, amounts)
        self.aged[rows].index_add_(2, batch.columns, amounts * (self.run.stop - 1 - k))

    def notes(self) -> list[str]:
        """What a reader should know."""
        if not self.cancelled:
            return super().notes()
        names = sorted({name for found in self.cancelled.values() for name in found})
        return [*super().notes(), CANCEL.format(count=len(self.cancelled), total=len(self.run), names=", ".join(names))]

    def others(self) -> dict[str, Tensor]:
        """The channels that are no samples, (q, c) each."""
        return {name: values for name, values in self.channels.items() if name != "data"}


class _Scores(nn.Module):
    def __init__(self, judged: Any):
        super().__init__()
        self.network = judged.network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).reshape(len(x), 1)


class _Slopes(_Scores):
    def forward(self, x: Tensor) -> Tensor:
        return vmap(grad(lambda point: self.network(point[None]).squeeze()))(x).flatten(1)


class CriticCourse:
    """The critic's run, ready to be gone through backwards in float64.

    Args:
        run: The game.
        memory: About how many bytes a block may fill.

    Raises:
        DataError: If the critic has buffers that change, or the run is a part of a recording.
    """

    def __init__(self, run: GANRun, memory: int):
        critic = run.critic
        device = next(iter(critic.network.parameters.values())).device
        if critic.start != 0 or run.generator.start != 0:
            raise DataError("The game is explained from its first step on; a slice came. Pass the GANRun as recorded.")
        self.game, self.run, self.memory, self.device = run, critic, memory, device
        self.trajectory = Trajectory(critic, torch.float64, device)
        self.training = TrainingSide(critic, torch.float64, device, memory // 4)
        self.unroller = Unroller(critic, self.training, False, Places.of(run).kinds.to(device))
        held = 3 * max(critic.parameter_count, 1) * 8
        length = min(max(1, memory // (4 * held)), max(len(critic), 1))
        self.segments = cut(critic, self.unroller, self.trajectory, length) if len(critic) else []
        judged: Any = critic.network.module(())
        self.scores = Network(_Scores(judged))
        self.slopes = Network(_Slopes(judged))

    def refuse_changing_buffers(self) -> None:
        """Refuses a critic whose buffers change, where its fields are asked for at all steps.

        Raises:
            DataError: If they do.
        """
        first, last = self.run.buffers(-1), self.run.buffers(self.run.stop)
        changed = [name for name, b in last.items() if not torch.equal(b, first[name])]
        if changed:
            raise DataError(f"The generator's motion is traced through critics whose buffers stay, and this one's "
                            f"{changed[0]!r} changed in training. {STILL}")

    def back(self, parts: Sequence[Part], advance: Callable[[int], object]) -> None:
        """Takes parts back through the run, last step first; they share the gradients of each batch."""
        sweep(parts, self.segments, self.unroller, self.trajectory, self.training, advance)

    def split(self, x: Tensor, slopes: bool, ledger: CriticLedger, advance: Callable[[int], object]) -> str:
        """Splits scores of points with shape (q, *), or their slopes, into ``ledger``; returns a note."""
        network = self.slopes if slopes else self.scores
        functional = OutputFunctional(lambda out, side: out, None, ledger.names)
        side = QuerySide(network, (x.to(self.device, torch.float64),), functional, self.run.names)
        side.probe(self.trajectory.at(0), self.trajectory.buffers(0))
        size = max(1, len(ledger.names) * self.run.parameter_count * 8)
        step = max(1, PART // size)
        rows = [slice(a, min(a + step, len(x))) for a in range(0, len(x), step)]
        quadrature = Quadrature.parse("gonzalez")
        parts = [PartSweep(ledger, part, side.part(part), quadrature, self.trajectory, None) for part in rows]
        # As many parts go back together as their adjoints fit.
        most = max(1, self.memory // (4 * size * step))
        for a in range(0, len(parts), most):
            self.back(parts[a:a + most], advance)
        return side.note

    def passes(self, queries: int, numbers: int) -> int:
        """How many times the run is gone through for so many queries of so many numbers each."""
        size = max(1, numbers * self.run.parameter_count * 8)
        step = max(1, PART // size)
        most = max(1, self.memory // (4 * size * step))
        return -(-queries // (step * most))
