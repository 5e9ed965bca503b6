"""Columns of points: one row for each, read by their numbers, from memory or from files.

A file is opened when rows of it are asked for, and only these rows are read; so that points may be more than memory
holds, and in more files than a process may keep open.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, UnsafeFile

#: The files that are read, by the ends of their names.
KINDS = (".npy", ".safetensors")


class Column(Protocol):
    """One row for each point."""

    @property
    def shape(self) -> Sequence[int]:
        """The number of rows, and the shape of one."""

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """Some of the rows."""


class InMemory:
    """The rows of a tensor, or of an array."""

    def __init__(self, values: Tensor | np.ndarray):
        if isinstance(values, np.ndarray):
            _check_kind(values.dtype, "an array")
            if isinstance(values, np.ma.MaskedArray):
                raise DataError("Points have values, and a masked array came, some of whose numbers are said to be "
                                "none. Leave these points out, or fill in numbers: x.filled(0.0).")
        elif values.layout != torch.strided:
            raise DataError(f"Points are dense tensors, and one is {values.layout}. Use x.to_dense().")
        elif values.is_meta:
            raise DataError("Points have values, and a tensor came that has only a shape (device meta). Load it first.")
        self.values, self.shape = values, tuple(values.shape)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        some = self.values[_key(numbers)]
        return some.detach() if isinstance(some, Tensor) else _as_tensor(some)


class ArrayFile:
    """The rows of an array in an ``.npy`` file."""

    def __init__(self, path: Path):
        self.path = path
        values = self._open()
        _check_kind(values.dtype, str(path))
        self.shape = values.shape

    def rows(self, numbers: Sequence[int]) -> Tensor:
        return _as_tensor(self._open()[_key(numbers)])

    def _open(self) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):  # a size that no file has is refused below
                values = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OverflowError, SyntaxError, TokenError) as error:
            raise UnsafeFile(
                f"{self.path} is no plain array ({error}). Only arrays of numbers are read; save them with numpy.save."
            ) from error
        if not isinstance(values, np.ndarray):
            raise UnsafeFile(f"{self.path} holds several arrays under the name of one. Save each with numpy.save.")
        return values


class TensorFile:
    """The rows of one tensor in a ``.safetensors`` file."""

    def __init__(self, path: Path, name: str, shape: Sequence[int]):
        self.path, self.name, self.shape = path, name, tuple(shape)

    def rows(self, numbers: Sequence[int]) -> Tensor:
        key = _key(numbers)
        with _tensors_of(self.path) as file:
            stored = file.get_slice(self.name)
            return stored[key] if isinstance(key, slice) else torch.cat([stored[i:i + 1] for i in key])


class Stacked:
    """Columns one after the other, as one."""

    def __init__(self, parts: list[Column], what: str):
        forms = {tuple(part.shape[1:]) for part in parts}
        if len(forms) > 1:
            raise DataError(f"The parts of {what} hold rows of different shapes, {sorted(forms)}. Save them alike.")
        self.parts, self.starts = parts, [0]
        for part in parts:
            self.starts.append(self.starts[-1] + part.shape[0])
        self.shape = (self.starts[-1], *parts[0].shape[1:])

    def rows(self, numbers: Sequence[int]) -> Tensor:
        found, i = [], 0
        while i < len(numbers):
            place = bisect_right(self.starts, numbers[i]) - 1
            first, last = self.starts[place:place + 2]
            j = i
            while j < len(numbers) and first <= numbers[j] < last:
                j += 1
            own = numbers[i:j]
            found.append(self.parts[place].rows(
                range(own.start - first, own.stop - first, own.step) if isinstance(own, range)
                else [number - first for number in own]))
            i = j
        return torch.cat(found)


def chosen(numbers: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    """The numbers at some places; in a row if both are."""
    if isinstance(places, range) and places.step == 1:
        return numbers[places.start:places.stop]
    return [numbers[i] for i in places]


def columns_of(x: Any) -> list[Column] | dict[str, Column] | None:
    """The columns that ``x`` is made of, by place or by name; ``None`` if it is something else.

    Raises:
        DataError: If they have different numbers of rows, or a file is missing or holds something else.
    """
    found: list[Column] | dict[str, Column]
    if isinstance(x, Mapping | tuple | list) and not x:
        raise DataError(f"There are no points: an empty {type(x).__name__} came. Pass at least one tensor.")
    x = _as_array(x)
    if isinstance(x, Mapping):
        found = {str(name): _column(value, f"the entry {str(name)!r}") for name, value in x.items()}
    elif is_column(x):
        paths = _paths(x)
        if paths and paths[0].suffix == ".safetensors":
            found = _by_name(paths)
        else:
            found = [_column(x, "the points")]
    # One tensor, and the rest are none: these are columns, of which some are no tensors yet, and no samples.
    elif isinstance(x, tuple | list) and (all(is_column(value) for value in x)
                                          or any(isinstance(_as_array(value), Tensor | np.ndarray) for value in x)):
        found = [_column(value, f"entry {place} of the points") for place, value in enumerate(x)]
    else:
        return None
    each = list(found.values()) if isinstance(found, dict) else found
    if any(not column.shape for column in each) or len({column.shape[0] for column in each}) > 1:
        raise DataError(
            f"Each point needs one row of each tensor; they have shapes {_shapes(each)}. "
            f"A single point needs a leading axis: x[None].{_OF_A_LIST if isinstance(x, list) else ''}"
        )
    return found


#: What a list of tensors may have been meant for.
_OF_A_LIST = (" The tensors of a list are inputs of one network, side by side; points that come one by one are put "
              "together by torch.stack(x), and batches of them by torch.cat(x).")


def _shapes(columns: Sequence[Column]) -> str:
    """The shapes of the first columns; a list of points taken for columns has many."""
    shown = ", ".join(str(tuple(column.shape)) for column in columns[:4])
    return f"{shown}, and {len(columns) - 4} more" if len(columns) > 4 else shown


def _as_array(x: Any) -> Any:
    """A table or a series of numbers, as those of pandas are, as an array; anything else as it is.

    Raises:
        DataError: If it holds something else than numbers.
    """
    if isinstance(x, Tensor | np.ndarray | type) or not callable(getattr(x, "to_numpy", None)):
        return x
    values = x.to_numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        kinds: Any = getattr(getattr(x, "dtypes", None), "items", tuple)()
        odd = [f"{str(name)!r} ({kind})" for name, kind in kinds if getattr(kind, "kind", "O") not in "biuf"]
        what = f"its column {odd[0]} does not" if odd else f"this one holds {getattr(values, 'dtype', 'other things')}"
        raise DataError(
            f"A {type(x).__name__} of points holds numbers in every column, and {what}. Choose columns of numbers, or "
            "make them numbers of one kind first, as x.astype('float32') does."
        )
    return values


def is_column(x: Any) -> bool:
    """Whether something is one column: a tensor, an array, a table, or the path of files."""
    return isinstance(_as_array(x), Tensor | np.ndarray | str | Path) or _paths(x) is not None


def _paths(x: Any) -> list[Path] | None:
    """A path, or a list of them, as a list."""
    if isinstance(x, str | Path):
        return [Path(x)]
    if isinstance(x, list) and x and all(isinstance(path, str | Path) for path in x):
        return [Path(path) for path in x]
    return None


def _column(x: Any, what: str) -> Column:
    x = _as_array(x)
    if isinstance(x, Tensor | np.ndarray):
        return InMemory(x)
    paths = _paths(x)
    if paths is None:
        raise DataError(f"Points are tensors, and {what} is a {type(x).__name__}. Leave it out, or make it a tensor.")
    for path in paths:
        _check_file(path, KINDS[:1], "It stands for one column, so ")
    files: list[Column] = [ArrayFile(path) for path in paths]
    return files[0] if len(files) == 1 else Stacked(files, what)


def _by_name(paths: list[Path]) -> dict[str, Column]:
    """The tensors of files that hold several by name."""
    tables: list[dict[str, Column]] = []
    for path in paths:
        _check_file(path, KINDS[1:], "The first file is one of named tensors, so ")
        with _tensors_of(path) as file:
            tables.append({name: TensorFile(path, name, file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    if any(set(table) != set(tables[0]) for table in tables):
        raise DataError(f"The files hold tensors of different names, {[sorted(table) for table in tables]}.")
    return {name: tables[0][name] if len(tables) == 1 else Stacked([table[name] for table in tables], name)
            for name in sorted(tables[0])}


def _check_file(path: Path, kinds: Sequence[str], why: str) -> None:
    if path.suffix not in KINDS:
        raise DataError(
            f"Points are read from .npy and .safetensors files, and {path.name!r} is neither. Save them with "
            "numpy.save."
        )
    if path.suffix not in kinds:
        raise DataError(f"{why}{path.name!r} cannot stand here. Pass {kinds[0]} files.")
    if not path.is_file():
        raise DataError(f"There is no file {path}. Check its name and folder.")


def _tensors_of(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UnsafeFile(f"{path} is no file of tensors ({error}). Save them with safetensors.") from error


def _check_kind(dtype: np.dtype, what: str) -> None:
    try:
        torch.from_numpy(np.empty(0, dtype.newbyteorder("=")))
    except TypeError as error:
        raise DataError(f"Points are arrays of numbers, and {what} holds {dtype}. Make it float32 or int64.") from error


def _as_tensor(values: np.ndarray) -> Tensor:
    # A copy, in the byte order of this machine: what is in a file may not be written to.
    return torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))


def _key(numbers: Sequence[int]) -> slice | list[int]:
    if isinstance(numbers, range) and numbers.step == 1:
        return slice(numbers.start, numbers.stop)
    return list(numbers)
