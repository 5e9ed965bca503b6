"""Taking a recording up again after its process ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RecordingError
from ..losses import Loss
from ..network import Network
from ..storage import Store
from .run import Run
from .samples import Samples


def take_up(path: Path, network: Network, loss: Loss, meta: dict[str, Any], row: Tensor,
            samples: Samples) -> tuple[Store, Run, int]:
    """Opens a recording for writing at the step whose parameters are ``row``.

    Nothing is removed: the next chunk begins at this step, and with its commit the steps behind it are no longer part
    of the run.

    Returns:
        The store, the run as it is, and the number of the next step.
    """
    store = Store.resume(path, "run")
    try:
        for key in ("parameters", "frozen", "samples", "dtype"):
            if store.meta.get(key) != meta[key]:
                raise RecordingError(
                    f"The run in {path} has other {key} than this one, so it cannot be taken up. Resume with the model "
                    "and the data of the first recording, or record into another folder."
                )
        run = Run.from_store(store, network, loss)
        step = _find(run, row, path)
        if step == 0 and len(run):
            # A model that was only made anew, with the same seed, holds these parameters too.
            raise RecordingError(
                f"The model holds the parameters from before the first of the {len(run)} recorded steps in {path}, so "
                "taking the run up here would drop all of them. Load the checkpoint of that run into the model first, "
                "or pass overwrite=True instead of resume=True to begin again."
            )
        samples.take_over(run.samples)
        # The same model in other memory (a flat vector of parameters) may no longer be told from its description.
        meta["architecture"] = meta["architecture"] or store.meta.get("architecture")
        # Copies that a kill left behind while the recording was thinned.
        store.drop(run.shadowed)
        return store, run, step
    except BaseException:
        store.close()
        raise


def _find(run: Run, row: Tensor, path: Path) -> int:
    stored = {k for k in range(len(run) + 1) if run.row(k) is not None}
    for k in sorted(stored, reverse=True):
        kept = run.row(k)
        if kept is not None and torch.equal(kept, row):
            return k
    # Between stored rows the steps are computed again, from the last stretch back.
    end = len(run)
    for k in sorted(stored, reverse=True):
        for j, computed in enumerate(run.trajectory(k, end) if end > k else ()):
            if torch.equal(computed, row):
                return k + j
        end = k - 1
    raise RecordingError(
        f"The model's parameters are none of the {len(run)} recorded steps in {path}, so the recording does not know "
        "where the loop goes on. Load the checkpoint of that run into the model first (run.parameters(k) has it for "
        "each step), or pass overwrite=True to begin again."
    )
