r"""Queries that a network answers through many evaluations, and gradients through each stage of them alone.

A sampler asks its network again and again. With a copy of the parameters for each of its N stages,

.. math:: \nabla_\theta X = \sum_j \nabla_{\theta^{(j)}} X, \qquad
          \nabla_{\theta^{(j)}} X = \sum_{e \in j} \frac{\partial X}{\partial o_e}\, \nabla_\theta o_e,

where :math:`o_e` is what the network gives at evaluation e. One backward pass through the sampler, with the parameters
held, gives all :math:`\partial X / \partial o_e`; the gradients that they meet are those of plain queries.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..network import Network, Parameters
from .output import OutputFunctional
from .query_side import QuerySide

__all__ = ["Rollout", "RolloutSide"]

#: Asks the network, a function of inputs, through all stages: to the end, with shape (n, d), and the stage of each
#: evaluation in the order in which they were asked.
Rollout = Callable[[Callable[..., Tensor], tuple[Tensor, ...]], tuple[Tensor, list[int]]]


class RolloutSide(QuerySide):
    r"""Ends of rollouts along one direction each, and their gradients through single stages.

    A row has one output for each stage. As Gonzalez's correction is that of the N copies, :math:`(\Delta, \dots,
    \Delta)` over :math:`N |\Delta|^2`, all stages get the same part of what a quadrature misses; the value of a row is
    therefore booked in equal parts too, and only the sum over stages is a number of the rollout.

    Args:
        network: The network.
        inputs: The queries at which rollouts begin.
        functional: Its side is the direction of each query, with shape (n, d).
        names: The parameters to differentiate by.
        rollout: Asks the network through all stages.
        stages: The number of stages.
    """

    def __init__(self, network: Network, inputs: tuple[Tensor, ...], functional: OutputFunctional, names: list[str],
                 rollout: Rollout, stages: int):
        words = [f"stage {j}" for j in range(stages)]
        super().__init__(network, inputs, replace(functional, names=words), names)
        self.rollout, self.stages = rollout, stages
        self.seconds = 0.0
        along = OutputFunctional(lambda o, side: (o.flatten(1) * side).sum(1, keepdim=True), None, ["along"])
        self._asked = QuerySide(network, inputs, along, names)

    def part(self, rows: slice) -> RolloutSide:
        """Some of the queries."""
        part = copy.copy(self)
        side = self.functional.side
        part.functional = replace(self.functional, side=None if side is None else side[rows])
        part.inputs = tuple(x[rows] for x in self.inputs)
        return part

    def outputs(self, parameters: Parameters, buffers: Parameters) -> tuple[Any, Tensor]:
        """Nothing to keep of the network's outputs, and the ends along the directions, in equal parts for stages."""
        with torch.no_grad():
            ends, _ = self.rollout(lambda *x: self.network(parameters, buffers, x), self.inputs)
            whole = self._along(ends)[:, None]
        return None, (whole / self.stages).expand(-1, self.stages).contiguous()

    def gradients(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        """The gradients through each stage alone, for each parameter with shape (n N, *)."""
        asked, stages = self._evaluations(parameters, buffers)
        rows = asked.gradients(parameters, buffers)
        if len(stages) == self.stages:
            # One evaluation a stage, in order: rows stand as they should.
            return rows
        n, at = len(self), torch.tensor(stages, device=rows[0].device)
        found = []
        for part in rows:
            shape = part.shape[1:]
            summed = part.new_zeros(n, self.stages, *shape)
            found.append(summed.index_add_(1, at, part.view(n, len(stages), *shape)).flatten(0, 1))
        return found

    def spread(self, missed: Tensor) -> Tensor:
        """What each row is corrected by: the mean over its stages."""
        rows = missed.view(-1, self.stages)
        return rows.mean(1, keepdim=True).expand_as(rows).reshape(-1)

    def probe(self, parameters: Parameters, buffers: Parameters) -> None:
        """Finds the way that gradients of single evaluations are computed, and how long all of them take."""
        asked, _ = self._evaluations(parameters, buffers)
        asked.probe(parameters, buffers)
        self._asked, self.way, self.note = asked, asked.way, asked.note
        begun = time.perf_counter()
        # At most a few queries are timed, as all of them may not fit at once.
        few = self.part(slice(0, min(2, len(self))))
        few.gradients(parameters, buffers)
        self.seconds = (time.perf_counter() - begun) * len(self) / len(few)

    def _along(self, ends: Tensor) -> Tensor:
        """The ends along their directions, with shape (n,)."""
        assert self.functional.side is not None
        return (ends.flatten(1) * self.functional.side).sum(1)

    def _evaluations(self, parameters: Parameters, buffers: Parameters) -> tuple[QuerySide, list[int]]:
        """All evaluations as queries, row after row, each with what the end changes by its output; their stages."""
        held = {name: p.detach() for name, p in parameters.items()}
        inputs: list[tuple[Tensor, ...]] = []
        given: list[Tensor] = []

        def network(*x: Tensor) -> Tensor:
            o = self.network(held, buffers, x)
            if not o.requires_grad:
                o = o.detach().requires_grad_()
            inputs.append(tuple(t.detach() for t in x))
            given.append(o)
            return o

        with torch.enable_grad():
            ends, stages = self.rollout(network, self.inputs)
            slopes = torch.autograd.grad(self._along(ends).sum(), given)
        asked = copy.copy(self._asked)
        asked.inputs = tuple(torch.stack(part, 1).flatten(0, 1) for part in zip(*inputs, strict=True))
        asked.functional = replace(asked.functional, side=torch.stack(slopes, 1).flatten(0, 1).flatten(1))
        return asked, stages
