"""What a stored run must say to be believed.

A checksum tells that bytes are those that were written; it does not tell who wrote them. Everything that a later
computation takes for granted (shapes, names, ranges, the numbers of an optimizer) is looked at once, when a run is
opened, so that a forged or foreign file ends in one sentence and not in the middle of a sweep.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import StoreCorrupt
from .calling import Calling
from .numbers import BESIDE, are_types
from .rules import RULES
from .samples import MOST
from .segments import Chunk
from .step import MicroBatch, Step

FLOATS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16,
                                                                  torch.float16)}
#: The most numbers that the parameters of one model may be.
LARGEST = 2**40


class Validator:
    """Checks a run's description once, then each of its chunks against it.

    Args:
        meta: What the store says about the run.
        where: The folder, for messages.

    Raises:
        StoreCorrupt: If the description is not that of a run.
    """

    def __init__(self, meta: dict[str, Any], where: object):
        self._where = where
        shapes = {name: self._entries(meta, name) for name in ("parameters", "frozen")}
        self.shapes, self.frozen = shapes["parameters"], shapes["frozen"]
        if len({**self.shapes, **self.frozen}) < len(self.shapes) + len(self.frozen):
            self._refuse("a parameter is listed as trained and as frozen")
        self.count = sum(math.prod(shape) for shape in self.shapes.values())
        self.dtype = FLOATS.get(str(meta.get("dtype"))) or self._refuse("its dtype is no floating-point type")
        self.samples = meta.get("samples")
        if self.samples is not None and not _is_whole(self.samples, MOST):
            self._refuse(f"its number of samples is not a whole number up to {MOST:,}")
        names = meta.get("class_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            self._refuse("its class names are not a list of words")
        for key, kind in (("loss", str | None), ("loss_options", dict | None), ("architecture", dict | None),
                          ("keep", str | int), ("notes", dict | None), ("complete", bool)):
            if not isinstance(meta.get(key, False if key == "complete" else None if key != "keep" else "all"), kind):
                self._refuse(f"{key} is of the wrong kind")
        if meta.get("calling") is not None and Calling.of(meta["calling"]) is None:
            self._refuse("it does not say how its network is called")
        cost = meta.get("cost")
        if cost is not None and not (isinstance(cost, dict) and set(cost) == {"seconds", "cpu_seconds"}
                                     and all(_is_number(value) and value >= 0 for value in cost.values())):
            self._refuse("its cost is not in seconds")

    def chunk(self, chunk: Chunk, ids: int) -> None:
        """Checks one chunk; ``ids`` is the number of samples known so far, where they have no index."""
        self._size = ids if self.samples is None else self.samples
        if chunk.ids and self.samples is not None:
            self._refuse("it lists ids of samples that have an index")
        for k, step in enumerate(chunk.steps, chunk.first):
            self._step(k, step)
        for k, row in [*chunk.rows.items(), *chunk.averages.items()]:
            if row.dtype != self.dtype or tuple(row.shape) != (self.count,):
                self._refuse(f"the parameters of step {k} are {row.dtype} of shape {tuple(row.shape)}")
        rules = {step.optimizer for step in chunk.steps} <= set(RULES)
        for k, states in chunk.states.items():
            for key, value in states.items():
                self._state(k, key, value, rules)
        for columns, *tables in chunk.samples:
            if columns.ndim != 1 or len(tables) < 2 or any(t.shape[:1] != columns.shape for t in tables):
                self._refuse("its samples are not rows of inputs and targets")
            self._columns(columns, "its samples")

    def _entries(self, meta: dict[str, Any], key: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        entries = meta.get(key)
        for entry in entries if isinstance(entries, list) else self._refuse(f"{key} is not a list"):
            shape = entry.get("shape") if isinstance(entry, dict) else None
            if not isinstance(shape, list) or not isinstance(entry.get("name"), str) or entry["name"] in found:
                self._refuse(f"an entry of {key} is not a name of its own and a shape")
            if len(shape) > 16 or not all(_is_whole(size, LARGEST) for size in shape) or math.prod(shape) > LARGEST:
                self._refuse(f"the shape of {entry['name'][:100]!r} is not a list of sizes")
            if str(entry.get("dtype")) not in FLOATS:
                self._refuse(f"the dtype of {entry['name'][:100]!r} is no floating-point type")
            found[entry["name"]] = tuple(shape)
        return found

    def _step(self, k: int, step: Step) -> None:
        if not isinstance(step.optimizer, str) or step.owner > k:
            self._refuse(f"step {k} has no optimizer")
        if step.norms.dtype != torch.float64 or tuple(step.norms.shape) != (len(self.shapes),):
            self._refuse(f"step {k} has no norm for each parameter")
        if not _is_number(step.largest) or not (step.average is None or _is_number(step.average)):
            self._refuse(f"a number of step {k} is none")
        if not isinstance(step.without, list) or not set(map(str, step.without)) <= set(self.shapes):
            self._refuse(f"step {k} names parameters that the run does not have")
        named: list[Any] = []
        for group in step.groups if isinstance(step.groups, list) else self._refuse(f"step {k} has no groups"):
            if not isinstance(group, dict) or not isinstance(group.get("names"), list):
                self._refuse(f"a group of step {k} has no parameters")
            named += group["names"]
            self._numbers(k, step.optimizer, group)
        if len(set(map(str, named))) < len(named) or not set(map(str, named)) <= set(self.shapes):
            self._refuse(f"step {k} moves parameters that the run does not have")
        if not step.batches:
            self._refuse(f"step {k} has no batch")
        for batch in step.batches:
            self._batch(k, batch)

    def _numbers(self, k: int, optimizer: str, group: dict[str, Any]) -> None:
        usuals = _defaults(optimizer)
        if "lr" in usuals and "lr" not in group:
            self._refuse(f"{optimizer} at step {k} has no learning rate")
        for name, usual in usuals.items():
            # A number that this version of torch knows and the recording's did not had its usual value.
            value = group.setdefault(name, usual)
            alike = (_is_number(value) if name == "lr" or isinstance(usual, float) else
                     isinstance(value, bool) if isinstance(usual, bool) else
                     isinstance(value, list | tuple) and len(value) == len(usual) and all(map(_is_number, value))
                     if isinstance(usual, tuple) else isinstance(value, str | bool | int | float | None))
            if not alike:
                self._refuse(f"{name} of {optimizer[:100]} at step {k} is {str(value)[:100]!r}")
        if not are_types(group.get(BESIDE, {}), group):
            self._refuse(f"the numbers that {optimizer[:100]} held as tensors at step {k} are of no known type")

    def _batch(self, k: int, batch: MicroBatch) -> None:
        if batch.at > k or not all(isinstance(name, str) for name in batch.training):
            self._refuse(f"a batch of step {k} saw parameters that came later, or modes without a name")
        self._columns(batch.columns, f"step {k}")
        if batch.norms is not None and (batch.norms.dtype != torch.float64 or batch.norms.shape != (len(self.shapes),)):
            self._refuse(f"a batch of step {k} has no norm for each parameter")
        if batch.random is not None and not _is_random_state(batch.random):
            self._refuse(f"a random state of step {k} is none")
        if batch.drawn is not None and (len(batch.drawn) < 2 or any(t.shape[:1] != batch.columns.shape
                                                                    for t in batch.drawn)):
            self._refuse(f"a batch of step {k} has not one row for each sample")

    def _columns(self, columns: Tensor, what: str) -> None:
        if columns.dtype != torch.int64:
            self._refuse(f"{what} names samples that are not whole numbers")
        if columns.numel() and (int(columns.min()) < 0 or int(columns.max()) >= self._size):
            self._refuse(f"{what} names samples outside of 0..{self._size - 1}")

    def _state(self, k: int, key: str, value: Tensor, rules: bool) -> None:
        if k == -1:
            name, shapes = key, self.frozen
        else:
            owner, _, rest = key.partition("|")
            name, shapes = rest.rpartition("|")[0], self.shapes
            if not owner.isdecimal() or len(owner) > 15:
                self._refuse(f"a state of step {k} belongs to no optimizer")
        if name not in shapes or k < -1:
            self._refuse(f"it holds a state of {name[:100]!r} at step {k}, and the run has no such parameter")
        if tuple(value.shape) != shapes[name] and (k == -1 or rules and value.numel() != 1):
            self._refuse(f"a state of {name[:100]!r} at step {k} has the shape {tuple(value.shape)}")

    def _refuse(self, what: str) -> NoReturn:
        raise StoreCorrupt(
            f"{self._where} is no run that can be read: {what}. It was written by another program or changed on "
            "purpose; nothing of it was used. Record again, or restore the folder from a copy."
        )


@cache
def _defaults(optimizer: str) -> dict[str, Any]:
    """The numbers that a rule's optimizer takes, with their usual values."""
    if optimizer not in RULES or not hasattr(torch.optim, optimizer):
        return {}
    parameters: Sequence[inspect.Parameter] = list(
        inspect.signature(getattr(torch.optim, optimizer).__init__).parameters.values())
    return {p.name: p.default for p in parameters[2:] if p.default is not p.empty}


def _is_whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _is_random_state(state: Tensor) -> bool:
    if state.dtype != torch.uint8 or state.ndim != 1:
        return False
    if len(state) != len(torch.get_rng_state()):
        return len(state) <= 64  # that of an accelerator: a seed and an offset
    try:
        # torch reads from the start of the storage, where a row of a table does not begin.
        torch.Generator().set_state(state.clone())
    except RuntimeError:
        return False
    return True
