"""Which samples two runs both learned from: the same content is the same sample, wherever it stands in either set.

Content is what reached the network, as a run keeps it: input and target, number for number, in the coarser of the two
precisions. Copies of a sample within one set are one sample here. Targets that stand for classes are compared as
classes, whether they came as indices or as rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ...decomposition.stochastic.points import Points, samples_of
from ...run.classes import class_indices
from ...run.run import Run

#: What samples may be matched by.
WAYS = ("content", "input", "id")


@dataclass(frozen=True, eq=False)
class Distinct:
    """The samples of a run that are not copies of each other.

    Attributes:
        places: For each training sample of the run its place among the distinct ones, or -1 if it was never drawn.
        ids: The id of the first copy of each.
        labels: A word for each, or ``None``.
        keys: What each is told by.
        drawn: How many samples were drawn, copies counted.
    """

    places: Tensor
    ids: list[int]
    labels: list[str] | None
    keys: list[bytes]
    drawn: int

    def __len__(self) -> int:
        return len(self.ids)

    def pooled(self, shares: Tensor) -> Tensor:
        """Shares of all samples, with shape (..., n), added up over copies, with shape (..., distinct)."""
        kept = self.places >= 0
        found = shares.new_zeros(*shares.shape[:-1], len(self))
        return found.index_add_(-1, self.places[kept], shares[..., kept])


@dataclass(frozen=True, eq=False)
class Matching:
    """The distinct samples of two runs, and which are the same.

    Attributes:
        a: Those of the first run.
        b: Those of the second.
        pairs: Places in a and in b of the same sample, with shape (m, 2).
        other_targets: How many inputs are in both sets with another target in each.
        way: What was compared.
    """

    a: Distinct
    b: Distinct
    pairs: Tensor
    other_targets: int
    way: str

    @property
    def only(self) -> tuple[int, int]:
        """How many distinct samples only the one run drew, and only the other."""
        return len(self.a) - len(self.pairs), len(self.b) - len(self.pairs)

    def said(self) -> str:
        """How far the two sets are the same, in words."""
        counts = f"{self.a.drawn:,} and {self.b.drawn:,} samples"
        one, other = self.only
        copies = [side.drawn - len(side) for side in (self.a, self.b)]
        told = "the same" if not one and not other else f"{one:,} differ" if one == other else (
            f"{one:,} only in the first and {other:,} only in the second")
        targets = (f", {self.other_targets:,} of them with the same input and another target"
                   if self.other_targets and self.way == "content" else "")
        return f"{counts}, {told}{targets}{f' ({copies[0]:,} and {copies[1]:,} copies)' if any(copies) else ''}"


def matched(a: Run, b: Run, way: str) -> Matching:
    """The distinct samples of two runs, and which of them are the same.

    Args:
        a: The first run.
        b: The second run.
        way: ``"content"``, ``"input"`` alone, or ``"id"``.
    """
    held = [samples_of(run) for run in (a, b)]
    columns = [run.samples.seen.nonzero().flatten() for run in (a, b)]
    inputs = _forms([list(points.inputs) for points in held])
    targets = _forms([_aims(run, points) for run, points in zip((a, b), held, strict=True)])
    by_input = [_keys(each) for each in inputs]
    whole = [_keys([*each, *aim]) for each, aim in zip(inputs, targets, strict=True)]
    told = {"content": whole, "input": by_input,
            "id": [[str(i).encode() for i in points.ids] for points in held]}[way]
    sides = [_distinct(run, points, own, keys) for run, points, own, keys in zip((a, b), held, columns, told,
                                                                                strict=True)]
    there = {key: place for place, key in enumerate(sides[1].keys)}
    pairs = [(place, there[key]) for place, key in enumerate(sides[0].keys) if key in there]
    return Matching(sides[0], sides[1], torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
                    _relabelled(by_input, whole), way)


def _aims(run: Run, points: Points) -> list[Tensor]:
    """The targets, as classes where they stand for such."""
    assert points.targets is not None
    classes = class_indices(points.targets, run.loss.name)
    return [points.targets if classes is None else classes]


def _forms(sides: list[list[Tensor]]) -> list[list[Tensor]]:
    """The tensors of both sides in the coarser precision of each pair, so that the same numbers have the same bytes."""
    if len(sides[0]) != len(sides[1]):
        return sides
    kinds = [_coarser(one.dtype, other.dtype) for one, other in zip(*sides, strict=True)]
    return [[t.to(kind) for t, kind in zip(side, kinds, strict=True)] for side in sides]


def _coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    if one.is_floating_point != other.is_floating_point:
        return one if one.is_floating_point else other
    # Whole numbers are compared in the wider kind, which holds all of them.
    return sorted((one, other), key=lambda kind: (kind.itemsize, str(kind)))[0 if one.is_floating_point else 1]


def _keys(tensors: list[Tensor]) -> list[bytes]:
    """A digest of each row of some tensors, which tells its numbers, its shape and its type."""
    rows = []
    for t in tensors:
        # Nought is nought, whatever its sign.
        t = t.contiguous() + 0 if t.dtype != torch.bool else t.contiguous()
        rows.append((f"{tuple(t.shape[1:])}{t.dtype}".encode(), t.reshape(len(t), -1).view(torch.uint8).numpy()))
    found = []
    for i in range(len(tensors[0])):
        digest = hashlib.blake2b(digest_size=16)
        for form, numbers in rows:
            digest.update(form)
            digest.update(numbers[i].tobytes())
        found.append(digest.digest())
    return found


def _distinct(run: Run, points: Points, columns: Tensor, keys: list[bytes]) -> Distinct:
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    place = {key: i for i, key in enumerate(first)}
    places = torch.full((run.size,), -1, dtype=torch.long)
    places[columns] = torch.tensor([place[key] for key in keys], dtype=torch.long)
    rows = list(first.values())
    return Distinct(places, [points.ids[row] for row in rows],
                    None if points.labels is None else [points.labels[row] for row in rows], list(first), len(keys))


def _relabelled(by_input: list[list[bytes]], whole: list[list[bytes]]) -> int:
    """How many inputs both sets hold, but never with the same target."""
    sides = []
    for inputs, contents in zip(by_input, whole, strict=True):
        held: dict[bytes, set[bytes]] = {}
        for key, content in zip(inputs, contents, strict=True):
            held.setdefault(key, set()).add(content)
        sides.append(held)
    return sum(not (contents & sides[1][key]) for key, contents in sides[0].items() if key in sides[1])
