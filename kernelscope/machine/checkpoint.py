r"""Where a fit stands, kept in a folder, so that the same call goes on from there.

A checkpoint knows what it belongs to: checksums of the data, the kernel and the settings. A call that differs in one of
them is refused. What a solver needs to go on is kept as it is, so the coefficients of a fit that was interrupted are
those of one that was not, bit for bit, on one machine with as many threads.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_path
from ..errors import DataError, StoreCorrupt
from ..storage import Store

#: The share of the time that may go into writing.
SHARE = 0.05

#: What is said of each setting that differs.
MEANINGS = {
    "x": "the points", "y": "the targets", "weights": "the weights", "z": "the centers", "kernel": "the kernel",
    "ridge": "ridge", "intercept": "intercept", "solver": "the solver", "memory": "memory, by which sums are cut",
    "dtype": "the precision", "tiles": "the tiles", "processes": "the number of processes",
    "patience": "patience, or what the error is looked at on", "version": "the version of kernelscope",
}


class Checkpoint:
    """A folder that holds where a fit stands.

    Args:
        folder: The folder; it is made if need be.
        belongs: What the fit is of, in plain words and numbers.
        writes: Whether this process writes; of several that fit together, only one does.

    Attributes:
        tensors: What was kept last, or ``None``.
        meta: What was said of it.
        choice: The name of the solver that was chosen when the fit began, or ``None``.

    Raises:
        DataError: If the folder holds where another fit stands.
        StoreBusy: If another process fits into it.
    """

    def __init__(self, folder: str | os.PathLike[str], belongs: dict[str, Any], writes: bool = True):
        self.folder = as_path(folder, "checkpoint", '"checkpoints/digits"')
        self.belongs, self._writes = belongs, writes
        self._store: Store | None = None
        self._written, self._took = time.monotonic(), 0.0
        self.tensors: dict[str, Tensor] | None = None
        self.meta: dict[str, Any] = {}
        self.choice: str | None = None
        if (Path(self.folder) / "manifest.json").exists():
            self._store = (Store.resume if writes else Store.open)(self.folder, kind="checkpoint")
            try:
                self._take_up(self._store)
            except BaseException:
                self._store.close()
                raise

    def begin(self, choice: str | None) -> None:
        """Makes the folder, if it is not there already; and says with which solver."""
        if self._store is None and self._writes:
            self._store = Store.create(self.folder, kind="checkpoint", meta={"belongs": self.belongs, "choice": choice})
            self.choice = choice

    def tensors_on(self, device: torch.device) -> dict[str, Tensor] | None:
        """What was kept last, on the device where it was; on a machine that has another, on that."""
        if self.tensors is None:
            return None
        return {name: t.to(device) if name in self.meta["away"] else t for name, t in self.tensors.items()}

    def due(self) -> bool:
        """Whether it is time to write: so rarely that it takes next to nothing of the time."""
        return time.monotonic() - self._written >= self._took / SHARE

    def keep(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Writes where the fit stands; what was kept before is dropped when this is on the disk."""
        if not self._writes:
            return
        assert self._store is not None
        start = time.monotonic()
        # How a tensor lies in memory decides in which order it is summed.
        strides = {name: list(t.stride()) for name, t in tensors.items() if not t.is_contiguous()}
        away = [name for name, t in tensors.items() if t.device.type != "cpu"]
        kept = self._store.append({name: t.cpu() for name, t in tensors.items()},
                                  meta | {"strides": strides, "away": away})
        self._store.drop([segment.name for segment in self._store.segments if segment.name != kept.name])
        self._written = time.monotonic()
        self._took = self._written - start

    def close(self) -> None:
        """Lets the next process in."""
        if self._store is not None:
            self._store.close()

    def _take_up(self, store: Store) -> None:
        try:
            belongs, self.choice = store.meta["belongs"], store.meta["choice"]
        except KeyError as error:
            raise StoreCorrupt(f"{self.folder} holds no checkpoint of a fit ({error} is missing). Name another "
                               "folder.") from error
        other = [MEANINGS.get(name, name) for name in self.belongs if belongs.get(name) != self.belongs[name]]
        if other:
            raise DataError(
                f"{self.folder} holds where another fit stands: it differs in {', '.join(other)}. Call fit as it was "
                "called then to go on with it, or name another folder to begin anew. Nothing was changed."
            )
        if store.segments:
            last = store.segments[-1]
            self.tensors, self.meta = store.read(last), dict(last.meta)
            for name, strides in self.meta["strides"].items():
                t = self.tensors[name]
                self.tensors[name] = torch.empty_strided(t.shape, strides, dtype=t.dtype).copy_(t)
