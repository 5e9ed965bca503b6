"""Gradients by parameters whose uses do not give them: each sample differentiated by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ..nested import mapped
from ..network import MISFITS, Parameters, gradients_of
from .batch import Batch
from .function import Function

#: How closely a sum of rows must meet the gradient of the sum, relative to the sum of absolute terms.
AGREEMENT = 2e-4


def alone(function: Function, names: list[str], batch: Batch) -> Parameters:
    """The gradients with shape (n, c, p) by parameter; at once where torch can, else one after the other."""
    try:
        found = _transformed(function, names, batch)
    except MISFITS:
        return function.plainly(names, batch)
    # Some operations have transformed gradients that are wrong for some numbers of samples and outputs.
    return found if _adds_up(function, found, batch) else function.plainly(names, batch)


def _transformed(function: Function, names: list[str], batch: Batch) -> Parameters:
    def one(own: Parameters, args: Any, kwargs: Any, side: Any) -> Tensor:
        return function(Batch(*mapped(lambda t: t.unsqueeze(0), (args, kwargs, side))), own)[0]

    own = {name: function.parameters[name] for name in names}
    axes = (None, 0, 0, None if batch.side is None else 0)
    found = vmap(jacrev(one), in_dims=axes)(own, *batch)
    return {name: rows.flatten(2) if rows.ndim > 2 else rows.unsqueeze(2) for name, rows in found.items()}


def _adds_up(function: Function, rows: Parameters, batch: Batch) -> bool:
    """Whether a weighted sum of rows is the gradient of the weighted sum of the numbers."""
    leaves = function.leaves(list(rows))
    with torch.enable_grad():
        explained = function(batch, leaves)
        weights = torch.arange(1, explained.numel() + 1).to(explained).sin().view_as(explained)
        total = (weights * explained).sum()
    for found, true in zip(rows.values(), gradients_of(total, leaves), strict=True):
        sums = torch.tensordot(weights.detach(), found, 2)
        true = torch.zeros_like(sums) if true is None else true.flatten()
        size = torch.tensordot(weights.detach().abs(), found.abs(), 2)
        if not bool(((sums - true).abs() <= AGREEMENT * size.max()).all()):
            return False
    return True
