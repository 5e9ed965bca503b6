"""All training samples at once: what a batch is drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError, ModelError
from ...network import Parameters
from ...run.run import Run
from ...run.samples import split_batch
from ...run.step import MicroBatch, Step
from ..questions import as_queries, as_targets
from ..training_side import TrainingSide

#: What is said where the run did not see all samples.
UNSEEN = (
    "{unseen} of the {size} samples were never drawn, and the run does not hold them: the noise is taken to be that of "
    "drawing from the other {seen}. Pass data=(inputs, targets) with all of them."
)


class Population:
    """The samples that batches are drawn from, and their gradients at the places of a run.

    Args:
        run: The run.
        training: Its training side.
        data: All samples as ``(inputs, targets)``, in the order of their ids; those that the run holds, if ``None``.
        samples: How many of them are looked at in one step; all, if ``None``.
        seed: What they are drawn with.

    Attributes:
        columns: The column of each sample in the run's table, with shape (n,).
        looked_at: The number of samples that are looked at in one step.
        fixed: Whether these are the same at every step.
        note: What a reader should know.
    """

    def __init__(self, run: Run, training: TrainingSide, data: Any = None, samples: int | None = None,
                 seed: int = 0):
        self.run, self.training, self.note = run, training, ""
        self.fixed, self._seed = False, seed
        if data is None:
            self.columns = run.samples.seen.nonzero().flatten()
            inputs, targets = run.samples.batch(self.columns)
            unseen = run.size - len(self.columns)
            if unseen:
                self.note = UNSEEN.format(unseen=unseen, size=run.size, seen=len(self.columns))
        else:
            inputs, targets = _given(data, run)
            self.columns = torch.arange(len(targets))
        self._drawn: tuple[Tensor, ...] = training.to((*inputs, targets))
        size = run.parameter_count * training.dtype.itemsize
        self.looked_at = len(self.columns) if samples is None else min(samples, len(self.columns))
        self._block = max(1, min(self.looked_at, training.memory // (4 * max(size, 1))))

    def __len__(self) -> int:
        return len(self.columns)

    def check(self, step: Step, k: int) -> None:
        """Refuses steps whose samples have no gradients of their own.

        Raises:
            ModelError: If samples of a batch meet each other, or come in forms that change.
        """
        problem = None
        for batch in step.batches:
            if self.run.network.couples(batch.training):
                problem = "batch normalisation in train mode, where a sample's gradient depends on its batch"
            elif batch.random is not None:
                problem = "random numbers in the network's forward, such as dropout's"
            elif batch.drawn is not None:
                problem = "samples that came in changing forms, as under augmentation"
            elif batch.at != k:
                problem = "a gradient that was taken before an earlier step, as of two optimizers"
        if problem:
            raise ModelError(
                f"The expected output is known here for noise that comes from the choice of batches alone, and step "
                f"{k} has {problem}. Ask decompose(run, x) for what this run did, or train without it."
            )

    def pass_at(self, step: Step, k: int, part: Tensor) -> MicroBatch:
        """The forward pass that some samples would make at step k."""
        template = step.batches[0]
        return replace(template, columns=self.columns[part], at=k, random=None, norms=None,
                       drawn=tuple(t[part] for t in self._drawn))

    def chosen(self, k: int, use: int) -> Tensor:
        """The places of the samples that are looked at in step k, others for each use, so that products of two means
        are right on average."""
        if self.looked_at == len(self):
            return torch.arange(len(self))
        place = 0 if self.fixed else k
        generator = torch.Generator().manual_seed((self._seed * 2_000_003 + 2 * place + use) % 2**63)
        return torch.randperm(len(self), generator=generator)[:self.looked_at].sort().values

    def blocks(self, chosen: Tensor) -> Iterator[Tensor]:
        """Stretches of samples whose gradients fit into memory together."""
        return iter(chosen.split(self._block))

    def gradient(self, step: Step, k: int, theta: Parameters, names: list[str], chosen: Tensor) -> Parameters:
        """The mean gradient of some samples."""
        total: Parameters = {}
        for block in self.blocks(chosen):
            weight = len(block) / len(chosen)
            found = self.training.mean_gradient(self.pass_at(step, k, block), k, theta, names)
            for name, g in zip(names, found, strict=True):
                total[name] = weight * g if name not in total else total[name].add_(g, alpha=weight)
        return total


def _given(data: Any, run: Run) -> tuple[tuple[Tensor, ...], Tensor]:
    if not isinstance(data, list | tuple):
        try:
            data = split_batch([torch.stack([torch.as_tensor(item) for item in column])
                                for column in zip(*(data[i] for i in range(len(data))), strict=True)])
        except (TypeError, ValueError, RuntimeError, LookupError) as error:
            raise DataError(
                f"data must hold the training samples as (inputs, targets), or be a data set of such pairs; a "
                f"{type(data).__name__} came ({str(error)[:120]})."
            ) from error
    inputs, given = split_batch(list(data))
    inputs = inputs[0] if len(inputs) == 1 else inputs
    points = as_queries(inputs if not isinstance(inputs, list) else tuple(inputs), tuple(run.samples.inputs))
    targets = as_targets(given, len(points[0]))
    assert targets is not None
    if run.samples.fixed and len(targets) != run.size:
        raise DataError(
            f"data must hold all {run.size} samples that the run was trained on, in the order of their ids; "
            f"{len(targets)} came."
        )
    return points, targets
