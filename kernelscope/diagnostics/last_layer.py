"""The last layer of a network, and what goes into it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..checkpointing import without_checkpoints
from ..network import Network, Parameters

#: How many samples go through a network at a time.
BATCH = 1024


class LastLayer:
    """A network, and the module with parameters of its own that it calls last.

    Args:
        network: The network.
        parameters: Where they are.
        buffers: Its buffers.
        inputs: Some inputs, by which the layer is found.

    Attributes:
        name: The name of that module; ``None`` if no such module is called.
    """

    def __init__(self, network: Network, parameters: Parameters, buffers: Parameters, inputs: tuple[Tensor, ...]):
        self._module = copy.deepcopy(network.module(()))
        self._parameters, self._buffers = network.parameters | parameters, buffers
        self._seen: list[tuple[str, Any]] = []
        own = {name.rpartition(".")[0] for name in self._parameters}
        for name, module in self._module.named_modules():
            if name in own:
                module.register_forward_pre_hook(lambda _, args, name=name: self._seen.append((name, args)))
        self._forward(tuple(t[:1] for t in inputs))
        self.name: str | None = self._seen[-1][0] if self._seen else None

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[list[Any], Tensor | None]:
        """The outputs, batch by batch, and what goes into the last layer as rows of numbers, with shape (n, d).

        The latter is ``None`` where that is no tensor with a row for each sample.
        """
        outputs, rows = [], []
        for start in range(0, len(inputs[0]), BATCH):
            part = tuple(t[start:start + BATCH] for t in inputs)
            outputs.append(self._forward(part))
            args = next((args for name, args in reversed(self._seen) if name == self.name), ())
            if args and isinstance(args[0], Tensor) and args[0].ndim and len(args[0]) == len(part[0]):
                rows.append(args[0].flatten(1).double().cpu())
        return outputs, torch.cat(rows) if rows and len(rows) == len(outputs) else None

    def _forward(self, inputs: tuple[Tensor, ...]) -> Any:
        self._seen.clear()
        state = self._parameters | {name: b.clone() for name, b in self._buffers.items()}
        with without_checkpoints():
            return functional_call(self._module, state, inputs)
