"""Points from wherever they are: tensors, data sets, loaders, dictionaries of a tokenizer, files.

A kernel asks for points in parts, by their number. Whatever is handed in becomes something with a length that gives
the part from one number to another, so that nothing has to fit in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler, default_collate
from torch.utils.data import WeightedRandomSampler

from ..errors import DataError, NonFiniteError, UnsafeFile

#: The entry of a dictionary that holds targets, as tokenizers and trainers name it.
LABELS = "labels"


class Part(NamedTuple):
    """Some points: what the network takes by position, what it takes by name, and their targets."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any


class Points:
    """Points with a length, read in parts.

    Args:
        count: How many there are.
        read: From first and last number to the points between, the last one left out.
    """

    def __init__(self, count: int, read: Callable[[int, int], Part]):
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def part(self, start: int, stop: int) -> Part:
        """The points from ``start`` to ``stop``."""
        return self._read(start, min(stop, self._count))

    def chosen(self, numbers: Sequence[int]) -> Points:
        """Some of the points, in the order of their numbers."""
        def read(start: int, stop: int) -> Part:
            parts = [self.part(i, i + 1) for i in numbers[start:stop]]
            return Part(*_joined([tuple(part) for part in parts]))

        return Points(len(numbers), read)


def as_points(x: Any, targets: bool = False) -> Points:
    """Makes points of what a user has.

    Args:
        x: A tensor or an array with one row for each point; a tuple of them for a network of several inputs; a
            dictionary of them, whose entries are given by name; a map-style data set; a loader that does not shuffle;
            the path of an ``.npy`` file, which is read in parts, or a list of such paths.
        targets: Whether the last entry of each tuple (of a dictionary, the entry ``labels``) is the target.

    Raises:
        DataError: If it is none of these; the message says what to pass.

    Example:
        >>> points = as_points((torch.arange(6.0).view(3, 2), torch.arange(3)), targets=True)
        >>> len(points), points.part(1, 3).targets
        (3, tensor([1, 2]))
    """
    if isinstance(x, Points):
        return x
    if isinstance(x, str | Path):
        return _of_rows(_file(Path(x)), targets)
    if isinstance(x, DataLoader):
        return _of_loader(x, targets)
    if isinstance(x, Tensor | np.ndarray | Mapping) or _is_tuple_of_arrays(x):
        return _of_rows(x, targets)
    if isinstance(x, list) and x and all(isinstance(path, str | Path) for path in x):
        return _one_after_the_other([as_points(path, targets) for path in x])
    if isinstance(x, IterableDataset) or (isinstance(x, Dataset) and not hasattr(x, "__len__")):
        raise DataError(
            "Points are read by their number, and an iterable data set has none. Collect its samples into tensors, or "
            "pass a map-style data set."
        )
    if isinstance(x, Dataset) or (hasattr(x, "__getitem__") and hasattr(x, "__len__") and not isinstance(x, str)
                                  and len(x) and not isinstance(x[0], int | float | list)):
        return _of_items(x, default_collate, targets)
    raise DataError(
        "Points must be a tensor with one row for each, a tuple or a dictionary of tensors, a data set, a loader that "
        f"does not shuffle, or the path of an .npy file; a {type(x).__name__} came. Use torch.as_tensor(x)."
    )


def _is_tuple_of_arrays(x: Any) -> bool:
    return isinstance(x, list | tuple) and len(x) > 0 and all(isinstance(t, Tensor | np.ndarray) for t in x)


def _of_rows(x: Any, targets: bool) -> Points:
    """Points whose parts are slices of arrays."""
    rows = _tensors(x)
    counts = {len(t) if t.ndim else 0 for t in rows}
    if len(counts) != 1 or any(t.ndim == 0 for t in rows):
        raise DataError(
            f"Each point needs one row of each tensor; they have shapes {[tuple(t.shape) for t in rows]}. "
            "A single point needs a leading axis: x[None]."
        )
    return Points(counts.pop(), lambda start, stop: _split(_sliced(x, start, stop), targets))


