"""The reduced precision in which a forward pass ran: what ``torch.autocast`` had been told, by the name of the type."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: The types that torch.autocast may be told to use.
REDUCED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def current(device: torch.device) -> str | None:
    """The precision that holds at this moment, or ``None`` if it is not reduced."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")


def of(model: nn.Module) -> str | None:
    """The reduced precision that is built into a network's forward, as by ``accelerate``; ``None`` if there is none."""
    if "_original_forward" not in model.__dict__ or "forward" not in model.__dict__:
        return None
    state = getattr(sys.modules.get("accelerate.state"), "AcceleratorState", None)
    word = getattr(state() if state is not None and state._shared_state else None, "mixed_precision", "no")
    return {"bf16": "bfloat16", "fp16": "float16"}.get(word)


@contextmanager
def reduced(name: str | None, device: torch.device) -> Iterator[None]:
    """Within it passes run in this precision; with ``None`` as they are.

    Example:
        >>> device, x = torch.device("cpu"), torch.ones(1, 2)
        >>> with reduced("bfloat16", device):
        ...     print((x @ x.T).dtype, current(device))
        torch.bfloat16 bfloat16
    """
    if name is None:
        yield
        return
    try:
        with torch.autocast(device.type, dtype=REDUCED[name]):
            yield
    finally:
        # Parameters are cast once within a context; a step changes them, and the context around may go on.
        torch.clear_autocast_cache()
