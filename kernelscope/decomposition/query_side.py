r"""The query side of a step kernel: outputs of the network at given parameters, and their gradients.

Queries are read in eval mode, where each stands for itself, so their gradients
:math:`\nabla_\theta f_c(x_q;\theta)` come from one vectorised Jacobian; where ``torch.func`` cannot transform the module, from
plain automatic differentiation, one output at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ..errors import DataError, NonFiniteError
from ..network import Network, Parameters
from .output import OutputFunctional
from .training_side import AGREEMENT


class QuerySide:
    """Outputs and gradients of some queries.

    Args:
        network: The network.
        inputs: The queries, each tensor with one row for each.
        functional: What is explained of the outputs.
        names: The parameters to differentiate by.
        way: ``"vectorised"`` or ``"loop"``.
    """

    def __init__(self, network: Network, inputs: tuple[Tensor, ...], functional: OutputFunctional, names: list[str],
                 way: str = "vectorised"):
        self.network = network
        self.inputs = inputs
        self.functional = functional
        self.names = names
        self.way = way
        self.note = ""

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, rows: slice) -> QuerySide:
        """Some of the queries."""
        side = None if self.functional.side is None else self.functional.side[rows]
        functional = OutputFunctional(self.functional.function, side, self.functional.names)
        return QuerySide(self.network, tuple(x[rows] for x in self.inputs), functional, self.names, self.way)

    def outputs(self, parameters: Parameters, buffers: Parameters) -> tuple[Any, Tensor]:
        """The network's outputs, and the explained numbers with shape :math:`(q, c)`."""
        with torch.no_grad():
            raw = self.network(parameters, buffers, self.inputs)
            return raw, self.functional(raw, self.functional.side)

    def gradients(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        """The gradients of all explained numbers, for each parameter with shape :math:`(q c, *)`."""
        return self._vectorised(parameters, buffers) if self.way == "vectorised" else self._loop(parameters, buffers)

    def probe(self, parameters: Parameters, buffers: Parameters) -> None:
        """Takes the loop if the vectorised gradients fail on two queries, or differ there."""
        two = self.part(slice(0, 2))
        truth = two._loop(parameters, buffers)
        try:
            found = two._vectorised(parameters, buffers)
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            self.way, self.note = "loop", f"queries one by one: {str(error).strip().splitlines()[0][:160]}"
            return
        scale = max(float(t.abs().max()) for t in truth) if truth else 0.0
        gap = max(float((a - b).abs().max()) for a, b in zip(truth, found, strict=True)) if truth else 0.0
        if gap > AGREEMENT[self.inputs_dtype(parameters)] * scale:
            self.way, self.note = "loop", "queries one by one: they depend on each other when vectorised"

    def inputs_dtype(self, parameters: Parameters) -> torch.dtype:
        """The precision of the ledger."""
        return next(iter(parameters.values())).dtype

    def _vectorised(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        own = {name: parameters[name] for name in self.names}

        def explained(moving: Parameters, x: tuple[Tensor, ...], side: Tensor | None) -> Tensor:
            raw = self.network({**parameters, **moving}, buffers, tuple(t.unsqueeze(0) for t in x))
            return self.functional(raw, None if side is None else side.unsqueeze(0)).squeeze(0)

        side = self.functional.side
        jacobians = vmap(jacrev(explained), in_dims=(None, 0, None if side is None else 0))(own, self.inputs, side)
        return [jacobians[name].flatten(0, 1) for name in self.names]

    def _loop(self, parameters: Parameters, buffers: Parameters) -> list[Tensor]:
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.names}
        rows: list[tuple[Tensor, ...]] = []
        for q in range(len(self)):
            one = self.part(slice(q, q + 1))
            with torch.enable_grad():
                raw = self.network({**parameters, **leaves}, buffers, one.inputs)
                values = self.functional(raw, one.functional.side)[0].unbind()
            for value in values:
                found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
                rows.append(tuple(torch.zeros_like(p) if g is None else g
                                  for g, p in zip(found, leaves.values(), strict=True)))
        return [torch.stack(column) for column in zip(*rows, strict=True)]


def as_queries(x: Any, like: tuple[Tensor, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Queries as a tuple of tensors of the ledger's precision.

    Raises:
        DataError: If they are no tensors, not finite, or of another shape than the training inputs.
    """
    parts = tuple(x) if isinstance(x, list | tuple) else (x,)
    if not parts or not all(isinstance(t, Tensor) for t in parts):
        raise DataError(
            f"Queries must be a tensor with one row for each, or a tuple of such tensors; a {type(x).__name__} came. "
            "Use torch.as_tensor(x)."
        )
    if like and len(parts) != len(like):
        raise DataError(f"The network takes {len(like)} inputs and {len(parts)} came. Pass x=({', '.join('...' for _ in like)}).")
    for t, known in zip(parts, like, strict=bool(like)):
        if t.ndim != known.ndim:
            hint = " A single query needs a leading axis: x[None]." if t.ndim == known.ndim - 1 else ""
            raise DataError(
                f"Queries must have {known.ndim} axes like the training inputs, (n, {', '.join(map(str, known.shape[1:]))}); "
                f"came {tuple(t.shape)}.{hint}"
            )
        if len(t) != len(parts[0]):
            raise DataError(f"The inputs of the queries have {[len(p) for p in parts]} rows. Give each the same number.")
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            bad = int((~torch.isfinite(t).flatten(1).all(1) if t.ndim > 1 else ~torch.isfinite(t)).nonzero()[0])
            raise NonFiniteError(f"Query {bad} holds NaN or infinite values. Remove it, or fill in the values it lacks.")
    return tuple(t.detach().to(device, dtype) if t.is_floating_point() else t.detach().to(device) for t in parts)
