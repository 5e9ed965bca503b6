"""The points that a null space is about: training samples and queries side by side, and what they should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_place, as_whole
from ...decomposition.exact import final_outputs
from ...decomposition.output import output_functional
from ...decomposition.query_side import QuerySide
from ...decomposition.questions import as_queries, as_targets, in_order
from ...decomposition.stochastic.points import Points, samples_of, words_of
from ...decomposition.trajectory import Trajectory
from ...errors import DataError
from ...network import cast
from ...result import as_float64
from ...run.run import Run
from .aims import Aim

#: What is said where the training samples cannot be held against the explained outputs.
UNKNOWN = "Training samples have no targets of the explained output, so no error is expected by eigenlearning."

#: How many training samples are looked at if nobody says.
MOST = 1000

#: Inputs with a row for each query, and the targets of these.
Queries = tuple[tuple[Tensor, ...], Tensor]


@dataclass(frozen=True, eq=False)
class Asked:
    """Points, their explained outputs and the targets of these.

    Attributes:
        side: The points, samples first, ready to be differentiated.
        aim: What is explained.
        targets: What it should be, with shape (N, c); 0 for samples whose target is not known.
        known: The targets of the samples, or ``None``.
        rows: Which of the points have the modes.
        samples: How many of the points are samples.
        ids: The id of each point that has a place in the modes.
        labels: A word for each of them, or ``None``.
        note: What is to be said of them.
        raw: Inputs and targets of the samples as they were trained on, or ``None``.
    """

    side: QuerySide
    aim: Aim
    targets: Tensor
    known: Tensor | None
    rows: slice
    samples: int
    ids: list[int]
    labels: list[str] | None
    note: str
    raw: tuple[Any, ...] | None

    @classmethod
    def of(cls, trajectory: Trajectory, queries: Queries | None, output: Any, on: str, chosen: list[int],
           apart: bool) -> Asked:
        """Reads points and targets.

        Args:
            trajectory: The run.
            queries: The queries, or ``None`` if the samples alone are asked about.
            output: What is explained.
            on: ``"queries"``, ``"samples"`` or ``"all"``.
            chosen: The places of samples among those that were drawn.
            apart: Whether only the points of the modes are taken, as for a sketch.

        Raises:
            DataError: If points do not lie beside each other, or targets are none of the explained outputs.
        """
        run, n = trajectory.run, len(chosen)
        held = samples_of(run).chosen(torch.tensor(chosen)) if chosen else None
        inputs = cast(_beside(held, queries), trajectory.dtype, trajectory.device)
        final = final_outputs(trajectory, None, inputs)
        aim = Aim.of(run, output, final)
        functional = output_functional(aim.output, final, None, run, len(inputs[0])).to(trajectory.dtype)
        if aim.chances:
            functional.names[:] = _names(run, aim.width)
        explained = as_float64(functional(final, None))
        known, note, raw = None, "", None
        if held is not None and held.targets is not None:
            raw = cast((held.inputs, held.targets), trajectory.dtype, trajectory.device)
        try:
            known = None if held is None else aim.values(_needed(held), explained[:n])
        except DataError:
            if on != "queries":
                raise
            note = UNKNOWN
        rest = len(explained) - n
        parts = [explained.new_zeros(n, explained.shape[1]) if known is None else known]
        parts += [] if queries is None else [aim.values(queries[1], explained[n:])]
        targets = torch.cat(parts)
        rows = {"queries": slice(n, n + rest), "samples": slice(0, n), "all": slice(0, n + rest)}[on]
        ids = [*(held.ids if held is not None else []), *range(rest)][rows]
        labels = _labels(run, held, queries, on, n)
        if apart:
            inputs, targets = tuple(t[rows] for t in inputs), targets[rows]
            labels, rows = None if labels is None else labels[rows], slice(0, rows.stop - rows.start)
        else:
            labels = None if labels is None else labels[rows]
        side = QuerySide(run.network, inputs, functional, run.names)
        return cls(side, aim, targets, known, rows, n, ids, labels, note, raw)


def as_asked(run: Run, x: Any, y: Any) -> Queries | None:
    """Queries and their targets; ``None`` if neither came.

    Raises:
        DataError: If one came alone, or they do not fit the network.
    """
    if x is None and y is None:
        return None
    if x is None:
        raise DataError("Targets came without queries. Pass both, ks.null_space(run, x, y), or neither of them for the "
                        "training samples.")
    queries = as_queries(in_order(run, x), tuple(run.samples.inputs))
    given = as_targets(y, len(queries[0]), run)
    if given is None or not len(given):
        raise DataError("null_space needs queries and their targets, and no target came. Pass both: "
                        "ks.null_space(run, x, y).")
    return queries, given


def chosen_samples(run: Run, samples: Any, on: str) -> list[int]:
    """The places, among the samples that were drawn, of those that are looked at."""
    count = int(run.samples.seen.sum())
    number = as_whole(samples)
    if samples is None:
        chosen = _evenly(count, min(count, MOST))
    elif number is not None:
        chosen = _evenly(count, min(as_count(samples, "samples"), count))
    else:
        try:
            chosen = sorted({as_place(i, "samples", count, "samples that were drawn") for i in samples})
        except TypeError as error:
            raise DataError(f"samples must be how many training samples are looked at, or their places; {samples!r} "
                            "came. Pass for example samples=500.") from error
    if not chosen and on != "queries":
        raise DataError(f'on="{on}" looks at training samples, and there are none. Leave samples out, or pass '
                        'on="queries".')
    return chosen


def _evenly(count: int, number: int) -> list[int]:
    return sorted({round(i * (count - 1) / max(number - 1, 1)) for i in range(number)})


def part_words(run: Run, chosen: list[int], on: str) -> str:
    """What is said where some of the samples stand for all of them without anybody having asked for it."""
    count = int(run.samples.seen.sum())
    use = "join the matrix for the expected error" if on == "queries" else "are looked at"
    return "" if count <= MOST else (
        f"{len(chosen):,} of {count:,} training samples, evenly chosen, {use}; samples={count} takes all.")


def _beside(held: Points | None, queries: Queries | None) -> tuple[Tensor, ...]:
    """The inputs of samples, and then of queries."""
    if queries is None:
        assert held is not None
        return held.inputs
    if held is None:
        return queries[0]
    if any(a.shape[1:] != b.shape[1:] for a, b in zip(held.inputs, queries[0], strict=True)):
        raise DataError(
            f"Queries of {[tuple(t.shape) for t in queries[0]]} do not lie beside training samples of "
            f"{[tuple(t.shape) for t in held.inputs]}. Pass queries of their shape, or samples=0.")
    return tuple(torch.cat([a.to(b.dtype), b]) for a, b in zip(held.inputs, queries[0], strict=True))


def _needed(held: Points) -> Tensor:
    if held.targets is None:
        raise DataError("This run holds no targets of its samples. Pass queries and their targets, and samples=0.")
    return held.targets


def _names(run: Run, width: int) -> list[str]:
    """A word for each class whose probability is explained."""
    names = run.class_names or []
    if len(names) == width:
        return list(names)
    return [names[1]] if width == 1 and len(names) == 2 else [str(i) for i in range(width)]


def _labels(run: Run, held: Points | None, queries: Queries | None, on: str, n: int) -> list[str] | None:
    """A word for each point; those that have no place in the modes may go without."""
    own = held.labels if held is not None else []
    asked = [] if queries is None else words_of(run, queries[1])
    if asked is None or own is None and on != "queries":
        return None
    return [*([""] * n if own is None else own), *asked]
