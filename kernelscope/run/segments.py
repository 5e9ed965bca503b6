"""How a stretch of a run becomes tensors of a segment, and how it is read back.

A chunk holds consecutive steps and whatever was kept with them: rows of parameters, optimizer states that a replay
starts from, buffers that changed, samples seen for the first time. Numbers are stored as they are, words as JSON bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import StoreCorrupt
from ..storage import joined
from .precision import REDUCED
from .step import MicroBatch, Step

#: Rows of parameters from this size on, in bytes, are tensors of their own in a segment.
LONG = 2**18


@dataclass(eq=False)
class Chunk:
    """Consecutive steps and what is kept with them.

    Attributes:
        first: The number of the first step.
        place: The chunk's place in the recording; a chunk written anew keeps it, and the later copy counts.
        steps: The steps, in order.
        rows: For some step numbers, all parameters at the start of the step, as one vector.
        states: For some step numbers, the optimizer's states at the start of the step, by parameter and name.
        buffers: For some step numbers, the buffers that had changed by then.
        averages: For some step numbers, the averaged weights.
        samples: Columns, inputs and targets of samples seen for the first time.
        ids: The ids that got a column, in a recording whose samples have no index.
    """

    first: int
    place: int = 0
    steps: list[Step] = field(default_factory=list)
    rows: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    buffers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    averages: dict[int, Tensor] = field(default_factory=dict)
    samples: list[tuple[Tensor, ...]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The number after the last step."""
        return self.first + len(self.steps)

    @property
    def starts(self) -> set[int]:
        """The steps that are the first of their optimizer, which nothing before them explains."""
        return {k for k, step in enumerate(self.steps, self.first) if step.owner == k}

    @property
    def meta(self) -> dict[str, int]:
        """What the store says about the chunk's segment."""
        return {"first": self.first, "steps": len(self.steps), "place": self.place}

    @property
    def nbytes(self) -> int:
        """The size of what the chunk holds, up to small change."""
        held = [*self.rows.values(), *self.averages.values(), *(t for s in self.samples for t in s)]
        held += [t for part in (self.states, self.buffers) for tensors in part.values() for t in tensors.values()]
        held += [t for s in self.steps for b in s.batches for t in (b.random, *(b.drawn or ())) if t is not None]
        return sum(t.nbytes for t in held) + 512 * len(self.steps)


def encode(chunk: Chunk) -> dict[str, Tensor]:
    """The tensors of a segment that holds the chunk."""
    tensors: dict[str, Tensor] = {}
    words: dict[str, Any] = {"first": chunk.first, "place": chunk.place, "modes": [], "steps": []}
    modes: dict[tuple[str, ...], int] = {}
    groups: list[dict[str, Any]] | None = None
    columns, random, norms = [], [], []
    for k, step in enumerate(chunk.steps):
        batches = []
        for j, batch in enumerate(step.batches):
            columns.append(batch.columns)
            if batch.random is not None:
                random.append(batch.random)
            if batch.norms is not None:
                norms.append(batch.norms)
            for i, drawn in enumerate(batch.drawn or ()):
                tensors[f"drawn.{k}.{j}.{i}"] = drawn
            batches.append([len(batch.columns), batch.at, modes.setdefault(batch.training, len(modes)),
                            batch.random is not None, len(batch.drawn or ()), batch.norms is not None, batch.autocast])
        # Schedules change a number at a step; whatever is the same as one step before is not written again.
        words["steps"].append({"o": step.optimizer, "g": None if step.groups == groups else step.groups,
                               "b": batches, "l": step.largest, "w": step.without, "a": step.average,
                               "by": step.owner, **({} if step.seen is None else {"n": step.seen})})
        groups = step.groups
    words["modes"] = [list(names) for names in modes]
    for name, parts in (("columns", columns), ("random", random), ("norms", norms)):
        if parts:
            tensors[name] = joined(parts if name == "columns" else [part[None] for part in parts])
    if chunk.steps:
        tensors["gradient_norms"] = joined([step.norms[None] for step in chunk.steps])
    # Long rows are written as they lie in memory: to gather them would copy every parameter of every step once more.
    words["rows"], rows = list(chunk.rows), list(chunk.rows.values())
    if rows and rows[0].nbytes < LONG:
        tensors["rows"] = joined([row[None] for row in rows])
    else:
        tensors |= {f"rows.{k}": row for k, row in chunk.rows.items()}
    if chunk.ids:
        tensors["ids"] = torch.tensor(chunk.ids, dtype=torch.int64)
    for part in ("states", "buffers"):
        held = getattr(chunk, part)
        words[part] = {str(k): list(values) for k, values in held.items()}
        tensors |= {f"{part}.{k}.{name}": t for k, values in held.items() for name, t in values.items()}
    words["averages"] = list(chunk.averages)
    tensors |= {f"averages.{k}": t for k, t in chunk.averages.items()}
    words["samples"] = len(chunk.samples[0]) if chunk.samples else 0
    tensors |= {f"samples.{j}": joined(parts) for j, parts in enumerate(zip(*chunk.samples, strict=True))}
    tensors["words"] = torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8)
    return tensors


