r"""Is a data set the one that a run was trained on?

A run keeps what reached the network, and a loop may have reshaped, converted or scaled a batch on its way there. So the
kept numbers v of some samples are compared with the given ones u. They agree if

- they are the same, in the same order or with the axes of a sample permuted; or
- they are scaled, :math:`v = a u + b` with :math:`a \neq 0`: one map for all numbers, one for each entry (as when
  features or channels are standardised), or one for each sample; found by least squares over four numbers or more, and
  true to single precision, or to that in which they were kept. Of targets the slope is positive, and no sample has a
  map of its own; or
- they are classes, as an index on one side and as a row that marks it on the other.

A relation that holds for all samples that were looked at is no accident; of the others nothing is known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from ..errors import DataError
from .run import Run

#: Samples that are compared, and how many numbers they may have together.
PROBES = 64
NUMBERS = 2**23

#: An affine map has two unknowns, and holds for any two numbers; for four it says something.
FEWEST = 4

#: Units of precision that a few operations on the way to the network may cost.
ROOM = 32


def compare_samples(run: Run, data: Any) -> None:
    """Compares some samples of a data set with those of the run; raises if they differ."""
    data = _as_data_set(data)
    if run.samples.fixed and len(data) != run.size:
        raise DataError(
            f"The run was trained on {run.size} samples, and the data given holds {len(data)}. "
            "Pass the training set itself, not the test set or a part."
        )
    seen = run.samples.seen[:run.size].nonzero().flatten()
    probes = min(PROBES, max(FEWEST, NUMBERS // max(1, sum(t[:1].numel() for t in run.samples.inputs))))
    some = seen[::max(1, -(-len(seen) // probes))]
    ids = [run.samples.ids[i] for i in some.tolist()]
    tables = _tables(data, ids)
    inputs, targets = run.samples.batch(some)
    agree = [_agree(kept, tables, targets=False) for kept in inputs]
    known = _agree(targets, tables, targets=True)
    for kept, found in zip(inputs, agree, strict=True):
        if found is None:
            raise DataError(
                f"The network saw inputs of shape {tuple(kept.shape[1:])} in training, and a sample of the data given "
                f"holds {[tuple(t.shape[1:]) for t in tables]}, so the two cannot be compared. Pass the data set as it "
                "was recorded, or leave data= out: the run keeps its own copy."
            )
    # Where a sample was seen in several forms, the one that is drawn now says nothing.
    compared = [found for found in (*(() if run.draws else agree), known) if found is not None]
    if not compared:
        raise DataError(
            "The network saw its samples in several forms, and their targets are not among what the data given holds, "
            "so nothing can be compared. Leave data= out: the run keeps its own copy."
        )
    differing = (~torch.stack(compared).all(0)).nonzero().flatten().tolist()
    if differing:
        raise DataError(
            f"{len(differing)} of {len(some)} samples compared differ from those of the run (the first is sample "
            f"{ids[differing[0]]}), and are not theirs scaled. Pass the data set as it was recorded, or leave data= "
            "out: the run keeps its own copy."
        )


def _as_data_set(data: Any) -> Any:
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, list | tuple) and data and all(isinstance(t, Tensor) for t in data) and len(
            {len(t) if t.ndim else 0 for t in data}) == 1:
        data = TensorDataset(*data)
    listed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and getattr(data, "ndim", 1) != 0
    if isinstance(data, str | bytes) or not listed:
        raise DataError(
            f"data must be the training set: a torch data set with a length, its loader, or a pair of tensors; a "
            f"{type(data).__name__} came. Leave data= out where there is none: the run keeps its own copy."
        )
    return data


def _tables(data: Any, ids: list[int]) -> list[Tensor]:
    """The numbers of some samples, a table for each place in a sample where all of them have the same shape."""
    try:
        with random_numbers_kept():
            items = [_numbers(data[i]) for i in ids]
    except (IndexError, KeyError) as error:
        raise DataError(
            f"The run names samples that the data given does not have ({type(error).__name__}: {error}). Pass the "
            "training set itself, or leave data= out: the run keeps its own copy."
        ) from error
    places = range(min(map(len, items), default=0))
    return [torch.stack([item[j] for item in items]) for j in places if len({item[j].shape for item in items}) == 1]


def _numbers(item: Any) -> list[Tensor]:
    """The tensors, arrays, pictures and numbers in a sample."""
    if isinstance(item, Tensor):
        return [item.detach().cpu()]
    if isinstance(item, Mapping):
        return [t for value in item.values() for t in _numbers(value)]
    if isinstance(item, list | tuple):
        return [t for value in item for t in _numbers(value)]
    if isinstance(item, bool | int | float) or hasattr(item, "__array__") or hasattr(item, "__array_interface__"):
        array = np.asarray(item)
        return [torch.tensor(array.copy())] if array.dtype.kind in "biuf" else []
    return []


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Within it a data set may draw; afterwards the user's random states are as they were."""
    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)  # noqa: NPY002


