r"""Blocks of a network that are a function of one row each: Linear, activation, Linear, and what stands for them.

Blocks are found by the types of modules, not by the name of a model: a run of a ``Sequential``; a module whose children
are two linear layers and an activation (the ``mlp`` of GPT-2 and ViT); ``intermediate`` and ``output.dense`` of BERT
and its kin; PyTorch's own transformer layers; and as a black box the gated ones (``gate_proj``, ``up_proj``,
``down_proj``).
Whether a block is what it looks like is seen on data, see :func:`mistaken`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Activations that act on each number by itself.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU,
               nn.Softplus, nn.Softsign, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.LogSigmoid,
               nn.Tanhshrink, nn.PReLU)

#: What changes nothing when a network is read.
PASSIVE = (nn.Dropout, nn.Identity)

#: Where something lies in memory, which says nothing of what it is.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

#: How far the parts of a block may be from the block, as a share of its values.
CLOSE = 1e-3

#: At how many rows that is seen.
LOOKED_AT = 64


@dataclass(frozen=True)
class Block:
    """A part of a network that is a function of one row.

    Attributes:
        name: What it is called.
        chain: The names of the modules that make it, in the order in which they are called; one alone is a black box.
        first: The name of its first linear layer; ``None`` for a black box.
        activation: The name of its activation; ``None`` for a black box.
        box: The name of the module it is all of, which can be taken as a black box if its parts are something else.
    """

    name: str
    chain: tuple[str, ...]
    first: str | None = None
    activation: str | None = None
    box: str | None = None

    @property
    def entry(self) -> str:
        """The name of the module that takes the block's input."""
        return self.chain[0]

    @property
    def exit(self) -> str:
        """The name of the module that gives the block's output."""
        return self.chain[-1]


class Passed(nn.Identity):
    """What stands where a layer was that is part of another now; code that looks for its weight finds none."""

    weight: Tensor | None = None
    bias: Tensor | None = None


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a network, in the order in which its modules are named.

    Of a longer stack (Linear, activation, Linear, activation, Linear, …) two linear layers at a time are a block, and
    what lies between two blocks stays.

    Args:
        model: The network.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> find_blocks(model)
        [Block(name='0-2', chain=('0', '1', '2'), first='0', activation='1', box=None)]
    """
    found: list[Block] = []
    taken: set[str] = set()
    for path, module in model.named_modules():
        if any(path == name or path.startswith(f"{name}.") for name in taken):
            continue
        for block in _blocks_of(path, module):
            found.append(block)
            taken.update(block.chain)
    return found


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer: that of PyTorch, or the ``Conv1D`` of GPT-2."""
    return isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def weight_of(linear: nn.Module) -> Tensor:
    """The weight of a linear layer, with shape (out, in)."""
    weight: Any = linear.weight
    # That of GPT-2 is kept the other way round.
    return (weight if isinstance(linear, nn.Linear) else weight.T).detach()


def is_activation(module: Any) -> bool:
    """Whether a module is an activation that acts on each number by itself."""
    return isinstance(module, ACTIVATIONS) or type(module).__module__ == "transformers.activations"


