r"""Which network is behind a module that only calls another one.

A loop may call its network through a wrapper: compiled, or spread over devices. The wrapper is what is listened to,
for it sees the whole batch and the outputs that are trained; the network within is what a run holds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import RecordingError

#: Modules, by name, of which a process holds a part only; their home is slow to import.
SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def network_behind(model: nn.Module) -> nn.Module:
    """The network that a wrapper calls; any other module itself.

    Example:
        >>> network_behind(nn.DataParallel(nn.Linear(2, 1)))
        Linear(in_features=2, out_features=1, bias=True)
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := model._modules.get("_orig_mod"), nn.Module):
            model = compiled
        else:
            return model


def refuse_parts(model: nn.Module) -> None:
    """Refuses a network of which other processes hold a part, or whose steps they have a part in.

    Raises:
        RecordingError: If it is one.
    """
    sharded = any(kind.__name__ in SHARDED for kind in type(model).__mro__)
    others = model.process_group.size() - 1 if isinstance(model, DistributedDataParallel) else 0
    if not sharded and not others:
        return
    why = ("its parameters are spread over processes" if sharded else
           f"its steps use gradients of samples that {others} other process{'es' if others > 1 else ''} saw")
    raise RecordingError(
        f"The network is wrapped by {type(model).__name__}: {why}, and a recording sees its own process alone. Record "
        "a training that runs in one process; with gradient accumulation it may use batches of the same size."
    )


def untraced(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, which torch's compiler is to call and not to look into; the compiler is not imported for that."""
    return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook
