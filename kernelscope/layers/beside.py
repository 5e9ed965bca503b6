"""Does each sample stand for itself, and where it was observed to stand?

What was observed on three samples is true of a batch of others unless the network treats them by what they hold, or by
what stands beside them. So some of a batch are given to the network by themselves: a few of the first batch of a size;
or, if it was seen to sort, to select, to branch or to make one number of all samples, all of every batch in two parts,
and some one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ModelError
from .batch import Batch, pick
from .function import Function
from .layout import Layout, same
from .plan import OTHER, OtherUses, Plan
from .watching import Watch

#: How many samples are taken out of a batch of a network that was not seen to treat them by what they hold.
FEW = 4

#: What is said of a sample that has no gradient of its own.
DEPENDS = ("The outputs of a sample depend on the samples beside it, or on chance, so a sample has no gradient of its "
           "own. Keep statistics of the batch and random numbers out of the network's eval mode.")


def check_alone(function: Function, plan: Plan, names: list[str], batch: Batch, watch: Watch,
                explained: Tensor) -> None:
    """Compares the samples of a batch with some of them alone.

    Raises:
        ModelError: If what they give is something else beside the others.
        OtherUses: If they do not stand in the uses of parameters where they should.
    """
    n = len(explained)
    for some in _parts(explained.detach(), watch.by_content):
        twin, alone = function.watched(names, pick(batch, some), plan.habits, graph=False)
        if not same(explained.detach()[some.to(explained.device)], alone):
            raise ModelError(DEPENDS)
        if tuple(use.sign for use in twin.uses) != plan.signs:
            raise OtherUses(OTHER)
        for use, other, (inside, outside) in zip(watch.uses, twin.uses, plan.layouts, strict=True):
            if not (_matches(use.call.input, other.call.input, inside, n, some)
                    and _matches(use.output.detach(), other.output.detach(), outside, n, some)):
                raise OtherUses(OTHER)


def _parts(explained: Tensor, by_content: bool) -> list[Tensor]:
    """The numbers of samples that are given to the network by themselves."""
    n = len(explained)
    numbers = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    if not by_content or n < 2:
        return [numbers[:FEW]]
    # What is at the end of a scale is what others may be measured by.
    order = explained.flatten(1).float().norm(dim=1).argsort().cpu()
    return [*numbers.tensor_split(2), order[:1], order[-1:], *numbers[:FEW].split(1)]


def _matches(whole: Tensor, part: Tensor, layout: Layout, n: int, numbers: Tensor) -> bool:
    if layout.axis is None:
        return same(whole, part)
    try:
        rows, few = layout.apply(whole, n), layout.apply(part, len(numbers))
    except RuntimeError:  # They cannot be cut into so many samples.
        return False
    return len(rows) == n and len(few) == len(numbers) and same(rows[numbers.to(rows.device)], few)
