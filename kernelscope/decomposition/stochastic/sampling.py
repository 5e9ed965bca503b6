r"""How the batches of a run were drawn, and what that makes of the noise.

The noise of step s is :math:`\xi_s = \hat g_s - g_s`, the gradient of the batch less that of all n samples. With the
covariance :math:`\Sigma = \frac1n\sum_i (g_i - g)(g_i - g)^T` of the samples' gradients and :math:`B_s` samples in a
batch,

.. math:: \mathrm{Cov}(\xi_s, \xi_s) = v_s \Sigma, \qquad \mathrm{Cov}(\xi_r, \xi_s) = -\kappa\,\Sigma
          \quad\text{for two steps of one epoch},

where

- ``replacement`` (each sample of a batch is drawn from all n): :math:`v = 1/B`, :math:`\kappa = 0`;
- ``independent`` (a batch holds no sample twice, and knows nothing of the one before):
  :math:`v = \frac{n-B}{(n-1)B}`, :math:`\kappa = 0`;
- ``reshuffling`` (each epoch goes through all samples in a new order): the same v, and :math:`\kappa = 1/(n-1)`;
- ``fixed`` (the same batches in each epoch, or all samples in each batch): there is no noise.

Source: sampling from finite populations, e.g. "Sampling Techniques" (Cochran, 1977), sections 2.5 and 2.9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...arguments import as_choice

#: The ways to draw batches, and how they are told in words.
SCHEMES = {
    "replacement": "with replacement",
    "independent": "without replacement within a batch, each batch anew",
    "reshuffling": "with random reshuffling",
    "fixed": "in a fixed order",
}


@dataclass(frozen=True)
class Sampling:
    """How batches were drawn.

    Attributes:
        scheme: One of the words of this module.
        population: The number of samples n.
        sizes: The number of samples in the batch of each step.
        epochs: The epoch that each step belongs to.
    """

    scheme: str
    population: int
    sizes: tuple[int, ...]
    epochs: tuple[int, ...]

    def own(self, s: int) -> float:
        """v: how much of the covariance of single gradients a batch's gradient has at step s."""
        n, b = self.population, self.sizes[s]
        if self.scheme == "fixed" or n == 1:
            return 0.0
        return 1 / b if self.scheme == "replacement" else max(n - b, 0) / ((n - 1) * b)

    @property
    def pair(self) -> float:
        r""":math:`\kappa`: how much of it, with its sign turned, two batches of one epoch have in common."""
        return 1 / (self.population - 1) if self.scheme == "reshuffling" and self.population > 1 else 0.0

    def starts_epoch(self, s: int) -> bool:
        """Whether step s is the first of an epoch."""
        return s == 0 or self.epochs[s] != self.epochs[s - 1]

    def draw(self, seeds: int, generator: torch.Generator) -> list[Tensor]:
        """The samples of each step for several runs, each with shape (seeds, B).

        Example:
            >>> drawn = Sampling("reshuffling", 4, (2, 2), (0, 0)).draw(3, torch.Generator().manual_seed(0))
            >>> torch.cat(drawn, 1).sort(1).values
            tensor([[0, 1, 2, 3],
                    [0, 1, 2, 3],
                    [0, 1, 2, 3]])
        """
        return list(self.each(seeds, generator))

    def each(self, seeds: int, generator: torch.Generator) -> Iterator[Tensor]:
        """What :meth:`draw` gives, one step at a time: those of a long run fill no memory."""
        n = self.population
        order, place = torch.zeros(seeds, 0, dtype=torch.long), 0
        for s, size in enumerate(self.sizes):
            if self.scheme == "replacement":
                yield torch.randint(n, (seeds, size), generator=generator)
                continue
            if self.scheme == "independent" or self.starts_epoch(s):
                order, place = torch.rand(seeds, n, generator=generator).argsort(1), 0
            yield order[:, place:place + size]
            place += size


def sampling_of(batches: Sequence[Tensor], population: int, scheme: str | None = None) -> Sampling:
    """Tells from the batches of a run how they were drawn.

    Args:
        batches: The samples of each step.
        population: The number of samples there are.
        scheme: The scheme, where it is known.

    Example:
        >>> batches = [torch.tensor([0, 3]), torch.tensor([1, 2]), torch.tensor([2, 3]), torch.tensor([1, 0])]
        >>> found = sampling_of(batches, 4)
        >>> found.scheme, found.epochs
        ('reshuffling', (0, 0, 1, 1))
    """
    sizes = tuple(len(batch) for batch in batches)
    epochs = _epochs(batches, population)
    if scheme is None:
        scheme = _scheme(batches, population, epochs)
    else:
        as_choice(scheme, "sampling", SCHEMES)
    return Sampling(scheme, population, sizes, epochs)


def _epochs(batches: Sequence[Tensor], population: int) -> tuple[int, ...]:
    """The epoch of each step: one ends before a batch that there are not enough samples left for."""
    epochs, left, epoch = [], population, 0
    for batch in batches:
        if left < len(batch) and left < population:
            left, epoch = population, epoch + 1
        epochs.append(epoch)
        left -= len(batch)
        if left == 0:
            left, epoch = population, epoch + 1
    return tuple(epochs)


def _scheme(batches: Sequence[Tensor], population: int, epochs: tuple[int, ...]) -> str:
    if any(len(batch.unique()) < len(batch) for batch in batches):
        return "replacement"
    if all(len(batch) >= population for batch in batches):
        return "fixed"
    by_epoch: dict[int, list[Tensor]] = {}
    for epoch, batch in zip(epochs, batches, strict=True):
        by_epoch.setdefault(epoch, []).append(batch)
    drawn = [torch.cat(parts) for parts in by_epoch.values()]
    if any(len(d.unique()) < len(d) for d in drawn):
        # Two batches of what would be an epoch share a sample.
        return "replacement" if all(len(batch) == 1 for batch in batches) else "independent"
    whole = [parts for parts in by_epoch.values() if len(parts) == len(by_epoch[0])]
    same = all(len(a) == len(b) and torch.equal(a.sort().values, b.sort().values)
               for parts in whole[1:] for a, b in zip(parts, whole[0], strict=True))
    in_order = all(bool((d.diff() == 1).all()) for d in drawn) and len(batches) > 1
    return "fixed" if same and len(whole) > 1 or in_order else "reshuffling"
