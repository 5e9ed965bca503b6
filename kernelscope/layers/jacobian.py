"""Jacobian products of a function by its parameters, forward and backward, that never hold a gradient of a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp

from ..network import Parameters, flatten, unflatten
from .batch import Batch
from .function import Function


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


def push(function: Function, names: list[str], batch: Batch, directions: Tensor) -> Tensor:
    """The gradients times each of r directions, with shape (r, p): shape (n, c, r)."""
    own = {name: function.parameters[name] for name in names}
    shapes = [p.shape for p in own.values()]
    found = []
    for direction in directions:
        tangents = dict(zip(names, unflatten(direction, shapes), strict=True))
        try:
            found.append(jvp(lambda moving: function(batch, moving), (own,), (tangents,))[1])
        # An operation without a forward derivative; the derivative of a backward pass has the same value.
        except (RuntimeError, NotImplementedError):
            found.append(_pushed_twice(function, batch, tangents))
    return torch.stack(found, 2).detach()


def _pushed_twice(function: Function, batch: Batch, tangents: Parameters) -> Tensor:
    leaves = {name: function.parameters[name].detach().requires_grad_() for name in tangents}
    with torch.enable_grad():
        explained = function(batch, leaves)
        weights = torch.zeros_like(explained, requires_grad=True)
        found = torch.autograd.grad(explained, list(leaves.values()), weights, create_graph=True, allow_unused=True)
        pairs = [(g * tangents[name]).sum() for name, g in zip(leaves, found, strict=True) if g is not None]
        return torch.autograd.grad(torch.stack(pairs).sum(), weights)[0] if pairs else torch.zeros_like(explained)