def _of_items(data: Any, collate: Callable[[list[Any]], Any], targets: bool,
              order: Sequence[int] | None = None) -> Points:
    """Points whose parts are collated from single items."""
    numbers = range(len(data)) if order is None else order

    def read(start: int, stop: int) -> Part:
        # Data sets may draw random numbers, which are the user's.
        with torch.random.fork_rng(devices=[]):
            batch = collate([data[i] for i in numbers[start:stop]])
        if not targets and isinstance(batch, list | tuple) and len(batch) > 1:
            # A data set gives its targets too, and inputs alone are asked for.
            batch = batch[:-1]
        return _split(tuple(batch) if isinstance(batch, list) else batch, targets)

    return Points(len(numbers), read)


def _of_loader(loader: DataLoader[Any], targets: bool) -> Points:
    if isinstance(loader.dataset, IterableDataset):
        raise DataError(
            "Points are read by their number, and the loader's iterable data set has none. Collect its samples into "
            "tensors, or pass a map-style data set."
        )
    if loader.sampler is None or isinstance(loader.sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        raise DataError(
            "The loader shuffles, so the rows of the answer would belong to no known point. Pass its data set "
            "(loader.dataset), or a loader with shuffle=False."
        )
    return _of_items(loader.dataset, loader.collate_fn, targets, list(loader.sampler))


def _one_after_the_other(parts: list[Points]) -> Points:
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))

    def read(start: int, stop: int) -> Part:
        pieces = [tuple(part.part(max(start - first, 0), stop - first)) for first, part in zip(starts, parts, strict=False)
                  if start < first + len(part) and stop > first]
        return Part(*_joined(pieces))

    return Points(starts[-1], read)


def _file(path: Path) -> np.ndarray:
    if path.suffix != ".npy":
        raise DataError(f"Points are read from .npy files, and {path.name!r} is none. Save them with numpy.save.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}. Check its name and folder.") from error
    except ValueError as error:
        raise UnsafeFile(
            f"{path} is no plain array ({error}). Only arrays of numbers are read; save them with numpy.save."
        ) from error


def _split(batch: Any, targets: bool) -> Part:
    if isinstance(batch, Mapping):
        named = {key: _checked(_tensor(value)) for key, value in batch.items()}
        if targets and LABELS not in named:
            raise DataError(f"Targets are the entry {LABELS!r} of a dictionary; it holds {sorted(named)}. Rename it.")
        side = named.pop(LABELS) if targets else None
        return Part((), named, side)
    parts = tuple(_checked(_tensor(t)) for t in (batch if isinstance(batch, list | tuple) else (batch,)))
    if not targets:
        return Part(parts, {}, None)
    if len(parts) < 2:
        raise DataError("Each point needs its target here, and only inputs came. Pass (inputs, targets).")
    return Part(parts[:-1], {}, parts[-1])


def _checked(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise NonFiniteError("The points hold NaN or infinite values. Remove these points, or mend them.")
    return value


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # Out of a file that is read in parts; the part is a copy.
        return torch.from_numpy(np.array(value))
    return value


def _sliced(x: Any, start: int, stop: int) -> Any:
    if isinstance(x, Mapping):
        return {key: value[start:stop] for key, value in x.items()}
    return tuple(t[start:stop] for t in x) if isinstance(x, list | tuple) else x[start:stop]


def _tensors(x: Any) -> list[Any]:
    found = list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, list | tuple) else [x]
    odd = next((t for t in found if not isinstance(t, Tensor | np.ndarray)), None)
    if odd is not None or not found:
        raise DataError(
            f"Points must be tensors, and a {type(odd).__name__} came. Leave out what is no tensor, or make it one."
        )
    return found


def _joined(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, list | tuple):
        return tuple(_joined([value[k] for value in values]) for k in range(len(first)))
    return first
