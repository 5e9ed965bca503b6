r"""The batches of a run, drawn anew from a subset of its samples.

Steps are as many as the run had, and batches as large: an epoch over a subset of half of the samples has half as many
steps, and there are twice as many epochs. A batch larger than the subset holds all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from ...decomposition.stochastic.sampling import SCHEMES, Sampling
from ...errors import DataError

__all__ = ["Batches", "batches_of"]

#: Between the seeds of the batches of two subsets.
APART = 1_000_003


@dataclass(frozen=True, eq=False)
class Batches:
    """How batches of a subset are drawn.

    Attributes:
        scheme: One of the words of sampling, or ``"everything"`` where each step takes all samples.
        steps: How many there are.
        size: The samples of a batch.
        drops: Whether what is left at the end of an epoch, less than a batch, is left out.
        order: The order of samples in an epoch, where it is always the same.
    """

    scheme: str
    steps: int
    size: int
    drops: bool
    order: Tensor

    @property
    def random(self) -> bool:
        """Whether another seed makes other batches."""
        return self.scheme not in ("everything", "fixed")

    def said(self) -> str:
        """How they are drawn, in words."""
        if self.scheme == "everything":
            return "the mean over the subset at each step"
        return f"batches of {self.size} of the subset, drawn {SCHEMES[self.scheme]}"

    def of(self, subset: Tensor, seed: int, place: int = 0) -> Iterator[Tensor]:
        """The batches of one network, one for each step.

        Args:
            subset: The samples it is trained on.
            seed: Its seed.
            place: The place of the subset among others, which draw other batches.

        Example:
            >>> three = Batches("fixed", 3, 2, False, torch.tensor([4, 3, 2, 1, 0]))
            >>> [batch.tolist() for batch in three.of(torch.tensor([0, 2, 3]), seed=0)]
            [[3, 2], [0], [3, 2]]
        """
        m = len(subset)
        size = min(self.size, m)
        if self.scheme == "everything":
            return repeat(subset, self.steps)
        if self.scheme == "fixed":
            own = self.order[torch.isin(self.order, subset)]
            return self._cut(lambda: own, size)
        source = torch.Generator().manual_seed((seed * APART + place) % 2**63)
        if self.scheme == "replacement":
            return (subset[torch.randint(m, (self.size,), generator=source)] for _ in range(self.steps))
        if self.scheme == "independent":
            return (subset[torch.randperm(m, generator=source)[:size]] for _ in range(self.steps))
        return self._cut(lambda: subset[torch.randperm(m, generator=source)], size)

    def _cut(self, epoch: Callable[[], Tensor], size: int) -> Iterator[Tensor]:
        """Batches of one epoch after the other, until there are enough."""
        made = 0
        while True:
            for batch in epoch().split(size):
                if self.drops and len(batch) < size:
                    continue
                if made == self.steps:
                    return
                made += 1
                yield batch


def batches_of(sampling: Sampling, recorded: list[Tensor]) -> Batches:
    """How the batches of a run are drawn of a subset.

    Args:
        sampling: How its batches were drawn of all samples.
        recorded: The samples of each step.

    Raises:
        DataError: If batches change their size otherwise than at the end of an epoch.
    """
    n, sizes, steps = sampling.population, sampling.sizes, len(sampling.sizes)
    if min(sizes) == max(sizes) == n and all(len(batch.unique()) == n for batch in recorded):
        return Batches("everything", steps, n, False, torch.arange(n))
    ends = [s + 1 == steps or sampling.starts_epoch(s + 1) for s in range(steps)]
    size = max(sizes)
    odd = next((s for s in range(steps) if sizes[s] != size and not ends[s]), None)
    if odd is not None:
        raise DataError(f"Batches of subsets are as large as those of the run, and its batches change their size: "
                        f"{size} samples, and {sizes[odd]} at step {odd}, before the end of an epoch. Train with a "
                        "batch size that stays the same.")
    by_epoch: dict[int, list[Tensor]] = {}
    for epoch, batch in zip(sampling.epochs, recorded, strict=True):
        by_epoch.setdefault(epoch, []).append(batch)
    # The last epoch may be cut short by the end of the run.
    whole = [sum(map(len, parts)) for parts in by_epoch.values()][:-1]
    drops = bool(whole) and max(whole) < n
    order = torch.cat(by_epoch[0])
    rest = torch.arange(n)
    return Batches(sampling.scheme, steps, size, drops, torch.cat([order, rest[~torch.isin(rest, order)]]))
