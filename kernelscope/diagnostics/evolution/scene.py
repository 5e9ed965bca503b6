r"""What is looked at: training samples and other points, what the network says of them, and the kernel among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...budget import as_words
from ...decomposition.exact import final_outputs
from ...decomposition.stochastic.points import Points
from ...decomposition.targets import fitted_targets
from ...decomposition.trajectory import Trajectory
from ...errors import DataError, OutOfBudget
from ...features.explained import Explained
from ...features.gradient import GradientFeatures
from ...nested import mapped
from ...network import cast, per_sample_losses
from ...run.run import Run
from ..states import gradients_of, states
from ..task import Task
from .silent import slope_of

#: How many points the network is asked about at once.
BATCH = 1024

#: How many matrices of the size of the kernel are held at once, and the share of the memory for products of gradients.
HELD, PRODUCTS = 8, 0.6

State = dict[str, Tensor]


def check_room(n: int, m: int, dtype: torch.dtype, memory: int) -> None:
    """Whether kernels of n samples and m points fit.

    Raises:
        OutOfBudget: If they do not.
    """
    needed = dtype.itemsize * ((n + m) ** 2 + HELD * n**2)
    if needed > memory:
        fewer = max(2, int((memory / dtype.itemsize / (HELD + 4)) ** 0.5))
        raise OutOfBudget(
            f"Kernels of {n:,} samples and {m:,} points take {as_words(needed)} at a time, and memory allows "
            f"{as_words(memory)}. Pass samples={fewer:,} and as few points, or raise memory.")


@dataclass(frozen=True, eq=False)
class Look:
    """The network at a time.

    Attributes:
        outputs: Of the samples and then of the points, with shape (n + m, c), float64 on the CPU.
        losses: The loss of each whose target is known, float64 on the CPU.
    """

    outputs: Tensor
    losses: Tensor


@dataclass(frozen=True, eq=False)
class Scene:
    """Training samples and points of a run.

    Attributes:
        run: The run.
        steps: The times, as steps.
        n: The number of samples; the points come after them.
        inputs: The inputs of all.
        targets: Their targets in the form of training, of the samples and, if they are known, of the points.
        features: Whose products are the kernel.
        task: What targets ask for.
        slope: The s of a squared loss, ``None`` of another.
        first: The network at the first time.
        last: The network at the last time.
        end: The state then.
        memory: How many bytes may be used.
    """

    run: Run
    steps: list[int]
    n: int
    inputs: tuple[Tensor, ...]
    targets: Tensor
    features: GradientFeatures
    task: Task
    slope: float | None
    first: Look
    last: Look
    end: State
    memory: int

    @classmethod
    def of(cls, run: Run, samples: Points, points: Points | None, output: int | Callable[..., Tensor] | None,
           steps: list[int], dtype: torch.dtype, device: torch.device, memory: int) -> Scene:
        """Reads the targets, and asks the network at both ends.

        Raises:
            DataError: If the network cannot take the points, or the loss their targets.
        """
        features = gradients_of(run, output=output, dtype=dtype, device=device, memory=max(int(PRODUCTS * memory), 1))
        (_, start), (_, end) = states(run, [steps[0], steps[-1]])
        targets = samples.targets
        assert targets is not None
        if points is not None:
            raw = final_outputs(Trajectory(run, dtype, device), None, cast(points.inputs, dtype, device))
            if points.targets is not None:
                _check_widths(targets, points.targets)
                fitted = fitted_targets(cast(points.targets, dtype, device), raw, run)
                targets = torch.cat([targets, fitted.to(targets)])
        inputs = samples.inputs if points is None else tuple(
            torch.cat([a, b.to(a)]) for a, b in zip(samples.inputs, points.inputs, strict=True))
        ends = [look_at(run, at, inputs, targets, dtype, device) for at in (start, end)]
        n = len(samples)
        rows = ends[1].outputs[:n]
        known = cast(targets[:n], torch.float64, torch.device("cpu"))
        shape = known.shape[1:] if known.shape[1:].numel() == rows.shape[1] else rows.shape[1:]
        slope = slope_of(run.loss, rows, known, lambda f: f.reshape(len(f), *shape))
        return cls(run, steps, n, inputs, targets, features, Task.of(run, targets[:n], rows, slope is not None), slope,
                   ends[0], ends[1], end, memory)

    @property
    def columns(self) -> Tensor:
        """The targets of the samples as columns."""
        return self.task.columns(self.targets[:self.n])

    @property
    def truth(self) -> Tensor | None:
        """The targets of the points as columns, if they are known."""
        return self.task.columns(self.targets[self.n:]) if len(self.targets) > self.n else None

    def kernel(self, at: State) -> Tensor:
        """The empirical NTK among samples and points, with shape (n + m, n + m)."""
        return self.features.at(at).inner(self.inputs)

    def look(self, at: State) -> Look:
        """The network at a state."""
        return look_at(self.run, at, self.inputs, self.targets, self.features.dtype, self.features.device)


def _check_widths(known: Tensor, given: Tensor) -> None:
    if known[:1].numel() != given[:1].numel():
        raise DataError(
            f"The targets of points hold as many numbers each as those in training, {known[:1].numel()}; shape "
            f"{tuple(given.shape)} came. Give them in the same form.")


def _raw(run: Run, at: State, inputs: tuple[Tensor, ...], dtype: torch.dtype, device: torch.device) -> Any:
    placed, names = cast(at, dtype, device), run.network.parameters
    return run.network({name: placed[name] for name in names},
                       {name: t for name, t in placed.items() if name not in names}, cast(inputs, dtype, device))


def look_at(run: Run, at: State, inputs: tuple[Tensor, ...], targets: Tensor, dtype: torch.dtype,
            device: torch.device) -> Look:
    """The network at a state, on points of which the first have targets."""
    rows, losses = [], []
    for i in range(0, len(inputs[0]), BATCH):
        raw = _raw(run, at, tuple(x[i:i + BATCH] for x in inputs), dtype, device)
        rows.append(Explained()(raw, None).double().cpu())
        known = cast(targets[i:i + BATCH], dtype, device)
        if len(known):
            count = len(known)
            part = raw if count == len(rows[-1]) else _upto(raw, count)
            losses.append(per_sample_losses(run.loss, part, known, count).double().cpu())
    return Look(torch.cat(rows), torch.cat(losses) if losses else torch.zeros(0, dtype=torch.float64))


def _upto(raw: Any, count: int) -> Any:
    return mapped(lambda t: t[:count], raw)
