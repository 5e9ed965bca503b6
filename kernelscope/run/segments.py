"""How a stretch of a run becomes tensors of a segment, and how it is read back.

A chunk holds consecutive steps and whatever was kept with them: rows of parameters, optimizer states that a replay
starts from, buffers that changed, samples seen for the first time. Numbers are stored as they are, words as JSON bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import StoreCorrupt
from .step import MicroBatch, Step


@dataclass(eq=False)
class Chunk:
    """Consecutive steps and what is kept with them.

    Attributes:
        first: The number of the first step.
        steps: The steps, in order.
        rows: For some step numbers, all parameters at the start of the step, as one vector.
        states: For some step numbers, the optimizer's states at the start of the step, by parameter and name.
        buffers: For some step numbers, the buffers that had changed by then.
        averages: For some step numbers, the averaged weights.
        samples: Columns, inputs and targets of samples seen for the first time.
    """

    first: int
    steps: list[Step] = field(default_factory=list)
    rows: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    buffers: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    averages: dict[int, Tensor] = field(default_factory=dict)
    samples: list[tuple[Tensor, ...]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """The size of what the chunk holds, up to small change."""
        held = [*self.rows.values(), *self.averages.values(), *(t for s in self.samples for t in s)]
        held += [t for part in (self.states, self.buffers) for tensors in part.values() for t in tensors.values()]
        held += [t for s in self.steps for b in s.batches for t in (b.random, *(b.drawn or ())) if t is not None]
        return sum(t.nbytes for t in held)


def encode(chunk: Chunk) -> dict[str, Tensor]:
    """The tensors of a segment that holds the chunk."""
    tensors: dict[str, Tensor] = {}
    words: dict[str, Any] = {"first": chunk.first, "modes": [], "steps": []}
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
                               "by": step.owner})
        groups = step.groups
    words["modes"] = [list(names) for names in modes]
    for name, parts in (("columns", columns), ("random", random), ("norms", norms)):
        if parts:
            tensors[name] = torch.cat(parts) if name == "columns" else torch.stack(parts)
    if chunk.steps:
        tensors["gradient_norms"] = torch.stack([step.norms for step in chunk.steps])
    if chunk.rows:
        tensors["rows"] = torch.stack(list(chunk.rows.values()))
        words["rows"] = list(chunk.rows)
    for part in ("states", "buffers"):
        held = getattr(chunk, part)
        words[part] = {str(k): list(values) for k, values in held.items()}
        tensors |= {f"{part}.{k}.{name}": t for k, values in held.items() for name, t in values.items()}
    words["averages"] = list(chunk.averages)
    tensors |= {f"averages.{k}": t for k, t in chunk.averages.items()}
    words["samples"] = [len(parts) for parts in chunk.samples]
    tensors |= {f"samples.{i}.{j}": t for i, parts in enumerate(chunk.samples) for j, t in enumerate(parts)}
    tensors["words"] = torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8)
    return tensors


def decode(tensors: dict[str, Tensor], where: str) -> Chunk:
    """Reads back what :func:`encode` wrote."""
    try:
        return _decode(tensors)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise StoreCorrupt(
            f"{where} does not hold a stretch of a run ({type(error).__name__}: {error}). It was written by another "
            "program or version; the run's other segments are intact. Record again, or open a copy."
        ) from error


def _decode(tensors: dict[str, Tensor]) -> Chunk:
    words = json.loads(tensors["words"].numpy().tobytes())
    chunk = Chunk(first=int(words["first"]))
    modes = [tuple(names) for names in words["modes"]]
    groups: list[dict[str, Any]] = []
    start, random, norms = 0, iter(tensors.get("random", ())), iter(tensors.get("norms", ()))
    for k, entry in enumerate(words["steps"]):
        groups = groups if entry["g"] is None else entry["g"]
        batches = []
        for j, (count, at, mode, has_random, drawn, has_norms, autocast) in enumerate(entry["b"]):
            batches.append(MicroBatch(
                columns=tensors["columns"][start:start + count], at=at, training=modes[mode],
                random=next(random) if has_random else None,
                drawn=tuple(tensors[f"drawn.{k}.{j}.{i}"] for i in range(drawn)) or None,
                norms=next(norms) if has_norms else None, autocast=autocast,
            ))
            start += count
        chunk.steps.append(Step(entry["o"], groups, batches, tensors["gradient_norms"][k], entry["l"], entry["w"],
                                entry["a"], entry["by"]))
    chunk.rows = dict(zip(words.get("rows", []), tensors.get("rows", ()), strict=True))
    for part in ("states", "buffers"):
        setattr(chunk, part, {int(k): {name: tensors[f"{part}.{k}.{name}"] for name in names}
                              for k, names in words[part].items()})
    chunk.averages = {k: tensors[f"averages.{k}"] for k in words["averages"]}
    chunk.samples = [tuple(tensors[f"samples.{i}.{j}"] for j in range(count)) for i, count in
                     enumerate(words["samples"])]
    return chunk
