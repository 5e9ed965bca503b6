"""Tensors that wait on the disk until they are needed, where memory is too small for them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, fields, is_dataclass, replace
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..budget import as_words
from ..errors import OutOfBudget
from ..storage.files import disk_errors


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the file."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Aside:
    """A file that no one else sees, and that is gone with the last reader.

    Only what Python's own objects do not hold lies in it: numbers are read as numbers, and nothing is unpickled.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._end = 0

    def put(self, tensor: Tensor) -> Place:
        """Writes a tensor, and tells where it is.

        Raises:
            StoreFull: If there is no room.
        """
        place = Place(self._end, tensor.shape, tensor.dtype, tensor.device)
        self._end += tensor.nbytes
        with disk_errors(Path(tempfile.gettempdir()), tensor.nbytes):
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(place.offset)
            whole = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            while whole:
                whole = whole[self._file.write(whole):]
        return place

    def get(self, place: Place) -> Tensor:
        """The tensor at a place."""
        size = prod(place.shape) * place.dtype.itemsize
        numbers = np.empty(size, dtype=np.uint8)
        with disk_errors(Path(tempfile.gettempdir()), 0):
            assert self._file is not None
            self._file.seek(place.offset)
            rest = memoryview(numbers.data)
            while rest:
                read = self._file.readinto(rest)  # type: ignore[attr-defined]
                if not read:
                    raise OSError("the file ends too early")
                rest = rest[read:]
        return torch.from_numpy(numbers).view(place.dtype).view(place.shape).to(place.device)

    def put_all(self, value: Any) -> Any:
        """A value, of data classes and dictionaries, with places for its tensors."""
        return _mapped(value, Tensor, self.put)

    def get_all(self, value: Any) -> Any:
        """The value that :meth:`put_all` took."""
        return _mapped(value, Place, self.get)

    def close(self) -> None:
        """Lets go of the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._end = None, 0


def check_room(needed: int) -> None:
    """Refuses to put aside what the disk has no room for.

    Raises:
        OutOfBudget: If it has not.
    """
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutOfBudget(
            f"Steps that do not fit into memory wait on the disk, {as_words(needed)} of them at a time, and {folder} "
            f"has {as_words(free)} left. Point TMPDIR to a disk with room, raise memory, or record with a smaller "
            "keep, which keeps the parameters at more steps."
        )


def _mapped(value: Any, kind: type, change: Any) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(part, kind, change) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type) and not isinstance(value, Place):
        return replace(value, **{f.name: _mapped(getattr(value, f.name), kind, change) for f in fields(value)})
    return value
