r"""Whether a loader's ``collate_fn`` keeps the order of its samples.

Ids come from the sampler, so row j of a batch is booked on the j-th id that was drawn. A ``collate_fn`` that sorts a
batch would give each share to another sample. So the samples of the first batches are copied, and the copies are
collated together and one by one. If most of the rows that are not those of their own samples are those of others, the
order was changed. What chance does to a row (noise, crops, mixing) makes it equal to no sample, or not three times.
"""

from __future__ import annotations

import copy
import functools
import inspect
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate, default_convert

from ..errors import RecordingError
from ..nested import leaves
from .comparing import random_numbers_kept

#: Batches that are looked at, by each worker; iterations in which it is done, since the first may be a glance.
BATCHES, ITERATIONS = 2, 2

#: Samples of a batch that are collated alone, and how many bytes they may have together.
SAMPLES, BYTES = 64, 2**26

#: How often the rows must be found in other places.
TIMES = 3

#: How deep within a ``collate_fn`` random generators of its own are looked for.
DEPTH = 4


class Order:
    """What was seen of the order in a loader's batches."""

    def __init__(self) -> None:
        self._left = ITERATIONS
        # A row, and one more than the place of the sample in it; workers write it too.
        self._found: Tensor | None = None

    @contextmanager
    def watched(self, loader: DataLoader[Any]) -> Iterator[None]:
        """Within it the loader makes an iterator whose first batches are looked at."""
        collate: Any = loader.__dict__.get("collate_fn")
        if not self._left or any(collate is plain for plain in (None, default_collate, default_convert)):
            yield
            return
        self._left -= 1
        self._found = torch.zeros(2, dtype=torch.int64)
        if loader.num_workers:
            self._found.share_memory_()
        loader.__dict__["collate_fn"] = _Watched(collate, self._found)
        try:
            yield
        finally:
            loader.__dict__["collate_fn"] = collate

    def refuse(self) -> None:
        """Raises if a row was found that is not that of its sample.

        Raises:
            RecordingError: If there is one.
        """
        if self._found is not None and bool(self._found[1]):
            row, place = self._found.tolist()
            raise RecordingError(
                f"The loader's collate_fn changes the order of samples: row {row} of a batch is the sample at place "
                f"{place - 1} of those that were drawn for it, so ids would stand for other samples and shares be "
                "booked on the wrong ones. Keep the order in collate_fn (sort within the network, where it must be), "
                "or let batches name their samples and pass ids=lambda batch: ... to record(...)."
            )


class _Watched:
    """A ``collate_fn`` that is looked at in its first calls."""

    def __init__(self, collate: Callable[[Any], Any], found: Tensor):
        self._collate, self._found, self._left = collate, found, BATCHES

    def __call__(self, samples: Any) -> Any:
        if self._left:
            self._left -= 1
            moved = moved_row(self._collate, samples)
            if moved is not None:
                self._found.copy_(torch.tensor([moved[0], moved[1] + 1]))
        return self._collate(samples)


def collated(loader: DataLoader[Any], places: Sequence[int]) -> Any:
    """Some samples put together as the loader would; neither the samples nor random states are changed."""
    collate: Any = loader.collate_fn
    with random_numbers_kept(), _own_generators_kept(collate), _own_generators_kept(loader.dataset):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _apart(collate)([_copied(loader.dataset[i]) for i in places])


def moved_row(collate: Callable[[Any], Any], samples: Any) -> tuple[int, int] | None:
    """A row that is not that of its own sample, and the place of the sample it is; ``None`` if it is not known.

    Neither the samples nor random states are changed.

    Example:
        >>> moved_row(lambda samples: torch.stack(samples[::-1]), [torch.tensor(1), torch.tensor(2)])
        (0, 1)
    """
    if not isinstance(samples, list | tuple) or len(samples) < 2:
        return None
    try:
        with random_numbers_kept(), _own_generators_kept(collate), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            collate = _apart(collate)
            few = _few(samples)
            alone = [leaves(collate([_copied(sample)])) for sample in few]
            for _ in range(TIMES):
                moved = _moved(leaves(collate(_copied(few))), alone)
                if moved is None:
                    break
    # Whatever a collate_fn of the user's own says to a sample alone is no fault of the loop.
    except Exception:  # noqa: BLE001
        return None
    return moved


