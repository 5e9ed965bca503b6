"""What is known of one update: which samples, at which parameters, under which numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(eq=False)
class MicroBatch:
    r"""One forward pass whose gradient went into a step.

    Attributes:
        columns: Which samples, with shape :math:`(n_b,)`.
        at: The number of the step whose starting parameters the pass saw.
        training: The names of the submodules in train mode.
        random: The random state before the pass, if the pass used it.
        drawn: Inputs and targets kept with the step, if they differ from those kept for the samples.
        norms: For each parameter the norm of the gradient gathered up to and with this pass, if more passes followed.
        autocast: The reduced precision in which the pass ran, by the name of its type.
        along: On a chord, which part of the way to the next kept parameters the pass stands at.
    """

    columns: Tensor
    at: int
    training: tuple[str, ...]
    random: Tensor | None = None
    drawn: tuple[Tensor, ...] | None = None
    norms: Tensor | None = None
    autocast: str | None = None
    along: float = 0.0


@dataclass(eq=False)
class Step:
    r"""One update of the parameters.

    Attributes:
        optimizer: The name of its rule.
        groups: For each parameter group the names of its parameters, and its numbers.
        batches: The forward passes behind it.
        norms: For each recorded parameter the norm of the gradient used, 0 where it had none.
        largest: The largest absolute entry of the gradient used.
        without: The recorded parameters of this optimizer that had no gradient.
        average: If averaged weights were recorded, how much of the old average the update after this step kept.
        owner: Which optimizer made the step, named by the number of the first step it made.
        seen: In a game of two networks, the number of steps that the other one had made before.
    """

    optimizer: str
    groups: list[dict[str, Any]]
    batches: list[MicroBatch]
    norms: Tensor
    largest: float
    without: list[str] = field(default_factory=list)
    average: float | None = None
    owner: int = 0
    seen: int | None = None
