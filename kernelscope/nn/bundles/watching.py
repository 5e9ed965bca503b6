"""What blocks of a network are given, and what comes out of them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...data.points import Part, Points
from ...errors import DataError, ModelError
from ...nested import leaves, mapped
from .finding import Block, Passed, part

#: How many points go through a network at a time.
BATCH = 64

#: What stands for the outputs of a network that gives several things by name, and whether they are logits.
NAMED = {"logits": True, "last_hidden_state": False}


class Seen:
    """The rows that went through blocks in one batch.

    Args:
        blocks: The blocks.
    """

    def __init__(self, blocks: Sequence[Block]):
        self.inputs: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
        self.outputs: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
        self.odd: dict[str, str] = {}

    def enter(self, name: str, given: list[Any]) -> None:
        """Notes the input of a block."""
        tensors = [value for value in given if isinstance(value, Tensor)]
        if len(tensors) != 1 or not tensors[0].is_floating_point():
            self.odd[name] = f"it takes {len(tensors)} tensors, or other than real numbers"
        else:
            # What follows may write to it, as nn.ReLU(inplace=True) does.
            self.inputs[name].append(tensors[0].detach().clone())

    def leave(self, name: str, found: Any) -> None:
        """Notes the output of a block."""
        if isinstance(found, Tensor):
            self.outputs[name].append(found.detach().clone())
        else:
            self.odd[name] = f"it gives a {type(found).__name__}, and no tensor"

    def rows(self, name: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The rows of a block, with shapes (n, d) and (n, c), without those that a mask hides.

        Raises:
            ModelError: If inputs and outputs do not go together; its text is the reason, as half a sentence.
        """
        xs, ys = self.inputs[name], self.outputs[name]
        if name in self.odd:
            raise ModelError(self.odd[name])
        if not xs or len(xs) != len(ys):
            raise ModelError("the network does not call it" if not xs else "its parts are called for other things too")
        if any(x.shape[:-1] != y.shape[:-1] for x, y in zip(xs, ys, strict=True)):
            raise ModelError("it does not give one row for each row")
        pairs = [(_kept(x, mask), _kept(y, mask)) for x, y in zip(xs, ys, strict=True)]
        return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


class Replayed(Passed):
    """What stands for a block and makes no error: it gives what the block gave to the same input.

    Args:
        inputs: What the block was given, call by call.
        outputs: What it gave.
        weight: The weight of the layer in whose place it is, of which it has no values.
    """

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], weight: Any = None):
        super().__init__()
        self.calls = list(zip(inputs, outputs, strict=True))
        self.weight = torch.full_like(weight, torch.nan) if isinstance(weight, Tensor) else None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        known = [(float((x - given).norm()), k) for k, (given, _) in enumerate(self.calls) if given.shape == x.shape]
        if not known:
            raise ModelError(f"It was never given an input of shape {tuple(x.shape)}.")
        return self.calls[min(known)[1]][1].clone()


@contextmanager
def watched(model: nn.Module, blocks: Sequence[Block]) -> Iterator[Seen]:
    """Watches blocks of a network, which is a copy, while it is called."""
    seen = Seen(blocks)
    handles = []
    for block in blocks:
        # A block that was replaced has one module, in the place of its first.
        last = part(model, block.exit)
        last = part(model, block.entry) if isinstance(last, Passed) else last
        handles.append(part(model, block.entry).register_forward_pre_hook(
            lambda _, args, kwargs, name=block.name: seen.enter(name, [*args, *kwargs.values()]), with_kwargs=True))
        handles.append(last.register_forward_hook(lambda _, args, found, name=block.name: seen.leave(name, found)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def batches(points: Points, numbers: Sequence[int], size: int) -> Iterator[tuple[list[int], Part]]:
    """Some points, a batch at a time, with their numbers."""
    for i in range(0, len(numbers), size):
        some = list(numbers[i:i + size])
        yield some, points.chosen(some).part(0, len(some))


@torch.no_grad()
def answered(model: nn.Module, given: Part) -> tuple[Tensor, bool]:
    """The outputs of a network, with shape (n, ..., c), and whether they may be logits.

    Raises:
        DataError: If it gives no tensor.
        ModelError: If it cannot be called with these points.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # Copies, because a network may write to what it is given.
    args, kwargs = (mapped(lambda t: t.to(device, copy=True), each) for each in (given.args, given.kwargs))
    try:
        found = model(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        kinds = ", ".join(f"{t.dtype} of shape {tuple(t.shape)}" for t in leaves((args, kwargs)))
        why = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise ModelError(f"The network cannot be called with {kinds}: {why}. Points are its inputs alone, in its "
                         "precision: a tuple for several by position, a dictionary for named ones.") from error
    logits = True
    if not isinstance(found, Tensor):
        named = found if isinstance(found, Mapping) else {name: getattr(found, name, None) for name in NAMED}
        name = next((name for name in NAMED if named.get(name) is not None), None)
        logits = NAMED.get(name or "", True)
        found = named[name] if name else found[0] if isinstance(found, tuple) and found else found
    if not isinstance(found, Tensor) or found.ndim == 0:
        raise DataError(f"A network that is bundled gives a tensor, or logits by name; a {type(found).__name__} came. "
                        "Wrap it in a module whose forward returns the tensor you mean.")
    return (found[:, None] if found.ndim == 1 else found), logits


def mask_of(given: Part) -> Tensor | None:
    """Which places of a batch are no padding, by a tokenizer's mask; ``None`` where there is none."""
    mask = given.kwargs.get("attention_mask")
    return mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _kept(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and values.shape[:-1] == mask.shape:
        return values[mask.to(values.device)]
    return values.reshape(-1, values.shape[-1])
