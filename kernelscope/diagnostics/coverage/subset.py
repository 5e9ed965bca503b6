"""Which training samples span: all of them, some by their ids, or as many of each class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...arguments import as_whole
from ...errors import DataError


def chosen(ids: list[int], classes: Tensor | None, samples: Any, seed: int = 0) -> Tensor:
    """The places of the samples that are taken, ascending.

    Args:
        ids: The ids of all of them.
        classes: The class of each, or ``None``.
        samples: How many, drawn evenly from the classes; their ids; or ``None`` for all.
        seed: Of the draw.

    Raises:
        DataError: If there are no such samples.

    Example:
        >>> chosen([0, 1, 2, 3], torch.tensor([0, 0, 0, 1]), 2)[1:]
        tensor([3])
    """
    if samples is None:
        return torch.arange(len(ids))
    count = as_whole(samples)
    if count is not None:
        if not 1 <= count <= len(ids):
            raise DataError(f"samples={count} training samples were asked for, and the run holds {len(ids):,}. Pass a "
                            "number from 1 on, up to this.")
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
        if classes is not None:
            # One of each class in turn.
            turn = torch.zeros(len(ids), dtype=torch.long)
            for c in classes.unique():
                own = (classes[order] == c).nonzero().flatten()
                turn[own] = torch.arange(len(own))
            order = order[turn.argsort(stable=True)]
        return order[:count].sort().values
    places = {name: place for place, name in enumerate(ids)}
    try:
        wanted = [int(i) for i in samples]
    except (TypeError, ValueError) as error:
        raise DataError("samples must be a number of training samples, or a list of their ids; a "
                        f"{type(samples).__name__} came. Pass samples=1000.") from error
    odd = next((i for i in wanted if i not in places), None)
    if odd is not None or not wanted or len(set(wanted)) < len(wanted):
        came = "none" if not wanted else f"{odd}, which is none" if odd is not None else "one of them twice"
        raise DataError(f"samples must be ids of training samples of this run, each once; {came} came. "
                        "Those that it holds are in run.samples.ids.")
    return torch.tensor(sorted(places[i] for i in wanted))
