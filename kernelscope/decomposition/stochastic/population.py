"""The samples that batches are drawn from: all of the training set, as far as the run or the caller has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from ...network import cast
from ...run.run import Run
from ...run.step import Step
from ..questions import as_queries, as_targets

#: What is said where the training set is known in part.
UNSEEN = (
    "{unseen} of the {size} training samples were never drawn, and the run does not hold them: batches are drawn from "
    "the {held} others. Pass data=(inputs, targets) to draw from all."
)


@dataclass(frozen=True, eq=False)
class Population:
    """The n samples that batches are drawn from.

    Attributes:
        inputs: One tensor for each input of the network, with one row for each sample.
        targets: Their targets.
        places: The row of each column of the run, -1 where there is none.
        note: What is to be said of it.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    places: Tensor
    note: str = ""

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, rows: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and targets of some samples, each with the shape of ``rows`` before its own."""
        # Whole rows are selected, which is several times faster than indexing.
        flat = rows.reshape(-1).to(self.targets.device)
        chosen = [t.index_select(0, flat).view(*rows.shape, *t.shape[1:]) for t in (*self.inputs, self.targets)]
        return tuple(chosen[:-1]), chosen[-1]

    def of_step(self, step: Step) -> Tensor:
        """The rows of the samples of a recorded step, those of several passes one after the other."""
        return self.places[torch.cat([batch.columns for batch in step.batches])]


def population_of(run: Run, data: Any, dtype: torch.dtype, device: torch.device) -> Population:
    """The samples that the batches of a run were drawn from.

    Args:
        run: The run.
        data: Its training set, ``(inputs, targets)`` or a data set, where the run did not see all of it.
        dtype: The precision to compute in.
        device: Where to compute.

    Raises:
        DataError: If the data are not those of the run.
    """
    seen = run.samples.seen
    columns = seen.nonzero().flatten()
    inputs, targets = run.samples.batch(columns)
    places = torch.full((run.size,), -1)
    if data is None:
        places[columns] = torch.arange(len(columns))
        note = "" if bool(seen.all()) else UNSEEN.format(unseen=int((~seen).sum()), size=run.size, held=len(columns))
        return Population(cast(inputs, dtype, device), cast(targets, dtype, device), places, note)
    all_inputs, all_targets = _read(data, inputs)
    if len(all_targets) < len(columns) or all_targets.shape[1:] != targets.shape[1:] or any(
            a.shape[1:] != b.shape[1:] for a, b in zip(all_inputs, inputs, strict=True)):
        raise DataError(
            f"data must be the training set of this run: {len(columns)} samples or more, with inputs of shape "
            f"{[tuple(t.shape[1:]) for t in inputs]} and targets of shape {tuple(targets.shape[1:])}; came inputs with "
            f"shapes {[tuple(t.shape) for t in all_inputs]} and targets {tuple(all_targets.shape)}."
        )
    if run.samples.fixed:
        if len(all_targets) != run.size or not _same((*all_inputs, all_targets), (*inputs, targets), columns):
            raise DataError(
                f"data must hold the {run.size} samples of the recorded training set, in their order, and those that "
                "the run saw are others. Pass the data set that the loader read."
            )
        places = torch.arange(run.size)
    return Population(cast(all_inputs, dtype, device), cast(all_targets.to(targets.dtype), dtype, device), places)


def _read(data: Any, like: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    if isinstance(data, tuple | list) and len(data) == 2:
        inputs, given = as_queries(data[0], like), data[1]
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | Tensor):
        inputs, given = as_queries(data, like), torch.stack([torch.as_tensor(data[i][-1]) for i in range(len(data))])
    else:
        raise DataError(f"data must be the training set, (inputs, targets) or a data set; {what_came(data)} came.")
    targets = as_targets(given, len(inputs[0]))
    if targets is None:
        raise DataError("data must hold the targets of the training set too. Pass data=(inputs, targets).")
    return inputs, targets


def _same(given: tuple[Tensor, ...], held: tuple[Tensor, ...], columns: Tensor) -> bool:
    return all(bool(torch.allclose(a[columns].to(b), b, rtol=1e-5, atol=1e-8, equal_nan=True))
               for a, b in zip(given, held, strict=True))
