"""Batches of samples: the inputs of a network with what stands beside them, and what is done with them as they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..nested import leaves, mapped
from ..network import Parameters

#: How many samples are observed.
OBSERVED = 3


class Batch(NamedTuple):
    """Some samples: the network's inputs, positional and by name, and what stands beside them, such as targets."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    side: Any = None


def count(batch: Batch) -> int:
    """The number of samples."""
    return len(leaves(tuple(batch))[0])


def pick(batch: Batch, numbers: Tensor) -> Batch:
    """Some samples by their numbers."""
    return Batch(*mapped(lambda t: t[numbers.to(t.device)], tuple(batch)))


def some(batch: Batch) -> Batch:
    """As many samples as are observed; where there are fewer, some come twice."""
    return pick(batch, torch.arange(OBSERVED) % count(batch))


def form(batch: Batch) -> tuple[Any, ...]:
    """What inputs have in common that a network treats alike."""
    of = lambda value: tuple((tuple(t.shape[1:]), t.dtype) for t in leaves(value))
    return of(batch.args), tuple((name, of(value)) for name, value in batch.kwargs.items()), of(batch.side)


def shaken(parameters: Parameters, batch: Batch) -> tuple[Parameters, Batch]:
    """Parameters and inputs with noise of their own size, so that nothing in the network is nought or constant."""
    generator = torch.Generator().manual_seed(0)

    def change(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        size = float(t.square().mean().sqrt()) if t.numel() else 0.0
        return t + (0.5 * size or 0.5) * torch.randn(t.shape, generator=generator).to(t)

    return mapped(change, parameters), Batch(mapped(change, batch.args), mapped(change, batch.kwargs), batch.side)
