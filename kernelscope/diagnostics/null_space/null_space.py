r"""Which part of a target a recorded run could not have learned.

Training moves the parameters along a path, and the outputs at some points by what the path kernel lets through. Modes
of no eigenvalue stay where they were; others move at most by their reach. What of the target lies beyond it is left as
an error, for every optimizer, loss and network, and without any assumption: the run is looked at, not its limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_place, as_switch, as_whole
from ...budget import as_words
from ...decomposition.exact import final_outputs
from ...decomposition.output import output_functional
from ...decomposition.precision import checked_dtype, ledger_precision
from ...decomposition.query_side import QuerySide
from ...decomposition.questions import as_queries, as_targets, checked_memory, checked_place, checked_run
from ...decomposition.stochastic.gradient_products import Plan
from ...decomposition.stochastic.points import samples_of
from ...decomposition.trajectory import Trajectory
from ...errors import DataError, OutOfBudget
from ...network import cast, undisturbed
from ...progress import Bar
from ...result import as_float64
from ...run.run import Run
from ..eigenlearning import expected_error, learnability, unseen_error
from ..states import times_of
from .aims import PROBABILITIES, Aim
from .chords import Walk
from .pace import Pace
from .reservoir import reservoir_of
from .result import NullSpace
from .sketch import columns, nystrom, products

#: Rounding, relative to the largest terms, by the precision of the computation.
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4}

#: Columns of a sketch beyond the outputs of the target.
LEAST = 2


def null_space(run: Run, x: Any, y: Any, *, times: Any = None, output: int | str | Callable[..., Tensor] | None = None,
               on: str = "queries", rank: int | None = None, gramian: bool = False, samples: Any = None,
               dtype: torch.dtype | None = None, device: torch.device | str | None = None,
               memory: int | str = "1GB", progress: bool | None = None) -> NullSpace:
    r"""Tells which part of a target a recorded run could not have learned, and the error that follows from it.

    .. math:: \|\langle h_j, f_T - f_0\rangle\|^2 \le \mu_j E, \qquad
              \|f^* - f_T\|^2 \ge \sum_j \max\big(0,\ \|\langle h_j, f^* - f_0\rangle\| - \sqrt{\mu_j E}\big)^2

    :math:`\mu_j, h_j` are the eigenpairs of the path kernel on the points, made of chords of the path, and E is the
    energy of the path. Modes of :math:`\mu_j = 0` did not move at all. This holds for every optimizer, loss and
    network. The network is read in eval mode.

    Args:
        run: The recorded run, or a slice of it.
        x: The queries, in any form that :func:`decompose` takes.
        y: Their targets: the values of the explained outputs, or classes.
        times: Where chords begin and end: how many times, or the numbers of steps; 30 if not given, stored ones where
            some are near. More make the bound tighter and take longer.
        output: What is explained: ``None`` for all outputs, and of classes for their probabilities; ``"logits"``; the
            number of one; or a function of the outputs, and y then has its values.
        on: The points of the modes: ``"queries"``, ``"samples"`` (those of training), or ``"all"`` of them.
        rank: The number of columns of a sketch, for more points than a matrix has room for; ``None`` for the matrix.
        gramian: Whether the directions of residuals that moved nothing are computed too, as by :func:`reservoir`.
        samples: Which training samples are looked at: all that were drawn if not given; how many, evenly among them;
            or their places. With 0 the expected error is left out.
        dtype: The precision to compute in, as in :func:`decompose`.
        device: Where to compute.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; only on a terminal if not given.

    Returns:
        The :class:`NullSpace`.

    Raises:
        DataError: If points, targets or options do not fit the run.
        ModelError: If the network is no function of a point.
        NonFiniteError: If points or targets, or gradients at them, are NaN or infinite.
        OutOfBudget: If the matrix does not fit into memory.

    References:
        | (f1), (f2) and (f4) of the theory notes
        | Every Model Learned by Gradient Descent Is Approximately a Kernel Machine (Domingos, arXiv 2012.00152)
        | The Eigenlearning Framework (Simon et al., arXiv 2110.03922)

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.eye(2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x[:1], x[:1, :1]), loss=F.mse_loss) as recording:     # only ever sees (1, 0)
        ...     for _ in range(50):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x[:1]), x[:1, :1]).backward()
        ...         optimizer.step()
        >>> found = ks.null_space(recording.run, x, torch.ones(2, 1), progress=False)
        >>> found.check().ok, found.bound <= found.error
        (True, True)
    """
    begun = time.perf_counter()
    run = checked_run(run)
    as_choice(on, "on", ("queries", "samples", "all"))
    checked_dtype(dtype)
    as_switch(gramian, "gramian")
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    wanted = None if rank is None else as_count(rank, "rank", least=1)
    at = stored_times(run, times)
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        queries = as_queries(x, tuple(run.samples.inputs))
        given = as_targets(y, len(queries[0]))
        if given is None or not len(given):
            raise DataError("null_space needs queries and their targets, and none came. Pass both: "
                            "ks.null_space(run, x, y).")
        dtype, note = ledger_precision(run, dtype, queries, place)
        trajectory = Trajectory(run, dtype, place)
        asked = _Points.of(run, trajectory, queries, given, output, on, _chosen(run, samples, on), wanted)
        bar = Bar(total=len(at) - 1, desc="null space", unit="chord", disable=quiet)
        with bar:
            found, about = asked.solve(trajectory, at, wanted, memory, bar.update)
        # What the reservoir says of its own progress comes after the chords.
        reserve = reservoir_of(trajectory, queries, None, memory, quiet) if gramian else None
    told = run.info()
    said = note, PROBABILITIES if asked.aim.chances else "", asked.note, asked.side.note
    notes = [words for words in said if words]
    return NullSpace(**found, on=on, reservoir=reserve, output_names=asked.side.functional.names, info={
        "run": {key: told[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
        "first_step": run.start, "times": at, "rank": wanted, "rounding": ROUNDING[dtype],
        "dtype": str(dtype).removeprefix("torch."), "engine": asked.side.way, "notes": notes,
        "samples": asked.samples, "queries": len(queries[0]), **about,
        "seconds": round(time.perf_counter() - begun, 3),
    })


def stored_times(run: Run, times: Any) -> list[int]:
    """The times of a run, moved to stored steps where some are near and nobody named the steps."""
    at = times_of(run, times)
    if times is not None and as_whole(times) is None:
        return at
    apart = max(1, len(run) // max(len(at) - 1, 1)) // 2
    near = lambda k: next((j for d in range(apart + 1) for j in (k - d, k + d)
                           if 0 <= j <= len(run) and run.row(run.start + j) is not None), k)
    return sorted({0, len(run), *(near(k) for k in at[1:-1])})


def _chosen(run: Run, samples: Any, on: str) -> list[int]:
    """The places, among the samples that were drawn, of those that are looked at."""
    count = int(run.samples.seen.sum())
    number = as_whole(samples)
    if samples is None:
        chosen = list(range(count))
    elif number is not None:
        number = min(as_count(samples, "samples"), count)
        chosen = sorted({round(i * (count - 1) / max(number - 1, 1)) for i in range(number)})
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


class _Points:
    """Training samples and queries side by side, and their targets."""

    def __init__(self, side: QuerySide, aim: Aim, targets: Tensor, known: Tensor | None, rows: slice, samples: int,
                 ids: list[int], labels: list[str] | None, note: str, raw: tuple[Any, ...] | None):
        self.side, self.aim, self.targets, self.known = side, aim, targets, known
        self.rows, self.samples, self.ids, self.labels, self.note, self.raw = rows, samples, ids, labels, note, raw

    @classmethod
    def of(cls, run: Run, trajectory: Trajectory, queries: tuple[Tensor, ...], given: Tensor, output: Any, on: str,
           chosen: list[int], rank: int | None) -> _Points:
        drawn = samples_of(run) if chosen else None
        places = torch.tensor(chosen, dtype=torch.long)
        pieces = [queries]
        if drawn is not None:
            own = tuple(t[places] for t in drawn.inputs)
            if any(a.shape[1:] != b.shape[1:] for a, b in zip(own, queries, strict=True)):
                raise DataError(
                    f"Queries of {[tuple(t.shape) for t in queries]} do not lie beside training samples of "
                    f"{[tuple(t.shape) for t in own]}. Pass queries of their shape, or samples=0.")
            pieces = [own, queries]
        inputs = cast(tuple(torch.cat([part[i].to(queries[i].dtype) for part in pieces]) for i in range(len(queries))),
                      trajectory.dtype, trajectory.device)
        final = final_outputs(trajectory, None, inputs)
        aim = Aim.of(run, output, final)
        functional = output_functional(aim.output, final, None, run, len(inputs[0])).to(trajectory.dtype)
        if aim.chances:
            names = run.class_names or []
            width = aim.width
            functional.names[:] = names if len(names) == width else names[1:] if width == 1 and len(names) == 2 else [
                str(i) for i in range(width)]
        n = len(chosen)
        explained = functional(final, None)
        targets = aim.values(given, as_float64(explained[n:]))
        note, known, raw = "", None, None
        if drawn is not None:
            try:
                if drawn.targets is None:
                    raise DataError("The run holds no targets.")
                known = aim.values(drawn.targets[places], as_float64(explained[:n]))
            except DataError:
                if on != "queries":
                    raise
                note = ("Training samples have no targets of the explained output, so no error is expected by "
                        "eigenlearning.")
            raw = (cast(own, trajectory.dtype, trajectory.device),
                   cast(drawn.targets[places], trajectory.dtype, trajectory.device)) if drawn.targets is not None else (
                       None)
        labels = drawn.labels if drawn is not None else None
        words = _words(run, given)
        queried = list(range(len(queries[0])))
        ids = [drawn.ids[i] for i in chosen] if drawn is not None else []
        rows = {"queries": slice(n, n + len(queried)), "samples": slice(0, n), "all": slice(0, n + len(queried))}[on]
        said = None if words is None or (on != "queries" and labels is None) else [
            *([labels[i] for i in chosen] if labels is not None else [""] * n), *words]
        whole = targets if known is None else torch.cat([known, targets])
        if known is None and n:
            whole = torch.cat([torch.zeros(n, targets.shape[1], dtype=torch.float64), targets])
        if rank is not None:
            # A sketch is one of the points of the modes alone.
            inputs, n_left = tuple(t[rows] for t in inputs), rows
            whole, rows = whole[n_left], slice(0, n_left.stop - n_left.start)
            ids, said = [*ids, *queried][n_left], None if said is None else said[n_left]
        else:
            ids, said = [*ids, *queried][rows], None if said is None else said[rows]
        side = QuerySide(run.network, inputs, functional, run.names)
        return cls(side, aim, whole, known, rows, n, ids, said, note, raw)

    def solve(self, trajectory: Trajectory, at: list[int], rank: int | None, memory: int,
              done: Callable[[], object]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of the result, and facts about them."""
        run = trajectory.run
        self.side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
        walk = Walk(trajectory, self.side, at)
        m = self.rows.stop - self.rows.start
        if rank is None:
            matrix = walk.matrix(self._block(run, trajectory, memory), done)
            inner = matrix[self.rows, self.rows]
            values, modes = torch.linalg.eigh(inner)
            values, modes, trace, left = values.flip(0), modes.flip(1), float(inner.trace()), 0.0
        else:
            first = walk.outputs(trajectory.at(run.start), trajectory.buffers(run.start))
            omega = columns(self.targets - first, min(rank, m))
            product, trace = products(walk, omega, self._part(run, trajectory, omega.shape[1], memory), done)
            values, modes, left = nystrom(omega, product, trace)
            matrix = None
        met = walk.met
        assert met.initial is not None
        assert met.final is not None
        assert met.buffers is not None
        initial, final, buffers = (t[self.rows] for t in (met.initial, met.final, met.buffers))
        targets = self.targets[self.rows]
        wanted, changed = targets - initial - buffers, final - initial - buffers
        aim, learned = modes.T @ wanted, modes.T @ changed
        outside = torch.stack([(part - modes @ (modes.T @ part)).square().sum() for part in (wanted, changed)])
        slack = 4 * m * torch.finfo(trajectory.dtype).eps * float(values[0].clamp(min=0)) + left if len(values) else 0.0
        pace = Pace.of(trajectory, self.raw, self.aim, met.energy)
        filtered = 1 - torch.exp(-values.clamp(min=0) * pace.speed / max(m, 1))
        whole = self.targets - met.initial - met.buffers
        predicted = None
        if self.known is not None and self.samples:
            predicted = _predicted(matrix, whole, values, aim, outside, m, self.samples, pace.speed)
        largest = float(values[0]) if len(values) else 0.0
        about = {"least": float(values[-1]) / largest if largest > 0 else 0.0, "asymmetry": met.asymmetry}
        return {
            "values": values.clamp(min=0), "modes": modes, "aim": aim, "learned": learned, "filter": filtered,
            "outside": outside if rank is not None and len(values) < m else torch.zeros(2, dtype=torch.float64),
            "slack": slack, "targets": targets, "initial": initial, "final": final, "buffers": buffers,
            "energies": torch.tensor(met.energies, dtype=torch.float64), "loss": pace.loss, "predicted": predicted,
            "speed": pace.speed, "left": met.left(), "trace": trace, "ids": self.ids, "labels": self.labels,
        }, about

    def _block(self, run: Run, trajectory: Trajectory, memory: int) -> int:
        try:
            return Plan.make(run, self.side, self.side, False, trajectory.dtype, memory).block
        except OutOfBudget as error:
            raise OutOfBudget(f"{error} Or pass samples= for some of the training samples, or rank= for a sketch."
                              ) from error

    def _part(self, run: Run, trajectory: Trajectory, rank: int, memory: int) -> int:
        """How many points a sketch takes at a time."""
        width = len(self.side.functional.names)
        size = run.parameter_count * trajectory.dtype.itemsize
        held = 2 * width * rank * size + 4 * len(self.side) * rank * 8
        if held + 3 * width * size > memory:
            raise OutOfBudget(
                f"A sketch of {rank} columns needs about {as_words(held + 3 * width * size)} here, and memory="
                f"{as_words(memory)} was given. Raise memory, lower rank, or explain one output.")
        return max(1, (memory - held) // (3 * width * max(size, 1)))


def _predicted(matrix: Tensor | None, whole: Tensor, values: Tensor, aim: Tensor, outside: Tensor, m: int,
               samples: int, speed: float) -> float | None:
    """The mean squared error that eigenlearning expects of early stopping, a ridge of one over the speed."""
    if matrix is None:
        eigenvalues, energies = values.clamp(min=0) / m, aim.square().mean(1) / m
        beyond = float(outside[0]) / m / whole.shape[1]
    else:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        eigenvalues = eigenvalues.clamp(min=0) / len(matrix)
        energies, beyond = (vectors.T @ whole).square().mean(1) / len(matrix), 0.0
    if not speed:
        return float(energies.sum()) + beyond
    kappa, learned = learnability(eigenvalues, samples, samples / speed)
    found = expected_error(learned, energies, samples, beyond)
    if matrix is not None and kappa:
        # The pool is made of the samples and the queries, and what is asked for is the error of these.
        found = unseen_error(found, samples, len(matrix), found / (speed * kappa) ** 2)
    return found if found < float("inf") else None


def _words(run: Run, given: Tensor) -> list[str] | None:
    """The names of classes, if targets are their indices."""
    if not run.is_classification or given.is_floating_point() or given[:1].numel() != 1:
        return None
    names = run.class_names or []
    return [names[i] if 0 <= i < len(names) else str(i) for i in given.flatten().long().tolist()]
