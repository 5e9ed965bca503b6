"""The folder beside a machine where its fit is kept while it goes on, and which fit that is of.

``fit.json`` in it says so: a checksum of the data, the kernel, the precision and the settings. So a command tells what
it can go on with, and removes nothing that a command like it did not make.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import DataError, StoreBusy, StoreError
from ..storage import Store
from ..storage.files import disk_errors, make_folder, read_file, write_atomically
from ..storage.strict import parse, sealed
from .telling import near

NAME, LIMIT = "fit.json", 2**16

#: What the folder holds beside its description, and which of its entries each of them depends on.
PARTS = {"tiles": ("data", "kernel", "precision"),
         "checkpoint": ("data", "kernel", "precision", "ridge", "patience", "memory", "processes", "version")}

#: The entries in words.
WORDS = {"data": "the samples", "kernel": "the kernel", "precision": "the precision", "ridge": "the ridge",
         "patience": "the patience", "memory": "--memory", "processes": "the number of processes",
         "version": "the version of kernelscope"}


class Work:
    """A folder for the work of one fit.

    Args:
        folder: The folder; it need not be there.
        fit: What the fit is of, in plain words.
    """

    def __init__(self, folder: Path, fit: dict[str, str]):
        self.folder, self._fit = folder, fit
        self._there = _described(folder)

    def stale(self) -> dict[str, list[str]]:
        """The parts that are there and are of another fit, with what differs, in words."""
        if self._there is None:
            return {}
        found = {part: [WORDS[name] for name in names if self._there.get(name) != self._fit[name]]
                 for part, names in PARTS.items() if (self.folder / part).exists()}
        return {part: other for part, other in found.items() if other}

    def check(self, overwrite: bool) -> None:
        """Refuses a folder whose work is that of another fit, unless it may be replaced.

        Raises:
            DataError: If it is.
        """
        stale = self.stale()
        if stale and not overwrite:
            other = ", ".join(dict.fromkeys(word for words in stale.values() for word in words))
            raise DataError(f"{near(self.folder)} holds the work of another fit, which differs in {other}. Add "
                            f"--overwrite to replace it, delete {near(self.folder)}, or name another machine with -o.")

    def begin(self) -> None:
        """Removes what is of another fit, and says what the folder is of; other folders than its own it leaves alone.

        Raises:
            StoreBusy: If another process fits there.
            StoreError: If something cannot be removed.
        """
        if self._there is None and self.folder.is_dir() and any(self.folder.iterdir()):
            return
        make_folder(self.folder)
        for part in self.stale():
            path = self.folder / part
            try:
                Store.resume(path, kind="checkpoint").close()
            except StoreBusy:
                raise
            except StoreError:
                pass  # tiles, or a state that is damaged
            if path.is_symlink():
                raise StoreError(f"{near(path)} is a link, and what it leads to is not removed. Remove the link.")
            with disk_errors(path, 0):
                shutil.rmtree(path)
        with disk_errors(self.folder / NAME, 0):
            write_atomically(self.folder / NAME, sealed(self._fit))

    def end(self, keeps: bool) -> None:
        """Removes the state of the fit, whose machine is there, and the folder if nothing else is in it.

        Args:
            keeps: Whether the state stays.
        """
        if not keeps:
            shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)
        with suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {NAME}:
                (self.folder / NAME).unlink(missing_ok=True)
                self.folder.rmdir()


def _described(folder: Path) -> dict[str, Any] | None:
    """What a folder says it is of; ``None`` if no command like this made it."""
    try:
        data = read_file(folder, NAME, LIMIT)
        found = parse(data or b"", folder / NAME, depth=3)
        body = found["body"] if isinstance(found, dict) else None
        return body if isinstance(body, dict) and sealed(body) == data else None
    except (OSError, KeyError, StoreError):
        return None
