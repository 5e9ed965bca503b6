"""Queries that are read together: sums of an output over pools of them, each with one gradient.

A mean over many queries is one linear functional of the network. Its split needs one row of gradients, and not one for
each query.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ..network import MISFITS, Network, Parameters, gradients_of
from .output import OutputFunctional
from .query_side import QuerySide
from .training_side import AGREEMENT

__all__ = ["PooledSide"]


class PooledSide(QuerySide):
    """Sums over pools of queries, and their gradients.

    Args:
        network: The network.
        inputs: The queries, pool after pool, all of one size.
        functional: What is summed.
        names: The parameters to differentiate by.
        pools: The number of pools.
    """

    def __init__(self, network: Network, inputs: tuple[Tensor, ...], functional: OutputFunctional, names: list[str],
                 pools: int):
        super().__init__(network, inputs, functional, names)
        self.pools, self.way = pools, "vectorised"

    def __len__(self) -> int:
        return self.pools

    def part(self, rows: slice) -> PooledSide:
        """Some of the pools."""
        size = super().__len__() // max(self.pools, 1)
        some = slice(rows.start * size, rows.stop * size)
        part = copy.copy(self)
        part.functional = replace(self.functional, side=None if self.functional.side is None else
                                  self.functional.side[some])
        part.inputs, part.pools = tuple(x[some] for x in self.inputs), len(range(self.pools)[rows])
        return part

    def outputs(self, parameters: Parameters, buffers: Parameters) -> tuple[Any, Tensor]:
        """Nothing to keep of the network's outputs, and the sums with shape (pools, c)."""
        with torch.no_grad():
            raw = self.network(parameters, buffers, self.inputs)
            return None, self.functional(raw, self.functional.side).unflatten(0, (self.pools, -1)).sum(1)

    def probe(self, parameters: Parameters, buffers: Parameters) -> None:
        """Takes transformed gradients where they are those of plain automatic differentiation."""
        two = self.part(slice(0, min(2, self.pools)))
        truth = two._loop(parameters, buffers)
        try:
            found = two._vectorised(parameters, buffers)
        except MISFITS as error:
            self.way, self.note = "loop", f"queries not vectorised: {str(error).strip().splitlines()[0][:160]}"
            return
        scale = max(float(t.abs().max()) for t in truth)
        gap = max(float((a - b).abs().max()) for a, b in zip(truth, found, strict=True))
        self.way = "vectorised" if gap <= AGREEMENT[truth[0].dtype] * scale else "loop"

    def _vectorised(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        own = {name: parameters[name] for name in self.names}

        def explained(moving: Parameters, x: tuple[Tensor, ...], side: Tensor | None) -> Tensor:
            return self.functional(self.network({**parameters, **moving}, buffers, x), side).sum(0)

        side = self.functional.side
        pooled = [t.unflatten(0, (self.pools, -1)) for t in self.inputs]
        beside = None if side is None else side.unflatten(0, (self.pools, -1))
        rows = vmap(jacrev(explained), in_dims=(None, 0, None if side is None else 0))(own, tuple(pooled), beside)
        return [rows[name].flatten(0, 1) for name in self.names]

    def _loop(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}
        rows: list[list[Tensor]] = []
        for q in range(self.pools):
            one = self.part(slice(q, q + 1))
            with torch.enable_grad():
                raw = self.network({**parameters, **leaves}, buffers, one.inputs)
                values = one.functional(raw, one.functional.side).sum(0).unbind()
            for value in values:
                found = gradients_of(value, leaves, retain_graph=True)
                rows.append([torch.zeros_like(p) if g is None else g
                             for g, p in zip(found, leaves.values(), strict=True)])
        return [torch.stack(column) for column in zip(*rows, strict=True)]
