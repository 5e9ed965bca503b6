"""The forward passes that samples would make at the places of a run: all of them, or some that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import ModelError
from ...network import Parameters, per_sample_losses
from ...run.run import Run
from ...run.step import MicroBatch, Step
from ..training_side import TrainingSide
from ..trajectory import Trajectory
from .population import Population

#: Recorded batches on which a loss is looked at.
BATCHES = 16


class Passes:
    """Gradients of the samples that batches are drawn from, at the places of a run.

    Args:
        run: The run.
        training: Its training side.
        population: The samples.
        samples: How many of them are looked at in one step; all, if ``None``.
        seed: What these are drawn with.
        fixed: Whether they are the same at every step.

    Attributes:
        columns: Where each sample stands among those of the answer, with shape (n,).
        looked_at: The number of samples that are looked at in one step.
    """

    def __init__(self, run: Run, training: TrainingSide, population: Population, samples: int | None = None,
                 seed: int = 0, fixed: bool = False):
        self.run, self.training, self.population = run, training, population
        own = (population.places >= 0).nonzero().flatten()
        self.columns = own if len(own) == len(population) else torch.arange(len(population))
        self.looked_at = len(population) if samples is None else min(samples, len(population))
        self._fixed, self._seed = fixed, seed
        size = run.parameter_count * training.dtype.itemsize
        self._block = max(1, min(self.looked_at, training.memory // (4 * max(size, 1))))

    def __len__(self) -> int:
        return len(self.population)

    def chosen(self, k: int, use: int) -> Tensor:
        """The places of the samples that are looked at in step k.

        They are others for each use, so that products of two means are right on average.
        """
        if self.looked_at == len(self):
            return torch.arange(len(self))
        place = 0 if self._fixed else k
        generator = torch.Generator().manual_seed((self._seed * 2_000_003 + 2 * place + use) % 2**63)
        return torch.randperm(len(self), generator=generator)[:self.looked_at].sort().values

    def blocks(self, chosen: Tensor) -> Iterator[Tensor]:
        """Stretches of samples whose gradients fit into memory together."""
        return iter(chosen.split(self._block))

    def at(self, step: Step, k: int, chosen: Tensor) -> MicroBatch:
        """The forward pass that some samples would make at step k."""
        inputs, targets = self.population.rows(chosen)
        return replace(step.batches[0], columns=chosen, at=k, random=None, norms=None, drawn=(*inputs, targets))

    def gradient(self, step: Step, k: int, theta: Parameters, names: list[str], chosen: Tensor) -> Parameters:
        """The mean gradient of some samples."""
        total: Parameters = {}
        for block in self.blocks(chosen):
            weight = len(block) / len(chosen)
            found = self.training.mean_gradient(self.at(step, k, block), k, theta, names)
            for name, g in zip(names, found, strict=True):
                total[name] = weight * g if name not in total else total[name].add_(g, alpha=weight)
        return total

    def squares(self, step: Step, k: int, theta: Parameters, names: list[str], mean: Parameters,
                own: float) -> Parameters:
        """The mean square of each entry of a batch's gradient, from v and the mean gradient."""
        chosen, total = self.chosen(k, 0), {name: torch.zeros_like(theta[name]) for name in names}
        for block in self.blocks(chosen) if own else ():
            rows = self.training.rows(self.at(step, k, block), k, theta, names)
            for name in names:
                total[name] += (rows[name] - mean[name]).square().sum(0)
        share = own / len(chosen)
        return {name: mean[name].square() + share * total[name] for name in names}


def check_mean(run: Run, population: Population, trajectory: Trajectory) -> None:
    """Refuses a loss whose mean over a batch weighs a sample by the samples beside it.

    Raises:
        ModelError: If it does, as one with class weights or targets that are ignored.
    """
    own = [population.of_step(run.step(k)) for k in range(run.start, run.stop)]
    own = [rows for rows in own if len(rows) and bool((rows >= 0).all())][:BATCHES]
    theta, buffers = trajectory.at(run.start), trajectory.buffers(run.start)
    factors = []
    for k, rows in zip(range(run.start, run.stop), own, strict=False):
        inputs, targets = population.rows(rows)
        outputs = run.network(theta, buffers, inputs, run.step(k).batches[0].training)
        plain = per_sample_losses(run.loss, outputs, targets, len(targets)).mean()
        if float(plain):
            factor = float(run.loss.mean(outputs, targets) / plain)
            # A loss may be summed too.
            factors.append((factor, factor / len(rows)))
    if factors and all(max(row) - min(row) > 1e-4 * max(map(abs, row)) for row in zip(*factors, strict=True)):
        raise ModelError(
            "The loss divides the sum over a batch by a number that depends on its samples (class weights, targets "
            "that are ignored), so a sample's part hangs on those beside it and the expected output is not known. "
            'Train with (weight[targets] * loss(outputs, targets, reduction="none")).mean().'
        )


def check_noise(run: Run, step: Step, k: int) -> None:
    """Refuses steps whose noise comes from more than the choice of a batch.

    Raises:
        ModelError: If samples of a batch meet each other, draw random numbers, or come in forms that change.
    """
    problem = None
    for batch in step.batches:
        if run.network.couples(batch.training):
            problem = "batch normalisation in train mode, where a sample's gradient depends on its batch"
        elif batch.random is not None:
            problem = "random numbers in the network's forward, such as dropout's"
        elif batch.drawn is not None:
            problem = "samples that came in changing forms, as under augmentation"
        elif batch.autocast:
            problem = "a pass in reduced precision"
        elif batch.at != k:
            problem = "a gradient that was taken before an earlier step, as of two optimizers"
    if problem:
        raise ModelError(
            f"The expected output is known here for noise that comes from the choice of batches alone, and step "
            f"{k} has {problem}. Ask decompose(run, x) for what this run did, or train without it."
        )
