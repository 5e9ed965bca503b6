"""Is a data set the one that a run was trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .run import Run


def compare_samples(run: Run, data: Any, probes: int = 64) -> None:
    """Compares some samples of a data set with those of the run; raises if they differ."""
    count = len(data)
    if run.samples.fixed and count != run.size:
        raise DataError(
            f"The run was trained on {run.size} samples, and the data given holds {count}. "
            "Pass the training set itself, not the test set or a part."
        )
    seen = run.samples.seen[:run.size].nonzero().flatten().tolist()
    some: Sequence[int] = seen[:: max(1, len(seen) // probes)]
    with torch.random.fork_rng(devices=[]):
        alike = {i: _alike(run, i, data[run.samples.ids[i]]) for i in some}
    # A loop that scales its inputs changes all of them, and no target.
    scaled = not any(inputs for inputs, _ in alike.values())
    differing = [i for i, (inputs, targets) in alike.items() if not (targets and (inputs or scaled or run.draws))]
    if differing:
        raise DataError(
            f"{len(differing)} of {len(some)} samples compared differ from those of the run (the first is sample "
            f"{differing[0]}). Pass the data set as it was recorded, or leave data= out: the run keeps its own copy."
        )


def _alike(run: Run, i: int, item: Any) -> tuple[bool, bool]:
    """Whether the input and the target of sample i are those of the data set's item."""
    kept = run.sample(i)
    assert kept is not None
    if not isinstance(item, list | tuple) or len(item) < 2:
        return True, True
    return _same(kept[0], item[0]), _same(kept[1], item[-1])


def _same(kept: Tensor, given: Any) -> bool:
    if not isinstance(given, Tensor | int | float):
        return True
    # The loop may have reshaped and converted it on its way to the network.
    flat = torch.as_tensor(given).reshape(-1)
    return flat.numel() != kept.numel() or torch.equal(flat.to(kept.dtype), kept.reshape(-1))