def part(model: nn.Module, path: str) -> Any:
    """What a path names: a module, or an activation that is a function."""
    found: Any = model
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return found


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module where a path points to."""
    above, _, name = path.rpartition(".")
    parent = part(model, above)
    setattr(parent, name, module)
    if isinstance(parent, nn.TransformerEncoderLayer):
        # Its fast path would read the weights of layers that are gone.
        parent.activation_relu_or_gelu = 0


def described(model: nn.Module, block: Block) -> str:
    """The modules of a block in words, without their numbers.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> described(model, find_blocks(model)[0])
        'Linear(in_features=2, out_features=8, bias=True), ReLU(), Linear(in_features=8, out_features=1, bias=True)'
    """
    parts = (part(model, name) for name in block.chain)
    words = (repr(each) if isinstance(each, nn.Module) else getattr(each, "__name__", type(each).__name__)
             for each in parts)
    return ADDRESS.sub("", ", ".join(words))


def composed(model: nn.Module, names: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
    """The modules of these names, one after the other."""
    parts = [part(model, name) for name in names]

    def function(x: Tensor) -> Tensor:
        for each in parts:
            x = each(x)
        return x

    return function


def mistaken(model: nn.Module, block: Block, x: Tensor, y: Tensor) -> str | None:
    """Why a block is not a function of one row, or not that of its parts; ``None`` if it is.

    Args:
        model: The network.
        block: The block.
        x: What it was given, with shape (n, d).
        y: What came out, with shape (n, c).
    """
    x, y = x[:LOOKED_AT].flip(0), y[:LOOKED_AT].flip(0)
    try:
        with torch.no_grad():
            # Rows in another order, and without those of other batches: a block that mixes rows is seen.
            again = composed(model, block.chain)(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"it does not take rows ({str(error).splitlines()[0][:80]})"
    if not isinstance(again, Tensor) or again.shape != y.shape:
        return "its parts do not give what it gives"
    gap, size = float((again - y).norm()), float(y.norm())
    return None if gap <= CLOSE * size else "it is not a function of one row that its linear layers and activation make"


def _blocks_of(path: str, module: nn.Module) -> Iterator[Block]:
    children = dict(module.named_children())
    below = f"{path}." if path else ""
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        parts = tuple(f"{below}{name}" for name in ("linear1", "activation", "dropout", "linear2"))
        yield Block(f"{below}linear1-linear2", parts, parts[0], parts[1])
    elif isinstance(module, nn.Sequential):
        yield from _runs(below, module)
    elif "intermediate" in children and "output" in children:
        yield from _halves(below, children["intermediate"], children["output"])
    else:
        yield from _of_children(path, children)


def _runs(below: str, module: nn.Sequential) -> Iterator[Block]:
    """Linear, activation, Linear in a row, with nothing between them but dropout."""
    # Names, since one activation may stand in several places.
    names = list(module._modules)
    start = 0
    while start < len(names):
        stop = _end(module, names, start)
        if stop is None:
            start += 1
            continue
        chain = tuple(f"{below}{name}" for name in names[start:stop + 1])
        activation = next(f"{below}{name}" for name in names[start:stop] if is_activation(module._modules[name]))
        yield Block(f"{chain[0]}-{names[stop]}", chain, chain[0], activation)
        start = stop + 1


def _end(module: nn.Sequential, names: list[str], start: int) -> int | None:
    """Where the second linear layer of a block stands that starts here."""
    if not is_linear(module._modules[names[start]]):
        return None
    active = 0
    for stop in range(start + 1, len(names)):
        here = module._modules[names[stop]]
        if is_linear(here):
            return stop if active == 1 else None
        if not isinstance(here, PASSIVE) and not is_activation(here):
            return None
        active += is_activation(here)
    return None


def _halves(below: str, inner: nn.Module, outer: nn.Module) -> Iterator[Block]:
    """The two halves of BERT's: ``intermediate`` with its activation, and ``output.dense``."""
    first, second = getattr(inner, "dense", None), getattr(outer, "dense", None)
    if is_linear(first) and is_linear(second) and first is not None and second is not None:
        activation = next((name for name in ("intermediate_act_fn", "act_fn", "activation") if hasattr(inner, name)),
                          None)
        if activation is not None and _fit(first, second):
            yield Block(f"{below}intermediate", (f"{below}intermediate", f"{below}output.dense"),
                        f"{below}intermediate.dense", f"{below}intermediate.{activation}")


def _of_children(path: str, children: dict[str, nn.Module]) -> Iterator[Block]:
    """A module of two or three linear layers and nothing else that has parameters."""
    linear = [name for name, child in children.items() if is_linear(child)]
    active = [name for name, child in children.items() if is_activation(child)]
    if len(linear) + len(active) + sum(isinstance(c, PASSIVE) for c in children.values()) < len(children):
        return
    below = f"{path}." if path else ""
    if len(linear) == 2 and _fit(children[linear[0]], children[linear[1]]):
        if len(active) == 1:
            chain = tuple(f"{below}{name}" for name in (linear[0], active[0], linear[1]))
            yield Block(path or f"{linear[0]}-{linear[1]}", chain, chain[0], chain[1], path or None)
        elif path:
            yield Block(path, (path,))
    elif path and len(linear) == 3 and (active or any("gate" in name for name in linear)):
        shapes = [weight_of(children[name]).shape for name in linear]
        if any(shapes[k] == shapes[k - 1] == shapes[k - 2][::-1] for k in range(3)):
            yield Block(path, (path,))


def _fit(first: nn.Module, second: nn.Module) -> bool:
    return weight_of(first).shape[0] == weight_of(second).shape[1]