def _agree(kept: Tensor, tables: list[Tensor], targets: bool) -> Tensor | None:
    """Which samples agree with the table that fits best, with shape (m,); ``None`` if none has this size."""
    found: Tensor | None = None
    rows = _rows(kept)
    for given in (form for table in tables for form in _forms(table, kept, targets)):
        # The loop may have converted them on their way to the network.
        same = ((given.to(kept.dtype) if kept.is_floating_point() else given) == rows).all(1)
        if not bool(same.all()) and _scaled(rows, given, targets):
            same = torch.ones_like(same)
        if found is None or same.sum() > found.sum():
            found = same
    return found


def _rows(table: Tensor) -> Tensor:
    return table.reshape(len(table), -1)


def _forms(table: Tensor, kept: Tensor, targets: bool) -> Iterator[Tensor]:
    """The table as rows that may be those of ``kept``: as it is, with permuted axes, or as classes."""
    size, given = kept[0].numel(), table[0].numel()
    if size == given:
        yield _rows(table)
        for axes in list(permutations(range(1, table.ndim)))[1:] if table.ndim <= 4 else []:
            turned = table.permute(0, *axes)
            if turned.shape == kept.shape:
                yield _rows(turned)
    elif targets and size == 1 and not kept.is_floating_point():
        yield _rows(table).argmax(1, keepdim=True)
    elif targets and given == 1 and not table.is_floating_point() and 0 <= int(table.min()) and int(table.max()) < size:
        yield one_hot(table.flatten().long(), size)


def _scaled(kept: Tensor, given: Tensor, targets: bool) -> bool:
    """Whether kept numbers, with shape (m, d), are an affine map of the given ones, and the map is known from them."""
    if not kept.is_floating_point():
        return False
    # Numbers in double precision may have been single on the way.
    precision = max(torch.finfo(t.dtype).eps for t in (kept, given, torch.zeros(0)) if t.is_floating_point())
    v, u = kept.double(), given.double()
    shapes = [lambda t: t.reshape(1, -1), lambda t: t.T] + ([] if targets else [lambda t: t])
    return any(_affine(shape(v), shape(u), ROOM * precision, targets) for shape in shapes)


def _affine(v: Tensor, u: Tensor, precision: float, positive: bool) -> bool:
    """Whether in each row :math:`v = a u + b`, and neither side varies where the other does not."""
    if u.shape[1] < FEWEST:
        return False
    from_mean, target = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
    square = (from_mean ** 2).sum(1)
    a = torch.where(square > 0, (from_mean * target).sum(1) / square.clamp_min(torch.finfo(u.dtype).tiny), 0.0)
    limit = precision * (2 * a.abs() * u.abs().amax(1) + v.abs().amax(1))
    missed = (target - a[:, None] * from_mean).abs().amax(1)
    varies = a.abs() * from_mean.abs().amax(1) > limit
    constant = from_mean.abs().amax(1) <= precision * u.abs().amax(1)
    return bool(((missed <= limit) & (varies | constant)).all() and varies.any()
                and (not positive or (a[varies] > 0).all()))
