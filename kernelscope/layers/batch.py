"""Batches of samples: the inputs of a network with what stands beside them, and what is done with them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..network import Parameters

#: How many samples are observed.
OBSERVED = 3


class Batch(NamedTuple):
    """Some samples: the network's inputs, positional and by name, and what stands beside them, such as targets."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    side: Any = None

def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested values with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: each_tensor(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_tensor(item, change) for item in value)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors within nested values."""
    found: list[Tensor] = []
    each_tensor(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def count(batch: Batch) -> int:
    """The number of samples."""
    return len(tensors_of(tuple(batch))[0])


def pick(batch: Batch, numbers: Tensor) -> Batch:
    """Some samples by their numbers."""
    return Batch(*each_tensor(tuple(batch), lambda t: t[numbers.to(t.device)]))


def some(batch: Batch) -> Batch:
    """As many samples as are observed; where there are fewer, some come twice."""
    return pick(batch, torch.arange(OBSERVED) % count(batch))


def form(batch: Batch) -> tuple[Any, ...]:
    """What inputs have in common that a network treats alike."""
    of = lambda value: tuple((tuple(t.shape[1:]), t.dtype) for t in tensors_of(value))
    return of(batch.args), tuple((name, of(value)) for name, value in batch.kwargs.items()), of(batch.side)


def shaken(parameters: Parameters, batch: Batch) -> tuple[Parameters, Batch]:
    """Parameters and inputs with noise of their own size, so that nothing in the network is nought or constant."""
    generator = torch.Generator().manual_seed(0)

    def change(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        size = float(t.square().mean().sqrt()) if t.numel() else 0.0
        return t + (0.5 * size or 0.5) * torch.randn(t.shape, generator=generator).to(t)

    return each_tensor(parameters, change), Batch(each_tensor(batch.args, change), each_tensor(batch.kwargs, change),
                                                  batch.side)
