"""Processes of ``torch.distributed`` that compute together: what each has, all get, and what one meets, all raise.

They speak to each other here and nowhere else. What goes from one to another are numbers; nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from . import errors
from .errors import DataError, KernelscopeError, ProcessLost

#: How many letters of an error the other processes are told.
LETTERS = 2048

#: After how many steps processes ask each other whether all are still at work.
STEPS = 16


class Ranks:
    """The processes of a group, as one of them sees it.

    Args:
        group: A process group of ``torch.distributed``; the default one if not given.

    Attributes:
        rank: The number of this process.
        size: How many there are.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._on_processor = dist.get_backend(group) == "gloo"

    def each(self, values: Tensor) -> list[Tensor]:
        """What every process has, in all of them; of one shape in all.

        Raises:
            ProcessLost: If one of them does not answer.
        """
        sent = (values.cpu() if self._on_processor else values).contiguous()
        found = [torch.empty_like(sent) for _ in range(self.size)]
        try:
            dist.all_gather(found, sent, group=self._group)
        except RuntimeError as error:
            raise ProcessLost(
                f"Process {self.rank} of {self.size} waited for the others, and one of them has ended or does not "
                f"answer ({str(error).splitlines()[0]}). What went wrong is said by that one. Start all of them again."
            ) from error
        return [t.to(values.device) for t in found]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of what all processes have, taken in their order."""
        first, *others = self.each(values)
        for other in others:
            first = first + other
        return first


def joined(what: str, group: dist.ProcessGroup | None = None) -> Ranks:
    """The processes that this one was started with.

    Args:
        what: What is done among them, in words.
        group: A process group of ``torch.distributed``; the default one if not given.

    Raises:
        DataError: If there are none.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise DataError(
            f"{what} among the processes of torch.distributed, and none were told of. Call "
            'torch.distributed.init_process_group("gloo") first ("nccl" on GPUs), and start the script by torchrun.'
        )
    return Ranks(group)


class Company:
    """Processes that go through as many steps each, and stop together where one of them meets an error.

    Args:
        ranks: The processes; ``None`` for one that is alone.
    """

    def __init__(self, ranks: Ranks | None):
        self.ranks = ranks
        self._steps = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that speaks."""
        return self.ranks is None or self.ranks.rank == 0

    def share(self, count: int, rank: int | None = None) -> slice:
        """Which of ``count`` things are this process's, or another one's: nearly as many in each."""
        if self.ranks is None:
            return slice(0, count)
        rank = self.ranks.rank if rank is None else rank
        least, more = divmod(count, self.ranks.size)
        start = rank * least + min(rank, more)
        return slice(start, start + least + (rank < more))

    def check_alike(self, told: dict[str, float]) -> None:
        """Refuses processes that were asked different things, by numbers that each of them has.

        Raises:
            DataError: If a number is another one elsewhere.
        """
        if self.ranks is None:
            return
        numbers = torch.tensor(list(told.values()), dtype=torch.float64)
        for rank, other in enumerate(self.ranks.each(numbers)):
            differing = (other != numbers).nonzero()
            if len(differing):
                raise DataError(
                    f"All processes have to ask the same, and process {rank} differs from process {self.ranks.rank} in "
                    f"{list(told)[int(differing[0])]}. Pass the same arguments in all of them, with the same seeds."
                )

    def step(self, count: int = 1) -> None:
        """Takes note of a step; from time to time all are asked whether they are still at work."""
        for _ in range(count if self.ranks is not None else 0):
            self._steps += 1
            if self._steps % STEPS == 0:
                self._ask(None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within it an error of one process is raised by all of them, and all reach the end."""
        try:
            yield
        except _Told as told:
            raise told.error from None
        except Exception as error:
            if self.ranks is not None and not isinstance(error, ProcessLost):
                try:
                    self._ask(error)
                except _Told:
                    pass
            raise
        try:
            self._ask(None)
        except _Told as told:
            raise told.error from None

    def _ask(self, error: Exception | None) -> None:
        if self.ranks is None:
            return
        states = self.ranks.each(torch.tensor([0 if error is None else 1]))
        failed = [rank for rank, state in enumerate(states) if int(state)]
        if not failed:
            return
        words = f"{type(error).__name__}|{error}".encode()[:LETTERS].ljust(LETTERS) if error else bytes(LETTERS)
        said = self.ranks.each(torch.frombuffer(bytearray(words), dtype=torch.uint8))[failed[0]]
        name, _, text = said.numpy().tobytes().decode(errors="replace").strip().partition("|")
        kind = getattr(errors, name, None)
        if not (isinstance(kind, type) and issubclass(kind, KernelscopeError)):
            kind, text = KernelscopeError, f"{name}: {text}"
        raise _Told(kind(f"Process {failed[0]} of {self.ranks.size}: {text}"))


class _Told(Exception):
    """An error of another process."""

    def __init__(self, error: KernelscopeError):
        super().__init__(str(error))
        self.error = error
