"""Points from wherever they are: tensors, data sets, loaders, dictionaries of a tokenizer, files.

A kernel asks for points in parts, by their number. Whatever is handed in becomes something with a length that gives
some of the points, so that nothing has to fit in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, NonFiniteError
from .columns import Column, InMemory, chosen, columns_of, is_column
from .items import items_of

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
        read: From numbers of points to these points; numbers in a row come as a range.
    """

    def __init__(self, count: int, read: Callable[[Sequence[int]], Part]):
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def part(self, start: int, stop: int) -> Part:
        """The points from ``start`` to ``stop``."""
        return self._read(range(start, min(stop, self._count)))

    def chosen(self, numbers: Sequence[int]) -> Points:
        """Some of the points, in the order of their numbers."""
        return Points(len(numbers), lambda places: self._read(chosen(numbers, places)))

    def watched(self, tell: Callable[[int], None]) -> Points:
        """The same points, which tell how many of them are read."""

        def read(numbers: Sequence[int]) -> Part:
            found = self._read(numbers)
            tell(len(numbers))
            return found

        return Points(self._count, read)


def as_points(x: Any, targets: bool = False) -> Points:
    """Makes points of what a user has.

    Args:
        x: One of these.

            - A tensor, an array or a table of numbers with one row for each point; a tuple of them, for a network of
              several inputs and for targets; a dictionary of them, whose entries the network takes by name. Targets
              stand beside a dictionary, ``(inputs, targets)``, or in it as its entry ``labels``.
            - The path of an ``.npy`` file instead of a tensor, or a list of such paths, one after the other. Or the
              path of a ``.safetensors`` file, or a list of them, instead of a dictionary. They are read in parts.
            - A map-style data set, or a sequence of samples; or a loader that does not shuffle, whose order,
              ``collate_fn`` and ``drop_last`` are kept.
        targets: Whether the last entry (of a dictionary the entry ``labels``) is the target. Without it, every entry
            of tensors and files is an input; of data sets and loaders, which give targets too, the target is left out.

    Raises:
        DataError: If it is none of these, if there are no points, or if they do not fit together.
        NonFiniteError: If points that are read hold NaN or an infinite value; minus infinity, which masks hold, is
            let through.
        UnsafeFile: If a file asks for more than arrays of numbers.

    Example:
        >>> points = as_points((torch.arange(6.0).view(3, 2), torch.arange(3)), targets=True)
        >>> len(points), points.part(1, 3).targets
        (3, tensor([1, 2]))
    """
    if isinstance(x, Points):
        return x
    if _is_beside(x) and is_column(x[1]):
        x = _with_targets(x, targets)
    columns = columns_of(x)
    if columns is not None:
        return _of_columns(columns, targets)
    items = items_of(x)
    if items is None:
        raise DataError(
            "Points must be a tensor with one row for each, a tuple or a dictionary of tensors, a data set, a loader "
            f"that does not shuffle, or the path of an .npy file; a {type(x).__name__} came. Use torch.as_tensor(x)."
        )
    return _counted(len(items), lambda numbers: _part(_inputs(items.batch(numbers), targets), targets, numbers))


def _of_columns(columns: Any, targets: bool) -> Points:
    """Points whose parts are rows of columns."""
    each: list[Column] = list(columns.values()) if isinstance(columns, dict) else list(columns)
    _check_targets(columns, targets)

    def read(numbers: Sequence[int]) -> Part:
        found = [column.rows(numbers) for column in each]
        return _part(dict(zip(columns, found, strict=True)) if isinstance(columns, dict) else found, targets, numbers)

    return _counted(each[0].shape[0], read)


def _counted(count: int, read: Callable[[Sequence[int]], Part]) -> Points:
    if not count:
        raise DataError("There are no points: what came has no rows. Pass at least one.")
    return Points(count, read)


def _is_beside(x: Any) -> bool:
    """Whether something beside inputs by name came."""
    return isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], Mapping) and not isinstance(x[1], Mapping)


def _with_targets(x: Any, targets: bool) -> dict[Any, Any]:
    """Inputs by name and the targets beside them as one dictionary."""
    inputs, side = x
    if not targets:
        raise DataError("Inputs by name came with something beside them, and without a loss points are inputs alone. "
                        "Pass the dictionary.")
    if LABELS in inputs:
        raise DataError(f"Targets came twice: beside a dictionary, and as its entry {LABELS!r}. Leave one of them out.")
    return {**inputs, LABELS: side}


def _inputs(batch: Any, targets: bool) -> Any:
    """A batch of a data set; without its target where inputs alone are asked for."""
    if _is_beside(batch):
        return _with_targets(batch, targets) if targets else _inputs(batch[0], targets)
    if targets or not isinstance(batch, Mapping | list | tuple) or len(batch) < 2:
        return batch
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != LABELS}
    return batch[:-1]


def _check_targets(batch: Any, targets: bool) -> None:
    if not targets:
        return
    if isinstance(batch, Mapping):
        if LABELS not in batch or len(batch) < 2:
            raise DataError(f"Targets are the entry {LABELS!r} of a dictionary; it holds {sorted(batch)}. Rename it.")
    elif not isinstance(batch, list | tuple) or len(batch) < 2:
        raise DataError("Each point needs its target here, and only inputs came. Pass (inputs, targets).")


def _part(batch: Any, targets: bool, numbers: Sequence[int]) -> Part:
    """A batch taken apart: what the network takes, and the targets."""
    _check_targets(batch, targets)
    if isinstance(batch, Mapping):
        named = {str(name): _tensor(value, numbers, f"the entry {str(name)!r}") for name, value in batch.items()}
        side = named.pop(LABELS) if targets else None
        return Part((), named, side)
    entries = batch if isinstance(batch, list | tuple) else (batch,)
    parts = tuple(_nested(value, numbers, f"entry {place}") for place, value in enumerate(entries))
    return Part(parts[:-1], {}, parts[-1]) if targets else Part(parts, {}, None)


def _nested(value: Any, numbers: Sequence[int], what: str) -> Any:
    if isinstance(value, tuple | list) and value:
        return tuple(_nested(inner, numbers, what) for inner in value)
    return _tensor(value, numbers, what)


def _tensor(value: Any, numbers: Sequence[int], what: str) -> Tensor:
    """A tensor with one row of numbers for each point."""
    if isinstance(value, np.ndarray):
        value = InMemory(value).rows(range(len(value)))
    if not isinstance(value, Tensor):
        raise DataError(
            f"A network takes tensors, and {what} of the points is a {type(value).__name__}. Leave it out, or make it "
            "a tensor in the data set or in collate_fn."
        )
    if value.ndim == 0 or len(value) != len(numbers):
        raise DataError(
            f"{len(numbers)} points need as many rows, and {what} of them has shape {tuple(value.shape)}. "
            "Put samples together along the first axis."
        )
    # The sum is quickly taken, and says enough in nearly all cases.
    if value.is_floating_point() and not bool(value.sum().isfinite()) and not bool(value.isfinite().all()):
        bad = (value.isnan() | (value == torch.inf)).view(len(value), -1).any(1)
        if bool(bad.any()):
            raise NonFiniteError(
                f"Point {numbers[int(bad.nonzero()[0])]} holds NaN or an infinite value, in {what}. "
                "Remove such points, or mend them."
            )
    return value.detach()