def _moved(tables: list[Tensor], alone: list[list[Tensor]]) -> tuple[int, int] | None:
    count = len(alone)
    if count < 2 or any(len(own) != len(tables) for own in alone):
        return None
    # Each row is compared in those tensors that have one for each sample.
    places = [i for i, t in enumerate(tables)
              if t.shape[:1] == (count,) and all(own[i].shape[:1] == (1,) for own in alone)]
    rows = [[tables[i][j] for i in places] for j in range(count)]
    owns = [[own[i][0] for i in places] for own in alone]
    others = [j for j in range(count) if not all(map(_agree, rows[j], owns[j]))]
    found = [(j, k) for j in others for k in [_holder(rows[j], owns)] if k is not None]
    return found[0] if 2 * len(found) > len(others) else None


def _holder(row: list[Tensor], owns: list[list[Tensor]]) -> int | None:
    return next((k for k, own in enumerate(owns) if all(map(_holds, row, own))), None)


def _agree(row: Tensor, own: Tensor) -> bool:
    """Whether a row may be that of a sample, padded or cut; so may one of another kind."""
    if row.dtype != own.dtype or row.ndim != own.ndim:
        return True
    least = [min(pair) for pair in zip(row.shape, own.shape, strict=True)]
    return any(torch.equal(row[_corner(row, least, end)], own[_corner(own, least, end)]) for end in (False, True))


def _holds(row: Tensor, own: Tensor) -> bool:
    """Whether a row is that of a sample, and padding of one value."""
    if row.dtype != own.dtype or row.ndim != own.ndim or any(a < b for a, b in zip(row.shape, own.shape, strict=True)):
        return False
    for end in (False, True):
        corner = _corner(row, list(own.shape), end)
        if torch.equal(row[corner], own):
            rest = torch.ones_like(row, dtype=torch.bool)
            rest[corner] = False
            return len(row[rest].unique()) < 2
    return False


def _corner(t: Tensor, shape: list[int], end: bool) -> tuple[slice, ...]:
    return tuple(slice(n - m, n) if end else slice(0, m) for n, m in zip(t.shape, shape, strict=True))


def _few(samples: list[Any] | tuple[Any, ...]) -> list[Any]:
    """Copies of the first samples, as many as may be copied."""
    few: list[Any] = []
    left = BYTES
    for sample in samples[:SAMPLES]:
        left -= _size(sample)
        if left < 0:
            break
        few.append(_copied(sample))
    return few


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_size, value)) if isinstance(value, list | tuple) else getattr(value, "nbytes", 0)


def _copied(value: Any) -> Any:
    # A deep copy of a view would copy the whole data set that it is a view of.
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, list | tuple):
        items = [_copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    value = copy.copy(value)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _copied(item)
    return value


def _apart(collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A ``collate_fn`` that counts or remembers, as an object of its own."""
    if isinstance(collate, MethodType):
        return MethodType(collate.__func__, copy.copy(collate.__self__))
    return copy.copy(collate)


@contextmanager
def _own_generators_kept(collate: Any) -> Iterator[None]:
    """Within it a ``collate_fn`` may draw from generators of its own; afterwards they are as they were."""
    with ExitStack() as stack:
        for value in _reached(collate, DEPTH, {}):
            if isinstance(value, torch.Generator):
                stack.callback(value.set_state, value.get_state())
            elif isinstance(value, random.Random):
                stack.callback(value.setstate, value.getstate())
            elif isinstance(value, np.random.RandomState):
                stack.callback(value.set_state, value.get_state())
            elif isinstance(value, np.random.Generator):
                stack.callback(setattr, value.bit_generator, "state", value.bit_generator.state)
        yield


def _reached(value: Any, depth: int, seen: dict[int, Any]) -> Iterator[Any]:
    """What a function or an object refers to."""
    if id(value) in seen or isinstance(value, Tensor | np.ndarray | str | bytes | int | float | type):
        return
    seen[id(value)] = value
    yield value
    near: list[Any] = []
    if isinstance(value, functools.partial):
        near = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        near = [value.__self__, value.__func__]
    elif inspect.isfunction(value):
        variables = inspect.getclosurevars(value)
        near = [*variables.nonlocals.values(), *variables.globals.values()]
    elif isinstance(value, Mapping):
        near = list(value.values()) if len(value) <= SAMPLES else []
    elif isinstance(value, list | tuple):
        near = list(value) if len(value) <= SAMPLES else []
    elif not inspect.ismodule(value):
        near = list(getattr(value, "__dict__", {}).values())
    for item in near if depth else ():
        yield from _reached(item, depth - 1, seen)
