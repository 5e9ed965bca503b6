"""Samples whose gradient is no number, found where a ledger would meet them.

A loop may go on from such a batch by writing other numbers into the gradients, as ``p.grad.nan_to_num_(0)`` does. The
step that it then makes is in the run; the loss of its samples leads to no share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..network import Parameters, gradients_of, per_sample_losses, random_state
from ..run.replay import batch_tensors
from ..run.step import MicroBatch
from ..sizes import norm_of
from .training_side import TrainingSide

#: How many samples are named.
NAMED = 5


def refuse_non_finite(side: TrainingSide, batch: MicroBatch, k: int, parameters: Parameters,
                      gradients: list[Tensor], names: list[str]) -> None:
    """Refuses a forward pass of step k whose mean gradient, by the parameters named, is NaN or infinite.

    Raises:
        NonFiniteError: If it is, with the samples that make it so.
    """
    if _finite(gradients):
        return
    what, rows = _culprits(side, batch, k, parameters, names)
    ids = [str(side.run.samples.ids[int(batch.columns[row])]) for row in rows]
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    whose = f"sample{'s' * (len(ids) > 1)} {', '.join(ids[:NAMED])}{more}" if ids else "its batch"
    raise NonFiniteError(
        f"At step {k} {what} of {whose} is NaN or infinite, though the gradient that the step used was finite: the "
        "loop put other numbers in its place, as nan_to_num_ does, and no share follows from them. Mend these samples, "
        'or leave them out, and train again; or decompose with rule="displacement", which books steps and not samples.'
    )


def _culprits(side: TrainingSide, batch: MicroBatch, k: int, parameters: Parameters,
              names: list[str]) -> tuple[str, list[int]]:
    """What is no number, from the data to the gradient, and the rows of the batch it is found in."""
    inputs, targets = side.to(batch_tensors(side.run, batch))
    given = _bad_rows([*inputs, targets])
    if given:
        return "the input or the target", given
    leaves = {name: parameters[name].detach().requires_grad_() for name in names}
    buffers = side.to(side.run.buffers(k))

    def losses(rows: slice) -> Tensor:
        some = tuple(x[rows] for x in inputs)
        with random_state(batch.random, side.device):
            outputs = side.run.network({**parameters, **leaves}, buffers, some, batch.training)
            return per_sample_losses(side.run.loss, outputs, targets[rows], len(targets[rows]))

    lost = _bad_rows([losses(slice(None)).detach()])
    if lost:
        return "the loss", lost
    odd = []
    if not side.run.network.couples(batch.training):
        # Each by itself: beside a sample whose gradient is infinite, nought times infinity makes those of all NaN.
        for i in range(len(targets)):
            with torch.enable_grad():
                one = losses(slice(i, i + 1)).sum()
            found = gradients_of(one, leaves)
            odd += [] if _finite([g for g in found if g is not None]) else [i]
    return "the gradient of the loss", odd


def _bad_rows(tensors: list[Tensor]) -> list[int]:
    bad = [~t.isfinite().unsqueeze(1).flatten(1).all(1) for t in tensors]
    return [int(row) for row in torch.stack(bad).any(0).nonzero().flatten()]


def _finite(tensors: list[Tensor]) -> bool:
    # A norm is a number if all entries are, but for some that are too large for their squares.
    return all(math.isfinite(norm_of(t)) or bool(t.isfinite().all()) for t in tensors)