def decode(tensors: dict[str, Tensor], where: str) -> Chunk:
    """Reads back what :func:`encode` wrote."""
    try:
        return _decode(tensors)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise StoreCorrupt(
            f"{where} does not hold a stretch of a run ({type(error).__name__}: {str(error)[:200]}). It was written by "
            "another program or version; the run's other segments are intact. Record again, or open a copy."
        ) from error


def _decode(tensors: dict[str, Tensor]) -> Chunk:
    words = json.loads(tensors["words"].numpy().tobytes())
    chunk = Chunk(first=_whole(words["first"]), place=_whole(words["place"]))
    chunk.steps = list(_steps(words, tensors))
    numbers = [_whole(k) for k in words["rows"]]
    rows = tensors["rows"] if "rows" in tensors else [tensors[f"rows.{k}"] for k in numbers]
    chunk.rows = dict(zip(numbers, rows, strict=True))
    chunk.ids = tensors["ids"].tolist() if "ids" in tensors else []
    for part in ("states", "buffers"):
        setattr(chunk, part, {int(k): {name: tensors[f"{part}.{k}.{name}"] for name in names}
                              for k, names in words[part].items()})
    chunk.averages = {_whole(k): tensors[f"averages.{k}"] for k in words["averages"]}
    if _whole(words["samples"]):
        chunk.samples = [tuple(tensors[f"samples.{j}"] for j in range(words["samples"]))]
    return chunk


def _steps(words: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Step]:
    modes = [tuple(names) for names in words["modes"]]
    groups: list[dict[str, Any]] = []
    start, random, norms = 0, list(tensors.get("random", ())), list(tensors.get("norms", ()))
    columns = tensors.get("columns", torch.zeros(0, dtype=torch.int64))
    for k, entry in enumerate(words["steps"]):
        groups = groups if entry["g"] is None else entry["g"]
        batches = []
        for j, (count, at, mode, has_random, drawn, has_norms, autocast) in enumerate(entry["b"]):
            if start + _whole(count) > len(columns):
                raise ValueError(f"step {k} has more samples than are listed")
            batches.append(MicroBatch(
                columns=columns[start:start + count], at=_whole(at), training=modes[_whole(mode)],
                random=random.pop(0) if has_random else None,
                drawn=tuple(tensors[f"drawn.{k}.{j}.{i}"] for i in range(_whole(drawn))) or None,
                norms=norms.pop(0) if has_norms else None, autocast=_precision(autocast),
            ))
            start += count
        yield Step(entry["o"], groups, batches, tensors["gradient_norms"][k], entry["l"], entry["w"], entry["a"],
                   _whole(entry["by"]), None if entry.get("n") is None else _whole(entry["n"]))
    if random or norms or start < len(columns):
        raise ValueError("it holds more than its steps name")


def _precision(value: Any) -> str | None:
    # Earlier recordings only said whether it was reduced, and that of a processor is bfloat16.
    name = "bfloat16" if value is True else None if value is False else value
    if name is not None and name not in REDUCED:
        raise ValueError(f"{str(value)[:40]} is no precision of a pass")
    return name


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{str(value)[:40]} is not a count")
    return value
