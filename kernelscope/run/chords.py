r"""Runs whose steps are chords between kept parameters.

Of the parameters :math:`\theta_0, \dots, \theta_T` some are kept, at the points :math:`p_0 < p_1 < \dots`. A chord goes
from one kept vector straight to the next, and whatever the path between them was,

.. math:: f(\theta_{p_{j+1}}) - f(\theta_{p_j}) = \langle\bar\phi_j, \theta_{p_{j+1}} - \theta_{p_j}\rangle ,

with the gradient averaged along the chord. What samples did between the two is a sum over their visits, whose gradients
are taken at a few nodes of the chord: at the fraction :math:`t` of its updates a visit meets
:math:`\sum_m \ell_m(t)\,g_i(\text{node}_m)`, with Lagrange's polynomials :math:`\ell_m`. The chord minus this sum is
nobody's: it is unattributed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError
from ..network import Parameters
from ..storage import MemoryStore
from .index import RunIndex
from .run import Run
from .samples import Samples
from .step import MicroBatch, Step

#: Samples whose gradients are taken in one pass.
PASS = 1024


@dataclass(eq=False)
class Chord(Step):
    r"""The updates between two kept parameter vectors, as one step.

    ``batches`` are the samples at the nodes, and ``batch.along`` says where on the chord a node lies.

    Attributes:
        inner: The updates, in order, as far as they are known.
        begun: The number of the first of them in the recording.
        updates: Their number.
        nodes: Where on the chord gradients are taken, in [0, 1]; empty where each pass keeps a place of its own.
        fits: Whether the learning rate is unknown, so that the one is taken which brings the samples' motion closest to
            the chord.
        averaged: Whether the order of samples is unknown, so that each update is given the mean over all of them.
    """

    inner: list[Step] = field(default_factory=list)
    begun: int = 0
    updates: int = 1
    nodes: tuple[float, ...] = (0.0, 1.0)
    fits: bool = False
    averaged: bool = False


def lagrange(nodes: Sequence[float], t: Tensor) -> Tensor:
    r"""The values :math:`\ell_m(t)` of Lagrange's polynomials of the nodes, with shape (nodes, times).

    Example:
        >>> lagrange([0.0, 1.0], torch.tensor([0.25])).flatten().tolist()
        [0.75, 0.25]
    """
    t = t.double()
    rows = []
    for m, node in enumerate(nodes):
        row = torch.ones_like(t)
        for other in (other for j, other in enumerate(nodes) if j != m):
            row = row * (t - other) / (node - other)
        rows.append(row)
    return torch.stack(rows)


def parse_nodes(name: Any) -> tuple[float, ...]:
    """The nodes called ``"ends"``, ``"start"``, ``"simpson"`` (ends and middle) or ``"gaussM"``.

    Example:
        >>> parse_nodes("ends"), parse_nodes("gauss1")
        ((0.0, 1.0), (0.5,))
    """
    known = {"ends": (0.0, 1.0), "start": (0.0,), "simpson": (0.0, 0.5, 1.0)}
    if isinstance(name, str):
        if name in known:
            return known[name]
        count = name.removeprefix("gauss")
        if name.startswith("gauss") and count.isdecimal() and 1 <= int(count) <= 9:
            return tuple(((np.polynomial.legendre.leggauss(int(count))[0] + 1) / 2).tolist())
    raise DataError(
        f'nodes must be "ends", "start", "simpson" or "gaussM" with M from 1 to 9; {what_came(name)} came. "ends" '
        "takes the samples' gradients at both ends of each chord."
    )


def node_batches(j: int, nodes: Sequence[float], columns: Tensor, training: tuple[str, ...]) -> list[MicroBatch]:
    """The samples named, at each node of chord j; a node at its end is the start of the next one."""
    found = []
    for node in nodes:
        at, along = (j + 1, 0.0) if node == 1.0 else (j, node)
        found += [MicroBatch(part, at, training, along=along) for part in columns.split(PASS)]
    return found


class Kept(ABC):
    """Where the kept parameters of a chord run are; asked when they are needed."""

    @abstractmethod
    def row(self, j: int) -> Tensor:
        """The j-th kept parameter vector."""

    @abstractmethod
    def buffers(self, j: int) -> Parameters:
        """The buffers there, as far as they are known; ``-1`` for those before the first step."""

    def states(self, j: int) -> dict[str, Tensor] | None:
        """The optimizer's states there, as ``owner|parameter|name``; ``-1`` for frozen parameters."""
        return None


