r"""A problem whose centers are shared out among processes.

Process r holds some of the centers, :math:`Z_r`, and computes the columns of :math:`K_{xz}` that are theirs. A product
is the sum of what all of them find, :math:`K_{xz} C = \sum_r k(x, Z_r)\, C_r`, and its transpose is computed by each
for its own centers:

.. math:: K_{zx} R = \big(k(Z_1, x)\, R,\; k(Z_2, x)\, R, \dots\big).

So a step of an iteration takes one sum over all processes. Coefficients are small beside the kernel, and every process
has all of them; what is computed from them is computed by all alike. Sums are taken in the order of the processes,
whatever carries the numbers, so that all of them have the same bits, and go the same way, in every run.

All of them have to come to the same calls in the same
order, with the same problem, on machines that compute alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor

from ..data.points import Points
from ..errors import DataError
from ..features.base import points_between
from ..processes import Ranks, joined
from ..tiles.triangle import LANES
from .problem import Problem

#: Of how many centers and points the kernel is compared.
LOOK = 16

#: What processes have to have in common.
NAMES = ("the number of points", "the number of centers", "the number of outputs", "memory", "intercept",
         "the number of ridges", "ridge", "the targets", "the targets", "the centers, the points or the kernel")


def shared(problem: Problem, group: dist.ProcessGroup | None = None) -> Problem:
    """The problem, with its centers shared out among the processes of a group; itself where there is one process.

    Args:
        problem: The problem, the same in all processes.
        group: A process group of ``torch.distributed``; the default one if not given.

    Raises:
        DataError: If there is no process group, if there are more processes than centers, or if processes have
            different problems.
        ProcessLost: If one of them does not answer.
    """
    ranks = joined("Centers are shared out", group)
    if ranks.size == 1:
        return problem
    if ranks.size > len(problem.z):
        raise DataError(
            f"{ranks.size} processes cannot share {len(problem.z)} centers. Start fewer, or take more centers."
        )
    _check_alike(_numbers(problem), NAMES, ranks)
    return Shared(**{f.name: getattr(problem, f.name) for f in fields(Problem)}, ranks=ranks)


@dataclass(frozen=True, eq=False)
class Shared(Problem):
    """A problem of which this process computes some columns.

    Whoever asks for whole rows gets them, from all processes; what asks for its own is as much faster as there are
    processes.

    Attributes:
        ranks: The processes.
    """

    ranks: Ranks | None = None

    @property
    def processes(self) -> int:
        return self._all.size

    @property
    def first(self) -> bool:
        return self._all.rank == 0

    def agree(self, number: float, what: str) -> None:
        told = torch.tensor([number], dtype=torch.float64, device=self.y.device)
        _check_alike(told, (what,), self._all)

    def gram(self) -> Tensor:
        return self.gathered(self.kernel(self._centers, self.z).to(self.y.dtype))

    def block(self, points: Points) -> Tensor:
        return self.gathered(self.own_block(points).T).T

    def gram_times(self, v: Tensor) -> Tensor:
        return self.gathered(self.kernel.matmul(self._centers, self.z, v.to(self.y)).to(self.y.dtype))

    def own_rows(self, each: int = 0) -> Iterator[tuple[slice, Tensor]]:
        # As many rows in all processes, though the last may have fewer columns.
        step = self.stride(self._most, each)
        for i in range(0, len(self.x), step):
            part = slice(i, min(i + step, len(self.x)))
            yield part, self.own_block(points_between(self.x, part.start, part.stop))

    def own_block(self, points: Points) -> Tensor:
        return self.kernel(points, self._centers).to(self.y.dtype)

    def own(self, columns: Tensor) -> Tensor:
        return columns[self._places]

    def summed(self, values: Tensor) -> Tensor:
        return self._all.sum(values)

    def gathered(self, own: Tensor) -> Tensor:
        padded = own.new_zeros(self._most, *own.shape[1:])
        padded[:len(own)] = own
        parts = self._all.each(padded)
        return torch.cat([part[:places.stop - places.start] for part, places in
                          zip(parts, map(self._of, range(self._all.size)), strict=True)])

    def laned(self, lane: Callable[[int], Tensor], like: Tensor) -> Tensor:
        own = [lane(number) for number in range(self._all.rank, LANES, self._all.size)]
        most = -(-LANES // self._all.size)
        parts = self._all.each(torch.stack(own + [torch.zeros_like(like)] * (most - len(own))))
        # In the order of the lanes, and not of the processes: the sum has the same bits for any number of them.
        total = parts[0][0].clone()
        for number in range(1, LANES):
            total += parts[number % self._all.size][number // self._all.size]
        return total

    # -- who has which -----------------------------------------------------------------------------------------------

    @property
    def _all(self) -> Ranks:
        assert self.ranks is not None
        return self.ranks

    @property
    def _most(self) -> int:
        """The centers of the first process, which has the most."""
        return self._of(0).stop

    @property
    def _places(self) -> slice:
        return self._of(self._all.rank)

    @property
    def _centers(self) -> Points:
        return points_between(self.z, self._places.start, self._places.stop)

    def _of(self, rank: int) -> slice:
        """The centers of a process: nearly as many in each, and one at least."""
        p, size = len(self.z), self._all.size
        least, more = divmod(p, size)
        start = rank * least + min(rank, more)
        return slice(start, start + least + (rank < more))


def _check_alike(told: Tensor, names: Sequence[str], ranks: Ranks) -> None:
    for rank, other in enumerate(ranks.each(told)):
        differing = (other != told).nonzero()
        if len(differing):
            raise DataError(
                f"All processes have to fit the same problem, and process {rank} differs from process {ranks.rank} in "
                f"{names[int(differing[0])]}. Pass the same arguments in all of them, with the same seeds."
            )


def _numbers(problem: Problem) -> Tensor:
    """Some that tell most problems apart, in the order of ``NAMES``."""
    n, p = problem.shape
    some = problem.kernel(points_between(problem.z, 0, min(p, LOOK)), points_between(problem.x, 0, min(n, LOOK)))
    y = problem.y.double()
    return torch.tensor([n, p, problem.outputs, problem.memory, problem.intercept, len(problem.ridge),
                         sum(problem.ridge), float(y.sum()), float(y.square().sum()), float(some.double().sum())],
                        dtype=torch.float64, device=problem.y.device)
