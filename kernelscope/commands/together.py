"""The processes that ``torchrun`` starts, as one command sees them; one process where nothing was started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..processes import Ranks


@dataclass(frozen=True)
class Processes:
    """This process among others.

    Attributes:
        device: Where it computes: a GPU of its own where there is one.
        ranks: All of them, where they are several.
    """

    device: torch.device
    ranks: Ranks | None = None

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.ranks is not None

    @property
    def first(self) -> bool:
        """Whether this one writes and answers."""
        return self.ranks is None or self.ranks.rank == 0

    def meet(self) -> None:
        """Waits until all have come here."""
        if self.ranks is not None:
            self.ranks.each(torch.zeros(1, device=self.device))

    def split(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """The values of a function at points, of which each process computes its share, and all get all."""
        if self.ranks is None:
            return function(x)
        most = -(-len(x) // self.ranks.size)
        places = (torch.arange(most, device=x.device) + self.ranks.rank * most).clamp(max=len(x) - 1)
        return torch.cat(self.ranks.each(function(x[places])))[:len(x)]


@contextmanager
def together() -> Iterator[Processes]:
    """Joins the other processes of ``torchrun``, if there are any, for as long as the context lasts."""
    gpu = torch.cuda.is_available()
    place = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", place % torch.cuda.device_count()) if gpu else torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(device)
        return
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Processes(device, Ranks())
    finally:
        dist.destroy_process_group()
