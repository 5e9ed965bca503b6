"""A network at some parameters, and the numbers that are taken from its outputs and differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..checkpointing import without_checkpoints
from ..network import Network, Parameters, gradients_of
from .batch import Batch, count
from .watching import Habits, Watch

#: From outputs and what stands beside them to the numbers that are differentiated, with shape (n, c).
Values = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Function:
    """From a batch of n samples to c numbers for each of them.

    Attributes:
        network: The network.
        parameters: Its parameters.
        buffers: Its buffers, which are left as they are.
        values: What is taken from its outputs.
        training: The submodules in train mode.
    """

    network: Network
    parameters: Parameters
    buffers: Parameters
    values: Values
    training: tuple[str, ...] = ()

    def __call__(self, batch: Batch, own: Mapping[str, Tensor] | None = None) -> Tensor:
        """The numbers, with shape (n, c); ``own`` stands in for some of the parameters."""
        return self.values(self.outputs(batch, own), batch.side)

    def outputs(self, batch: Batch, own: Mapping[str, Tensor] | None = None) -> Any:
        """The network's outputs as they are."""
        state = {**self.network.parameters, **self.parameters, **(own or {}),
                 **{name: b.clone() for name, b in self.buffers.items()}}
        with without_checkpoints():
            return functional_call(self.network.module(self.training), state, batch.args, batch.kwargs)

    def watched(self, names: list[str], batch: Batch, habits: Habits, graph: bool = True) -> tuple[Watch, Tensor]:
        """The numbers, and what the network does with its parameters on the way; ``graph`` to differentiate them."""
        own = {name: p.detach() for name, p in self.parameters.items()}
        watch = Watch({name: own[name] for name in names}, count(batch), habits)
        with torch.set_grad_enabled(graph):
            with watch:
                outputs = self.outputs(batch, own)
            return watch, self.values(outputs, batch.side)

    def plainly(self, names: list[str], batch: Batch) -> Parameters:
        """The gradients by plain automatic differentiation, one number after the other: (n, c, p) by parameter."""
        shape, each = self.one_by_one(names, batch)
        rows: dict[str, list[Tensor]] = {name: [] for name in names}
        for found in each:
            for name, row in found.items():
                rows[name].append(row)
        return {name: torch.stack(rows.pop(name)).view(*shape, -1) for name in names}

    def one_by_one(self, names: list[str], batch: Batch) -> tuple[torch.Size, Iterator[Parameters]]:
        """The shape (n, c), and the same gradients one number after the other: (p,) by parameter."""
        leaves = {name: self.parameters[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            explained = self(batch, leaves)
            each = explained.flatten().unbind()

        def row(value: Tensor) -> Parameters:
            return {name: torch.zeros_like(p).flatten() if g is None else g.flatten() for (name, p), g in
                    zip(leaves.items(), gradients_of(value, leaves, retain_graph=True), strict=True)}

        return explained.shape, map(row, each)

    def leaves(self, names: list[str]) -> Parameters:
        """Copies of some parameters to differentiate by."""
        return {name: self.parameters[name].detach().clone().requires_grad_() for name in names}

    def probed(self) -> Function:
        """One number for each sample in place of c, to which each of them adds."""
        def probe(outputs: Any, side: Any) -> Tensor:
            explained = self.values(outputs, side)
            c = explained.shape[1]
            weights = 1 + torch.arange(c, dtype=explained.dtype, device=explained.device) / max(c, 1)
            return (explained * weights).sum(1, keepdim=True)

        return replace(self, values=probe)
