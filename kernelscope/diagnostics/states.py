r"""A run at some of its times: the parameters there, and the gradients of the network at them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_count, as_place, as_whole
from ..errors import DataError
from ..features.gradient import GradientFeatures
from ..network import Parameters
from ..run.run import Run

#: How many times are looked at unless more are asked for.
USUAL = 30


def times_of(run: Run, times: Any = None) -> list[int]:
    """The numbers of the steps of a run at whose start it is looked at, ascending; ``len(run)`` is its end.

    Args:
        run: The run.
        times: How many, evenly from the start to the end; or the numbers themselves; 30 if not given, or as many as
            there are.

    Raises:
        DataError: If the run has no such times.
    """
    if not len(run):
        raise DataError("This run has no steps, so it has no course. Record training, or take a longer slice.")
    if times is None or as_whole(times) is not None:
        count = min(USUAL if times is None else as_count(times, "times", least=2), len(run) + 1)
        return sorted({round(i * len(run) / (count - 1)) for i in range(count)})
    try:
        given = [as_place(k, "times", len(run) + 1, "parameter vectors of the run") for k in times]
    except TypeError as error:
        raise DataError(f"times must be a number of times or a list of steps; {times!r} came. Pass times=30."
                        ) from error
    if len(set(given)) < 2:
        raise DataError("A course needs two times at least. Pass times=30, or a list of steps such as [0, 10, 100].")
    return sorted(set(given))


def gradients_of(run: Run, names: list[str] | None = None, **options: Any) -> GradientFeatures:
    """The gradients by the parameters that the run trained, or by some of them; :meth:`GradientFeatures.at` moves them.

    Args:
        run: The run.
        names: The parameters; without it all that the run trained.
        options: Those of :class:`GradientFeatures`.
    """
    return GradientFeatures(run.network.module(()), parameters=list(run.names) if names is None else names, **options)


def state(run: Run, k: int, parameters: Parameters) -> dict[str, Tensor]:
    """The whole state of the module at some parameters, with the buffers of step k, of the recording's start if -1."""
    return run.network.parameters | parameters | run.buffers(k)


def states(run: Run, times: list[int]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The state of the module at each of some times of a run, one after the other.

    At the time 0 of a recording buffers are those with which it began: the first forward pass has updated those that
    its first step saw.
    """
    for k in times:
        at = run.start + k
        yield k, state(run, at or -1, run.named(run.trajectory(at, at)[0]))


def clock(run: Run, times: list[int]) -> Tensor:
    r"""The time of the run, :math:`\sum_{j<k}\eta_j`, at each of some steps, with shape (t,).

    A step of a rule that has no learning rate counts 1.
    """
    each = [max((float(g["lr"]) for g in run.step(j).groups if isinstance(g.get("lr"), int | float)), default=1.0)
            for j in range(run.start, run.stop)]
    return torch.tensor([0.0, *each], dtype=torch.float64).cumsum(0)[torch.tensor(times)]
