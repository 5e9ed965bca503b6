"""The ledger while it is filled: every amount goes to one column, and all are kept in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..processes import Ranks
from ..result import as_float64
from ..run.chords import ChordRun
from ..run.run import Run
from ..run.step import MicroBatch
from .cells import Cells
from .result import CHANNELS, Decomposition
from .unrolling import CHORD

#: Networks with at most this many outputs have them kept along the run.
OUTPUTS_KEPT = 128

#: What is said of steps that the rule does not explain, by what their recorded gradient norms tell.
ANOTHER_GRADIENT = (
    "{count} of {total} steps used another gradient than that of the recorded loss on the recorded batch, or momentum "
    "of such a gradient (first: {first}); the difference is booked as unattributed. Pass record(..., loss=...) the "
    "loss that is minimised, with its weights and penalties, keep each batch's rows in their order, and clip all "
    "gradients together."
)
MOVED_BESIDE = (
    "{count} of {total} steps moved the parameters otherwise than the rule says, although their gradient had the norms "
    "of that of the recorded loss (first: {first}): something beside the optimizer wrote to weights, or to the "
    "optimizer's states, or entries of the gradient changed their signs; the difference is booked as unattributed. "
    "Leave the `with` block before weights are restored or averaged, and bound weights in the network's forward "
    "instead of after each step."
)
OPPOSITE = (
    "{count} of {total} steps went exactly the opposite way (first: {first}): the loop minimised the negative of the "
    "recorded loss; twice each step is booked as unattributed. Pass record(..., loss=...) the loss that is minimised, "
    "with its sign, or let the optimizer maximize=True the recorded one."
)
CHORDS = (
    "The parameters were kept at {points} of the steps {first} to {last}; between them samples' gradients are taken at "
    "nodes of the chord. What that misses of a chord is booked as unattributed; single shares may be off by more, "
    "since errors of many shares cancel in their sum."
)
FITTED = (
    "The learning rate is not known: on each chord it is the one that brings the samples' motion closest to the chord "
    "({least} to {most}), so shares are relative to it."
)
#: How a step is marked that is the opposite of what the recorded loss asks for.
TURNED = "turned"
RESTORED = (
    "The optimizer went on from restored states at step {first}; what their momentum moved is booked beside the "
    "momentum at the start, since no step before left it."
)
#: What is known of a step that the rule does not explain.
KINDS: tuple[bool | str | None, ...] = (None, True, False, TURNED)

NOT_ASKED = 'All {count} steps are booked as unattributed, as rule="displacement" asks.'


class Ledger:
    """The arrays of a decomposition of ``queries`` queries with the outputs named."""

    def __init__(self, run: Run, queries: int, names: list[str], members: Tensor | None, groups: list[str],
                 cells: Cells | None = None, parts: int | None = None):
        q, c, t = queries, len(names), len(run)
        self.run, self.names, self.members, self.groups = run, names, members, groups
        self.contributions = _zeros(q, c, run.size)
        self.channels = {name: _zeros(q, c) for name in CHANNELS}
        self.steps, self.path, self.missed = _zeros(q, c, t), _zeros(q, c, t + 1), _zeros(q, c, t)
        self.magnitude = _zeros(q, c)
        self.group_steps = None if members is None else _zeros(q, c, len(groups), t)
        self.outputs: Tensor | None = None
        self.cells = cells
        self.booked = None if cells is None else _zeros(q, c, cells.count)
        # What each part of a sample's loss has of its share, where that is asked.
        self.parts = None if parts is None else _zeros(q, c, run.size, parts)
        # The steps whose gap is more than rounding, and whether the recorded loss led them there.
        self.unexplained: dict[int, bool | str | None] = {}
        # What each step leaves unattributed, where there is any, and the learning rates fitted to chords.
        self.gaps: Tensor | None = None
        self.rates: dict[int, float] = {}
        # The steps that went on from a momentum which was put in the place of the one before.
        self.restored: set[int] = set()
        # The parameters of which groups of samples are told together, for each step at which they cancelled.
        self.cancelled: dict[int, list[str]] = {}

    def book(self, channel: str, rows: slice, amounts: Tensor) -> None:
        """Adds amounts, one for each query and output, to a channel."""
        amounts = as_float64(amounts).view(-1, len(self.names))
        self.channels[channel][rows] += amounts
        self.magnitude[rows] += amounts.abs()

    def leave(self, rows: slice, k: int, amounts: Tensor) -> None:
        """Keeps what step k leaves unattributed."""
        if self.gaps is None:
            self.gaps = torch.zeros_like(self.steps)
        self.gaps[rows, :, k - self.run.start] = as_float64(amounts).view(-1, len(self.names))

    def share(self, rows: slice, k: int, j: int, batch: MicroBatch, shares: Tensor) -> None:
        """Adds the shares of samples in forward pass j of step k, with shape (queries x outputs, samples of it).

        With parts the columns are those of the samples' parts, sample by sample.
        """
        columns = batch.columns
        amounts = as_float64(shares).view(-1, len(self.names), shares.shape[1])
        if self.parts is not None:
            pieces = amounts.unflatten(2, (len(columns), -1))
            self.parts[rows, :, :, :pieces.shape[3]].index_add_(2, columns, pieces)
            amounts = pieces.sum(-1)
        place = k - self.run.start
        self.contributions[rows].index_add_(2, columns, amounts)
        total = amounts.sum(-1)
        self.steps[rows, :, place] += total
        self.channels["data"][rows] += total
        self.magnitude[rows] += amounts.abs().sum(-1)
        if self.group_steps is not None and self.members is not None:
            self.group_steps[rows, :, :, place].index_add_(2, self.members[columns], amounts)
        if self.booked is not None and self.cells is not None:
            self.cells.book(self.booked[rows], k, j, batch, amounts)

    def see(self, rows: slice, k: int, raw: Any, values: Tensor) -> None:
        """Keeps what the network gives at the start of step k."""
        place = k - self.run.start
        self.path[rows, :, place] = as_float64(values)
        if isinstance(raw, Tensor) and raw.ndim == 1:
            raw = raw.unsqueeze(1)
        if isinstance(raw, Tensor) and raw.ndim == 2 and raw.shape[1] <= OUTPUTS_KEPT:
            if self.outputs is None:
                self.outputs = _zeros(len(self.path), raw.shape[1], len(self.run) + 1)
            self.outputs[rows, :, place] = as_float64(raw)

    def gather(self, ranks: Ranks) -> None:
        """Adds up what all processes have booked, each of its own queries or of its own steps."""
        sizes = ranks.each(torch.tensor([0 if self.outputs is None else self.outputs.shape[1]]))
        width = max(int(size) for size in sizes)
        if width and self.outputs is None:
            self.outputs = _zeros(len(self.path), width, len(self.run) + 1)
        names = sorted(self.run.names)
        told = torch.zeros(len(self.run), 2 + len(names), dtype=torch.int64)
        for k, kind in self.unexplained.items():
            told[k - self.run.start, 0] = 1 + KINDS.index(kind)
        for k in self.restored:
            told[k - self.run.start, 1] = 1
        for k, some in self.cancelled.items():
            told[k - self.run.start, 2:] = torch.tensor([name in some for name in names])
        whole = [self.contributions, *self.channels.values(), self.steps, self.path, self.missed, self.magnitude,
                 *(t for t in (self.group_steps, self.outputs, self.booked) if t is not None)]
        for t in whole:
            t.copy_(ranks.sum(t))
        told = torch.stack(ranks.each(told)).amax(0)
        for place, row in enumerate(told.tolist()):
            k = place + self.run.start
            if row[0]:
                self.unexplained[k] = KINDS[row[0] - 1]
            if row[1]:
                self.restored.add(k)
            if any(row[2:]):
                self.cancelled[k] = [name for name, held in zip(names, row[2:], strict=True) if held]

    def notes(self) -> list[str]:
        """What a reader should know."""
        found = []
        for led, sentence in ((False, ANOTHER_GRADIENT), (TURNED, OPPOSITE), (True, MOVED_BESIDE),
                               (None, NOT_ASKED)):
            steps = sorted(k for k, kind in self.unexplained.items() if kind == led)
            if steps:
                first = ", ".join(map(str, steps[:5]))
                found.append(sentence.format(count=len(steps), total=len(self.run), first=first))
        if any(kind == CHORD for kind in self.unexplained.values()) and isinstance(self.run, ChordRun):
            points = self.run.points
            found.append(CHORDS.format(points=len(points), first=points[0], last=points[-1]))
        if self.rates:
            rates = self.rates.values()
            found.append(FITTED.format(least=f"{min(rates):.3g}", most=f"{max(rates):.3g}"))
        if self.restored:
            first = ", ".join(map(str, sorted(self.restored)[:5]))
            found.append(RESTORED.format(first=first))
        return found

    def result(self, info: dict[str, Any]) -> Decomposition:
        """The finished decomposition."""
        return Decomposition(
            initial=self.path[:, :, 0].clone(), final=self.path[:, :, -1].clone(), contributions=self.contributions,
            channels=self.channels, steps=self.steps, path=self.path, quadrature_error=self.missed,
            magnitude=self.magnitude + self.path[:, :, 0].abs(), group_steps=self.group_steps, groups=self.groups,
            outputs=self.outputs, sample_ids=torch.tensor(self.run.samples.ids, dtype=torch.int64),
            labels=self.run.labels, output_names=self.names, info=info, unattributed=self.gaps,
        )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)
