"""The points of a kernel of a run: what is handed in, or the training samples that the run holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ...network import cast
from ...run.run import Run
from ..exact import final_outputs
from ..output import output_functional
from ..query_side import QuerySide
from ..questions import as_queries, as_targets
from ..trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one side of a kernel.

    Attributes:
        inputs: One tensor for each input of the network, with a row for each point.
        targets: Their targets, with a row for each, or ``None``.
        ids: The id of each point: that of the training sample, or its place.
        labels: A word for each point, or ``None``.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None
    ids: list[int]
    labels: list[str] | None

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, places: Tensor) -> Points:
        """The points at some places."""
        numbers = places.tolist()
        return Points(tuple(x[places] for x in self.inputs), None if self.targets is None else self.targets[places],
                      [self.ids[i] for i in numbers],
                      None if self.labels is None else [self.labels[i] for i in numbers])

    def side(self, trajectory: Trajectory, output: str | int | Callable[..., Tensor] | None) -> QuerySide:
        """The outputs of these points, and their gradients."""
        run = trajectory.run
        inputs, targets = cast((self.inputs, self.targets), trajectory.dtype, trajectory.device)
        final = final_outputs(trajectory, None, inputs)
        functional = output_functional(output, final, targets, run, len(self)).to(trajectory.dtype)
        return QuerySide(run.network, inputs, functional, run.names)


def samples_of(run: Run) -> Points:
    """The training samples that a run holds, those that a step drew.

    Raises:
        DataError: If it holds none.
    """
    columns = run.samples.seen.nonzero().flatten()
    if not len(columns):
        raise DataError("This run holds no training sample, so points are needed. Pass them as x.")
    inputs, targets = run.samples.batch(columns)
    labels = run.labels
    places = columns.tolist()
    return Points(inputs, targets, [run.samples.ids[i] for i in places],
                  None if labels is None else [labels[i] for i in places])


def as_points(run: Run, x: Any, targets: Any = None) -> Points:
    """Points from what was handed in; from ``None`` the training samples.

    Args:
        run: The run.
        x: Inputs, or a pair of inputs and targets.
        targets: Targets, where they come apart.

    Raises:
        DataError: If they do not fit the network, or targets come without inputs.
    """
    if x is None:
        if targets is not None:
            raise DataError("Targets came without points. Pass the points as x, or leave targets out too: the training "
                            "samples have their own.")
        return samples_of(run)
    like = tuple(run.samples.inputs)
    if targets is None and _is_pair(x, len(like)):
        x, targets = x
    inputs = as_queries(x, like)
    given = as_targets(targets, len(inputs[0]))
    return Points(inputs, given, list(range(len(inputs[0]))), None if given is None else words_of(run, given))


def _is_pair(x: Any, count: int) -> bool:
    """Whether these are inputs and targets, and not the inputs of a network that takes two."""
    return isinstance(x, tuple) and len(x) == 2 and (count == 1 or isinstance(x[0], tuple | list))


def words_of(run: Run, targets: Tensor) -> list[str] | None:
    """The names of classes, if targets are their indices."""
    if not run.is_classification or targets.is_floating_point() or targets[:1].numel() != 1:
        return None
    names = run.class_names or []
    return [names[i] if 0 <= i < len(names) else str(i) for i in targets.flatten().to(torch.long).tolist()]
