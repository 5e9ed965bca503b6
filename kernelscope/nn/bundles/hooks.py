"""Hooks of a network are no part of a copy; where they change what it gives, the copy is another network."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...data.points import Points
from ...errors import ModelError
from ...network import PART, hooked_modules
from .watching import BATCH, answered, batches

#: The tables in which a module keeps what is called before and after it.
TABLES = ("_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs",
          "_forward_hooks_always_called")

#: How far answers with and without hooks may be from each other, as a share of the largest.
CLOSE = 1e-6


def check_hooks(model: nn.Module, reader: nn.Module, points: Points) -> None:
    """Refuses a network that gives something else without its hooks, which are called on one batch to see that.

    Args:
        model: The network.
        reader: A copy of it without hooks.
        points: Points for it.

    Raises:
        ModelError: If hooks are a part of what the network computes.
    """
    model = getattr(model, "_orig_mod", model)
    for name, module in model.named_modules():
        if any(getattr(hook, PART, False) for hook in module._forward_hooks.values()):
            raise ModelError(
                f"A hook of {name or 'the module itself'!r} applies an adapter, which a block that is replaced would "
                "lose. Take adapters out first with injected.remove(), and place them in what was bundled."
            )
    found = {name: (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
             for name, module in hooked_modules(model)}
    if not found:
        return
    for name, own in found.items():
        if any(type(hook).__module__.startswith("torch.nn.utils") for hook in own):
            raise ModelError(
                f"A hook of torch.nn.utils makes a weight of {name or 'the module'!r} anew at every call, and hooks "
                "are no part of the copy that is bundled. Use torch.nn.utils.parametrizations instead."
            )
    hooked = copy.deepcopy(reader, {id(t): t for t in (*reader.parameters(), *reader.buffers())})
    places = dict(hooked.named_modules())
    for name in found:
        for table in TABLES:
            # The user's own hooks, which may close over anything, are called and not copied.
            getattr(places[name], table).update(getattr(model.get_submodule(name), table))
    _, given = next(batches(points, range(len(points)), BATCH))
    with_them, without = answered(hooked, given)[0], answered(reader, given)[0]
    close = CLOSE * float(without.nan_to_num().abs().max())
    if with_them.shape != without.shape or not torch.allclose(with_them, without, rtol=0.0, atol=close,
                                                              equal_nan=True):
        raise ModelError(
            f"Hooks on {', '.join(name or 'the module itself' for name in list(found)[:3])} change what the network "
            "gives, and they are no part of the copy that is bundled. Put what they do into forward."
        )
