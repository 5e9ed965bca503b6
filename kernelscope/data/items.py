"""Points that are the samples of a data set, put together as its loader would.

A loader says in which order its samples come and how they are put together; its workers are not needed, and never
started. A data set that draws random numbers draws the same ones for a point whenever it is read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from ..errors import DataError
from .columns import InMemory, chosen

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Items:
    """The samples of a data set in some order.

    Args:
        data: Something with samples by their number.
        collate: What puts a list of samples together.
        order: Their numbers in the data set, in the order of the points.
    """

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any] = default_collate,
                 order: Sequence[int] | None = None):
        self.data, self.collate, self.batched = data, collate, order is not None
        self.order = range(len(data)) if order is None or order == list(range(len(data))) else order
        # Nothing but tensors need not be put together one by one.
        plain = isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__
        self._columns = [InMemory(t) for t in data.tensors] if plain and collate is default_collate else None

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, numbers: Sequence[int]) -> Any:
        """Some of the points, put together."""
        if self._columns is not None:
            own = chosen(self.order, numbers)
            return [column.rows(own) for column in self._columns]
        with _same_random_numbers() as start:
            samples = []
            for number in numbers:
                start(number)
                samples.append(self.data[self.order[number]])
            try:
                return self.collate(samples)
            # What collating says of samples that do not fit together.
            except (RuntimeError, TypeError, ValueError, KeyError) as error:
                besides = (" They are read in groups of another size than the batches of the loader, so samples of all "
                           "batches must go together: by a collate_fn that pads, say." if self.batched else "")
                raise DataError(
                    f"The samples {numbers[0]} to {numbers[-1]} could not be put together ({error}). Pass a loader "
                    f"whose collate_fn can, or a data set of tensors of one shape.{besides}"
                ) from error


def items_of(x: Any) -> Items | None:
    """The samples of a data set, of a loader or of a sequence; ``None`` if ``x`` is none of these.

    Raises:
        DataError: If its samples have no number, or come in an order that nobody knows.
    """
    if isinstance(x, DataLoader):
        _check_map_style(x.dataset, "the loader's data set")
        return Items(x.dataset, x.collate_fn, _order(x))
    if isinstance(x, Dataset):
        _check_map_style(x, "the data set")
        return Items(x)
    if isinstance(x, str | torch.nn.Module) or not (hasattr(x, "__getitem__") and hasattr(x, "__len__")):
        return None
    try:
        with _same_random_numbers():
            first = x[0] if len(x) else None
    except (KeyError, IndexError, TypeError):
        # A table is read by the names of its columns.
        return None
    return None if first is None or isinstance(first, int | float | str | bytes | list) else Items(x)


def _check_map_style(data: Any, what: str) -> None:
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise DataError(
            f"Points are read by their number, and {what} is iterable and has none. Collect its samples into tensors, "
            "or pass a map-style data set."
        )


def _order(loader: DataLoader[Any]) -> list[int]:
    """The numbers of a loader's samples, as it gives them."""
    batches: Any = loader.batch_sampler
    if batches is None:
        raise DataError(
            "The loader has batch_size=None, so nobody knows how many points each of its items holds. Pass a loader "
            "with a batch size, or its data as tensors or files."
        )
    samplers = (loader.sampler, batches, getattr(batches, "sampler", None))
    known = not any(isinstance(s, _RANDOM) or getattr(s, "shuffle", False) is True for s in samplers)
    with _same_random_numbers():
        orders = [list(chain.from_iterable(batches)) for _ in range(2)] if known and _ends(batches) else []
    if not orders or orders[0] != orders[1]:
        raise DataError(
            "The loader shuffles, so the rows of the answer would belong to no known point. Pass its data set "
            "(loader.dataset), or a loader with shuffle=False."
        )
    return orders[0]


def _ends(batches: Any) -> bool:
    """Whether batches have a length; those that have none may go on for ever."""
    try:
        return len(batches) >= 0
    except TypeError:
        return False


@contextmanager
def _same_random_numbers() -> Iterator[Callable[[int], None]]:
    """Gives what starts the random numbers of one point anew, and puts the user's own back at the end."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002

    def start(number: int) -> None:
        torch.default_generator.manual_seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        random.seed(number)

    try:
        yield start
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        random.setstate(saved[2])
