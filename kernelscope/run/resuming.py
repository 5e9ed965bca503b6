"""Taking a recording up again after its process ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordingError
from ..network import Network
from ..storage import Store
from .losses import Loss
from .run import Run
from .samples import Samples
from .segments import Chunk, decode, encode


def take_up(path: Path, network: Network, loss: Loss, meta: dict[str, Any], row: Tensor,
            samples: Samples) -> tuple[Store, int, list[int]]:
    """Opens a recording for writing at the step whose parameters are ``row``; later steps are dropped.

    Returns:
        The store, the number of the next step, and the steps at which recording began before.
    """
    store = Store.resume(path, "run")
    try:
        for key in ("parameters", "samples", "dtype"):
            if store.meta.get(key) != meta[key]:
                raise RecordingError(
                    f"The run in {path} has other {key} than this one, so it cannot be taken up. Resume with the model "
                    "and the data of the first recording, or record into another folder."
                )
        if not store.segments:
            store.commit(meta)
            return store, 0, []
        run = Run.from_store(store, network, loss)
        step = _find(run, row, path)
        kept = run.samples
        samples.seen, samples.inputs = kept.seen, kept.inputs
        samples.targets = samples.targets if kept.targets is None else kept.targets
        _cut(store, step)
        return store, step, [k for k in store.meta.get("restarts", [0]) if k < step]
    except BaseException:
        store.close()
        raise


def _find(run: Run, row: Tensor, path: Path) -> int:
    for k in reversed(range(len(run) + 1)):
        stored = run.row(k)
        if stored is not None and torch.equal(stored, row):
            return k
    raise RecordingError(
        f"The model's parameters are none of the {len(run)} recorded steps in {path}, so the recording does not know "
        "where the loop goes on. Load the checkpoint of that run into the model first, or pass overwrite=True to begin "
        "again."
    )


def _cut(store: Store, step: int) -> None:
    """Leaves the steps before ``step``; the chunk that holds it is written anew."""
    gone = []
    for segment in store.segments:
        chunk = decode(store.read(segment), segment.name)
        end = chunk.first + len(chunk.steps)
        if end <= step and not any(k >= step for part in (chunk.rows, chunk.buffers, chunk.averages) for k in part):
            continue
        gone.append(segment.name)
        if chunk.first <= step:
            store.append(encode(_before(chunk, step)), {"first": chunk.first, "steps": max(step - chunk.first, 0)})
    store.drop(gone)


def _before(chunk: Chunk, step: int) -> Chunk:
    left = Chunk(chunk.first, chunk.steps[:max(step - chunk.first, 0)])
    for part in ("rows", "states", "buffers", "averages"):
        setattr(left, part, {k: v for k, v in getattr(chunk, part).items() if k < step})
    # Samples seen by dropped steps are members of the training set all the same.
    left.samples = chunk.samples
    return left
