"""Jacobian products of a function by its parameters, forward and backward, that never hold a gradient of a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp

from ..network import Parameters, apart, flatten, unflatten
from .batch import Batch, some
from .function import Function

#: How closely forward and backward products must agree, relative to the sum of absolute terms.
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-4}


def pull(function: Function, names: list[str], batch: Batch, weights: Tensor, total: Tensor) -> None:
    """Adds to ``total``, with shape (p, r), the gradients weighted by ``weights``, with shape (n, c, r)."""
    leaves = {name: function.parameters[name].detach().requires_grad_() for name in names}
    with torch.enable_grad():
        explained = function(batch, leaves)
        for k in range(weights.shape[2]):
            if not explained.requires_grad:
                return
            found = torch.autograd.grad(explained, list(leaves.values()), weights[..., k],
                                        retain_graph=k + 1 < weights.shape[2], allow_unused=True)
            total[:, k] += flatten([torch.zeros_like(p) if g is None else g
                                    for g, p in zip(found, leaves.values(), strict=True)])


def push(function: Function, names: list[str], batch: Batch, directions: Tensor, way: str) -> Tensor:
    """The gradients times each of r directions, with shape (r, p): shape (n, c, r).

    Args:
        function: What is differentiated.
        names: The parameters.
        batch: The samples.
        directions: The directions.
        way: ``"forward"``, the forward derivative, or ``"twice"``, the derivative of a backward pass.
    """
    own = apart(function.parameters, names)
    shapes = [p.shape for p in own.values()]
    found = []
    for direction in directions:
        tangents = dict(zip(names, unflatten(direction, shapes), strict=True))
        if way == "forward":
            found.append(jvp(lambda moving: function(batch, moving), (own,), (tangents,))[1])
        else:
            found.append(_pushed_twice(function, batch, tangents))
    return torch.stack(found, 2).detach()


def way_to_push(function: Function, names: list[str], batch: Batch) -> str | None:
    """The first way whose products are those of the backward pass; ``None`` if there is none.

    A forward derivative goes through what a network computes under ``torch.no_grad`` and past its gradient hooks, and
    some operations have none.
    """
    few = some(batch)
    generator = torch.Generator().manual_seed(0)
    size = sum(function.parameters[name].numel() for name in names)
    like = next(iter(function.parameters.values()))
    u = torch.randn(1, size, generator=generator).to(like)
    with torch.no_grad():
        explained = function(few)
    v = torch.randn(*explained.shape, 1, generator=generator).to(explained)
    total = torch.zeros(size, 1, dtype=explained.dtype, device=explained.device)
    pull(function, names, few, v, total)
    limit = AGREEMENT.get(explained.dtype, AGREEMENT[torch.float32])
    for way in ("forward", "twice"):
        try:
            pushed = push(function, names, few, u, way)
        # An operation without this derivative.
        except (RuntimeError, NotImplementedError):
            continue
        gap = float(((pushed * v).sum() - (total.T * u).sum()).abs())
        if gap <= limit * float((pushed.abs() * v.abs()).sum() + (total.T * u).abs().sum()):
            return way
    return None


def _pushed_twice(function: Function, batch: Batch, tangents: Parameters) -> Tensor:
    leaves = {name: function.parameters[name].detach().requires_grad_() for name in tangents}
    with torch.enable_grad():
        explained = function(batch, leaves)
        weights = torch.zeros_like(explained, requires_grad=True)
        found = torch.autograd.grad(explained, list(leaves.values()), weights, create_graph=True, allow_unused=True)
        pairs = [(g * tangents[name]).sum() for name, g in zip(leaves, found, strict=True) if g is not None]
        return torch.autograd.grad(torch.stack(pairs).sum(), weights)[0] if pairs else torch.zeros_like(explained)