class ChordIndex(RunIndex):
    """The steps of a chord run, with its parameters wherever they are kept."""

    def __init__(self, meta: dict[str, Any], samples: Samples, steps: list[Step], kept: Kept):
        self.store = MemoryStore("run", meta)
        self.meta, self.samples, self.steps, self.kept = meta, samples, steps, kept
        self.length, self.place, self.shadowed = len(steps), 0, set()
        self.starts = sorted({step.owner for step in steps})
        self.stored = list(range(len(steps) + 1))
        self.room = 0

    @property
    def anchors(self) -> list[int]:
        """Nothing: no step is computed again from a chord's ends."""
        return []

    def info(self, start: int, stop: int) -> dict[str, Any]:
        """The chords in plain data, with the updates behind them."""
        rates = [group["lr"] for step in self.steps[start:stop] for inner in updates(step) for group in inner.groups
                 if group.get("lr") is not None]
        return super().info(start, stop) | {
            "learning_rate": [min(rates), max(rates)] if rates else None,
            "chords": {"points": self.meta["points"][start:stop + 1], "thinned": self.meta.get("thinned", False)},
        }

    def check_buffers(self, known: Parameters) -> None:
        """Nothing: where parameters are kept, their names and shapes were compared with the model's."""

    def row(self, k: int) -> Tensor | None:
        """The k-th kept row."""
        return self.kept.row(k)

    def states(self, k: int) -> dict[str, Tensor] | None:
        """The optimizer's states there, if they are known."""
        return self.kept.states(k)

    def average(self, k: int) -> Tensor | None:
        """Nothing: averaged weights do not go along chords."""
        return None

    def buffers(self, k: int) -> Parameters:
        """The buffers there."""
        return self.kept.buffers(k)


def updates(step: Step) -> list[Step]:
    """The updates behind a step: itself, or those of a chord."""
    return step.inner if isinstance(step, Chord) else [step]


class ChordRun(Run):
    """A run whose steps are chords between kept parameter vectors.

    ``run.points`` holds the numbers of the updates at which parameters were kept, one more than there are chords.
    """

    @property
    def points(self) -> list[int]:
        """The number of the update before which each parameter vector was kept."""
        return self.meta["points"][self.start:self.stop + 1]

    def __repr__(self) -> str:
        rules = sorted({step.optimizer for step in self._index.steps[self.start:self.stop]})
        chords = f"{len(self)} chord{'' if len(self) == 1 else 's'}"
        points = self.points
        return (f"Run({chords} over the {points[-1] - points[0]} steps {points[0]} to {points[-1]} of "
                f"{', '.join(rules) or 'no optimizer'}, {self.size} samples, {self.parameter_count} parameters)")

    def save(self, path: str | Path, overwrite: bool = False) -> NoReturn:
        """Refused: a chord run is a view of what is kept elsewhere."""
        raise DataError(
            "A run of chords is a view of parameters that are kept elsewhere, so it is not saved itself. Keep the "
            "recording, or the checkpoints, and make it again: nothing is computed when it is made. Its results, such "
            "as a decomposition, are saved as always."
        )


def renumbered(step: Step, places: dict[int, int]) -> Step:
    """A step whose passes and optimizer are named by kept points."""
    batches = [replace(batch, at=places[batch.at]) for batch in step.batches]
    return replace(step, batches=batches, owner=places[step.owner])
