"""Activation checkpointing, left out of a function's copy.

``torch.utils.checkpoint`` computes a part of a network a second time while gradients go back. A function of parameters
puts them into the module for its forward pass alone, so the second time the part would read others. Called directly the
part gives the same numbers, with the same random ones, and can be transformed by ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint


class _Direct:
    """Stands in for the function of ``use_reentrant=True``, which keeps only inputs and calls again."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _unwatched(*_: Any, **__: Any) -> Iterator[None]:
    """Stands in for what ``use_reentrant=False`` does around a call: to forget what it saved."""
    yield


#: Every way of torch to checkpoint comes by one of these, under whatever name a module has imported it.
STAND_INS = {"CheckpointFunction": _Direct, "_checkpoint_without_reentrant_generator": _unwatched}


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Within it a checkpointed part of a network is called like any other.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> with without_checkpoints():
        ...     y = checkpoint.checkpoint(torch.sin, x, use_reentrant=False)
        >>> type(y.grad_fn).__name__
        'SinBackward0'
    """
    held = {name: getattr(checkpoint, name) for name in STAND_INS if hasattr(checkpoint, name)}
    try:
        for name in held:
            setattr(checkpoint, name, STAND_INS[name])
        yield
    finally:
        for name, function in held.items():
            setattr(checkpoint, name, function)
