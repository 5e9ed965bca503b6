r"""The exact decomposition of a recorded run.

For any optimizer, :math:`f_T(x) - f_0(x) = \sum_k \langle\bar\phi_k(x), D_k\rangle` with
:math:`\bar\phi_k` the query's gradient averaged along step k. Where a rule gives :math:`D_k` as a linear function of
what the samples did, one backward pass over the steps carries an adjoint test feature :math:`\psi_s(x)`, and the share
of sample i at step s is

.. math:: c_{i,s}(x) = -\frac{w_s}{B} \langle\psi_s(x), \nabla_\theta\ell_i(\theta_s)\rangle .

Memory grows with queries times parameters, never with samples times parameters. What the rule does not explain has a
channel of its own; the residual that is left is round-off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..arguments import as_choice, as_switch
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..nested import leaves
from ..network import cast, undisturbed
from ..processes import Company, joined
from ..progress import Bar
from ..run.chords import ChordRun
from ..run.rules import find_rule
from ..run.run import Run
from .aside import check_room
from .cells import Cells
from .certified import thinned_ledger
from .ledger import Ledger
from .output import output_functional
from .pooled import PooledSide
from .precision import checked_dtype, ledger_precision
from .quadrature import Quadrature
from .query_side import QuerySide
from .questions import as_queries, as_targets, as_words, checked_memory, checked_place, checked_run, in_order
from .result import Decomposition
from .rollout import Rollout, RolloutSide
from .segments import cut, cut_long
from .sweep import PartSweep, outputs_only, sweep
from .training_side import TrainingSide
from .trajectory import AveragedTrajectory, Trajectory
from .unrolling import Unroller

#: Rows of gradients that are made at once, in bytes: enough to be one large product, few enough to stay near the core.
PART = 2**24

#: What torch and its transforms take as they are first used, measured at 165 MiB, whatever the run.
TORCH = 176 * 2**20

#: How much more than its tensors a process takes, since freed memory is not handed back at once: measured at 1.1.
SPREAD = 1.15

#: So much for tensors may always be used, however small the memory.
LEAST = 2**25

#: The share of the memory in which files of the run that were read are kept.
READ = 16

#: Steps times parameters from which on it is told beforehand how long it takes.
LONG = 10**9

#: Rows of queries that go back together for each sample of a batch: with so many, the samples' gradients cost little.
ROWS = 32


def decompose(
    run: Run,
    x: Any,
    output: str | int | Callable[..., Tensor] | None = None,
    *,
    targets: Any = None,
    quadrature: str = "gonzalez",
    weights: str = "trained",
    rule: str = "recorded",
    groups: bool | Sequence[str] | None = None,
    thin: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
    distributed: bool = False,
) -> Decomposition:
    r"""Writes the trained network's outputs as its initial outputs plus exact shares of samples, steps and channels.

    .. math:: f_T(x) = f_0(x) + \sum_i c_i(x) + \text{decay} + \text{momentum} + \text{buffers} + \text{rounding}
              + \text{unattributed}

    Shares are accounting along this one run: they say what training on a sample added, not what would happen without
    it. A sample's share depends on the preconditioners (Adam) and clip factors as recorded.

    Args:
        run: The recorded run, or a slice of it.
        x: The queries, with shape :math:`(q, *)`, as the network takes them: a tensor or an array, a list of single
            points, a tuple of tensors for a network of several inputs, or a data set, or a loader that does not
            shuffle, whose samples hold the inputs first.
        output: What is explained: ``None`` for all outputs, a number for the one of this index, ``"margin"`` (predicted
            class minus runner-up, both as in the end), ``"answer"`` (the margin of several classes, the logit of two,
            or the first output), ``"loss"``, or a function of ``(outputs)`` or ``(outputs, targets)``.
        targets: The queries' targets, with one row for each, where the output needs them.
        quadrature: ``"gonzalez"`` (complete), ``"midpoint"``, ``"left"``, ``"gaussM"`` with M nodes, or
            ``"gonzalezM"``, which is the last one corrected to be complete.
        weights: ``"trained"``, or ``"average"`` for the averaged weights that were recorded beside them.
        rule: ``"recorded"``, or ``"displacement"`` to book every step as unattributed.
        groups: A word for each training sample, or ``True`` for their labels, to book shares by group and step too.
        thin: Go along chords between some of the parameters instead of every step: a whole number k for every k-th
            (see :meth:`Run.thinned`), or the share of the absolute terms, such as 0.01, that may stay unattributed;
            then chords that leave too much are split until each query meets it. What is left is in the ledger.
        dtype: The precision of the ledger. ``float64``, which also serves runs trained in ``float32``, if not given,
            and ``float32`` where the network makes tensors that allow no other; ``float32`` is faster and closes to
            1e-5.
        device: Where to compute; where the model was when it was recorded or loaded, if not given.
        memory: About how many bytes the computation may use beside the run itself, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.
        distributed: Whether the processes of ``torch.distributed`` share the work. Each of them, as ``torchrun``
            starts them, makes the same call, within ``memory`` of its own, and gets the whole answer.

    Returns:
        The :class:`Decomposition`.

    Raises:
        DataError: If queries, targets or options do not fit the run.
        ModelError: If the network is no function of a query, or cannot be computed in the precision asked for.
        NonFiniteError: If a query, a sample's gradient or the ledger is NaN or infinite.
        OutOfBudget: If not even one query fits into ``memory``.
        ProcessLost: If one of several processes ends, or does not answer.
        RuleError: If the optimizer's step cannot be unrolled and ``rule`` is ``"recorded"``.

    References:
        E1-E4 of the theory notes; "Every Model Learned by Gradient Descent Is Approximately a Kernel Machine"
        (Domingos, arXiv 2012.00152); discrete gradients after "Time integration and discrete Hamiltonian systems"
        (Gonzalez, 1996).

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> from torch import nn
        >>> x = torch.randn(8, 3); y = x @ torch.ones(3, 1)
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> d = ks.decompose(recording.run, torch.ones(1, 3))
        >>> d.contributions.shape, bool(d.residual.abs().max() < 1e-12)
        (torch.Size([1, 1, 8]), True)
    """
    def ledger(part: Run) -> Decomposition:
        return booked(part, x, output, None, targets=targets, quadrature=quadrature, weights=weights, rule=rule,
                      groups=groups, dtype=dtype, device=device, memory=memory, progress=progress,
                      distributed=distributed)[0]

    return ledger(run) if thin is None else thinned_ledger(checked_run(run), thin, ledger)


def booked(
    run: Run,
    x: Any,
    output: str | int | Callable[..., Tensor] | None,
    cells: Cells | None,
    *,
    targets: Any = None,
    quadrature: str = "gonzalez",
    weights: str = "trained",
    rule: str = "recorded",
    groups: bool | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
    distributed: bool = False,
    pools: int | None = None,
    through: tuple[Rollout, int] | None = None,
    pieces: int | None = None,
) -> tuple[Decomposition, Tensor | None]:
    """The decomposition of :func:`decompose`, and what it booked in ``cells``, with shape (q, c, cells).

    With ``pieces`` it is what it booked on each of so many parts of a sample's loss, with shape (q, c, n, parts).

    With ``pools`` the queries stand in so many pools of neighbours, and what is explained is the sum over each pool.
    With ``through``, a rollout and the number of its stages, it is where the rollout ends from each query, along the
    direction that the targets give, split over stages.
    """
    begun = time.perf_counter()
    rules = Quadrature.parse(quadrature)
    run = checked_run(run)
    _check_choices(run, weights, rule, dtype)
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    displacement = rule == "displacement"
    shared = as_switch(distributed, "distributed")
    company = Company(joined("A decomposition is shared out") if shared else None)
    # A network that draws random numbers where it should not must not draw the user's.
    with undisturbed(place), run.sparing(memory // READ), company.together():
        given_queries = as_queries(in_order(run, x), tuple(run.samples.inputs))
        dtype, own_precision = ledger_precision(run, dtype, given_queries, place)
        queries = cast(given_queries, dtype, place)
        trajectory = Trajectory(run, dtype, place)
        averaged = AveragedTrajectory(trajectory) if weights == "average" else None
        final = final_outputs(trajectory, averaged, queries)
        given = cast(as_targets(targets, len(queries[0]), run), dtype, place)
        functional = output_functional(output, final, given, run, len(queries[0])).to(dtype)
        if through is not None:
            side: QuerySide = RolloutSide(run.network, queries, functional, run.names, *through)
        elif pools is not None:
            side = PooledSide(run.network, queries, functional, run.names, pools)
        else:
            side = QuerySide(run.network, queries, functional, run.names)
        together = max((len(run[k].batches) for k in range(len(run))), default=1)
        training = TrainingSide(run, dtype, place, memory // 4, pieces is not None, max(together, 1))
        words, members = _groups(run, groups)
        ledger = Ledger(run, len(side), side.functional.names, members, words, cells, pieces)
        company.check_alike({
            "the run": float(run.parameter_count), "its first step": run.start, "its last step": run.stop,
            "the number of queries": len(side), "the number of outputs": len(side.functional.names), "memory": memory,
            "dtype": dtype.itemsize, "quadrature": sum(rules.nodes) + len(rules.nodes), "rule": displacement,
            "weights": averaged is None, "the outputs of the queries": float(sum(
                part.double().sum() for part in leaves(final) if isinstance(part, Tensor))),
        })
        needed, expected = 0, 0.0
        if len(run) and len(side):
            side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
            own = company.share(len(side))
            plan = _Plan.make(run, side, dtype, memory, displacement, company.share(len(side), 0).stop)
            needed = plan.bytes
            unroller = Unroller(run, training, displacement)
            segments = (cut if plan.length == len(run) else cut_long)(run, unroller, trajectory, plan.length)
            # tqdm measures the first steps and then tells the time that is left.
            about = f"{plan.bytes / 2**20:.0f} MiB"
            if isinstance(side, RolloutSide):
                expected = side.seconds * len(rules.nodes) * len(run)
                about = f"through {side.stages} stages, about {expected:.0f} s or more, {about}"
            elif plan.passes * len(run) * run.parameter_count > LONG:
                expected = plan.seconds(run, training, trajectory, (own.stop - own.start) * len(side.functional.names))
                duration = f"{expected / 60:.0f} min" if expected > 90 else f"{expected:.0f} s"
                about = f"about {duration}, {about}"
            hidden = quiet if company.first else True
            bar = Bar(total=plan.passes * len(run), desc=f"decompose ({about})", unit="step", disable=hidden)

            def advance(count: int) -> None:
                bar.update(count)
                company.step(count)

            with bar:
                for number in range(plan.passes):
                    start = min(own.start + number * plan.block, own.stop)
                    end = min(start + plan.block, own.stop)
                    cuts = [slice(a, min(a + plan.part, end)) for a in range(start, end, plan.part)]
                    parts = [PartSweep(ledger, rows, side.part(rows), rules, trajectory, averaged) for rows in cuts]
                    if parts:
                        sweep(parts, segments, unroller, trajectory, training, advance)
                    else:
                        # There are more processes than queries.
                        company.step(len(run))
        elif company.first:
            outputs_only(ledger, side, trajectory, averaged)
    if company.ranks is not None:
        ledger.gather(company.ranks)
    if not all(bool(torch.isfinite(t).all()) for t in (ledger.contributions, ledger.path)):
        raise NonFiniteError(
            "The ledger holds NaN or infinite values: the network gives such outputs or gradients for these queries "
            "at some step of the run. Look at the queries, and at operations like log(0) in the network."
        )
    facts = run.info()
    found = ledger.result({
        "run": {key: facts[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
        **_points(run), "first_step": run.start, "rule": rule, "weights": weights, "quadrature": rules.name,
        "dtype": str(dtype).removeprefix("torch."), "engine": {"training": training.way, "queries": side.way},
        "notes": [note for note in (own_precision, training.note, side.note) if note] + ledger.notes(),
        "seconds": round(time.perf_counter() - begun, 3), "bytes": needed,
        **({"expected seconds": round(expected, 1)} if expected else {}),
    })
    return found, ledger.booked if pieces is None else ledger.parts


def _points(run: Run) -> dict[str, Any]:
    """Between which parameters the chords of a run go, and whether these are checkpoints."""
    if not isinstance(run, ChordRun):
        return {}
    noted = (run.meta.get("notes") or {}).get("checkpoints") if not run.meta.get("thinned") else None
    return {"points": run.points, **({"checkpoints": noted} if noted else {})}


def _check_choices(run: Run, weights: str, rule: str, dtype: torch.dtype | None) -> None:
    as_choice(weights, "weights", ("trained", "average"))
    as_choice(rule, "rule", ("recorded", "displacement"))
    if weights == "average" and not run.has_average:
        raise DataError(
            "This run holds no averaged weights. Record with record(..., average=averaged_model) to explain them."
        )
    if weights == "average" and (run.start != 0 or run.average(run.stop) is None):
        raise DataError(
            "Averaged weights were stored at the first and the last step, so only the whole run can explain them. "
            'Decompose the run itself, not a slice, or pass weights="trained".'
        )
    checked_dtype(dtype)


def final_outputs(trajectory: Trajectory, averaged: AveragedTrajectory | None, queries: tuple[Tensor, ...]) -> Any:
    """The network's outputs at the end of the run.

    Raises:
        DataError: If it cannot take such queries.
    """
    run = trajectory.run
    parameters = trajectory.at(run.stop) if averaged is None else averaged.recorded_end
    try:
        return run.network(parameters, trajectory.buffers(run.stop), queries)
    except (RuntimeError, ValueError, IndexError) as error:
        trained = [(len(run.samples.ids), *t.shape[1:]) for t in run.samples.inputs]
        raise DataError(
            f"The network cannot take these queries ({str(error).strip().splitlines()[0][:200]}). Its inputs in "
            f"training had the shapes {trained}, samples first; the queries have {[tuple(q.shape) for q in queries]}."
        ) from error


def _groups(run: Run, groups: bool | Sequence[str] | None) -> tuple[list[str], Tensor | None]:
    """The names of the groups, and the group of each sample."""
    if groups is None or groups is False:
        return [], None
    labels = run.labels if groups is True else as_words(groups, "groups")
    if labels is None:
        return [], None
    if len(labels) != run.size:
        raise DataError(
            f"groups must hold a word for each of the {run.size} training samples; {len(labels)} came. "
            "Pass groups=True to group by label."
        )
    words = sorted(set(labels))
    places = {word: i for i, word in enumerate(words)}
    return words, torch.tensor([places[label] for label in labels])


@dataclass(frozen=True)
class _Plan:
    """How many queries go back through the run together, how many of them at once, and how many steps are held.

    Attributes:
        block: The queries that go back together.
        part: Those of them whose gradients are made at once.
        passes: How many times the run is gone through.
        length: How many steps are held in memory.
        bytes: About how much memory this takes.
        aside: About how much of the disk, for steps that do not fit.
    """

    block: int
    part: int
    passes: int
    length: int
    bytes: int
    aside: int

    @classmethod
    def make(cls, run: Run, side: QuerySide, dtype: torch.dtype, memory: int, displacement: bool, most: int) -> _Plan:
        """Divides the memory between rows of queries and steps.

        Args:
            run: The run.
            side: The queries.
            dtype: The precision of the ledger.
            memory: How much may be used.
            displacement: Whether no rule is used.
            most: How many of the queries go back in this process.

        Raises:
            OutOfBudget: If not even one query fits, or if the disk has no room for the steps that wait.
        """
        size, own = (max(run.parameter_count * kind.itemsize, 1) for kind in (dtype, run.dtype))
        names = set() if displacement else {run[k].optimizer for k in range(len(run))}
        moments = max((len(find_rule(name).moments) for name in names), default=0)
        counts = [[len(batch.columns) for batch in run[k].batches] for k in range(len(run))]
        batch, samples = max(map(max, filter(None, counts)), default=1), max(map(sum, counts))
        together = max(map(len, counts))
        width = max(len(side.functional.names), 1)
        # Between steps a row is its adjoint; at a step it is also a gradient, and a direction. A held step is its
        # parameters as they are stored, its gap and its preconditioner.
        kept, working, held = width * size, 2 * width * size, own + (1 + bool(moments)) * size
        # The gradients of a step's batches, where they are made, or their factors; the ends of a step, its chord and
        # its middle.
        rows = samples * size if batch * together * size <= memory // 8 else 0
        activations = samples * side.saved
        stepping = rows + 4 * size + 2 * activations
        # What is computed as a step is unrolled (its ends, its motion, gradient, momentum and moments, each before and
        # after), and the loop that computes steps that were not stored, with its gradients twice.
        unrolling = (3 if displacement else 7 + 2 * moments) * size + activations
        unrolling += 0 if _is_whole(run) else (5 + 2 * moments) * own
        if isinstance(run, ChordRun):
            # On a chord there are two sums of gradients, each beside the one that comes in, and two kinds of
            # directions; the momenta are those at its ends.
            unrolling, working = unrolling + 2 * moments * size, 3 * width * size
        # The states at both ends of a stretch.
        states = 0 if displacement else 2 * (1 + moments) * size
        # A probe holds parameters, some beside them, and the gradients of two queries and one; or, of a batch, ends of
        # a step, parameters beside them, directions, and gradients.
        probe = max(5 + 2 * width, 9) * size
        files = memory // READ + (2 + moments) * own
        fixed = states + max(working + stepping, unrolling)
        least = max(kept + held + fixed, probe + held)
        room = int((memory - TORCH) / SPREAD) - files
        if least > max(room, LEAST):
            would = (TORCH + SPREAD * (least + (2 + moments) * own)) / (1 - SPREAD / READ)
            raise OutOfBudget(
                f"One query with {width} outputs and {run.parameter_count:,} parameters in {_word(dtype)} needs about "
                f"{would / 2**20:.0f} MiB, and memory={memory} allows {memory / 2**20:.0f} MiB. Raise memory to "
                f'"{int(would // 2**20) + 1}MiB"'
                + ('; explain fewer outputs, for example output="margin"' if width > 1 else "")
                + ("; or pass dtype=torch.float32, which takes half." if dtype == torch.float64 else ".")
            )
        left = max(room - fixed, kept + held)
        block = min(max(1, (left - held) // kept), most)
        length = min(max(1, (left - block * kept) // held), len(run))
        if length == len(run):
            # All steps are held, so a further pass costs the gradients of the batches alone.
            block = min(block, -(-ROWS * batch // width))
        passes = -(-most // block)
        block = -(-most // passes)
        part = min(block, max(1, min(PART, max(room, LEAST) // 4) // kept))
        tensors = max(block * kept + states + max(part * working + stepping, unrolling), probe) + length * held
        needed = int(TORCH + SPREAD * (tensors + min(files, (len(run) + 1) * (2 + moments) * own)))
        aside = cls._waiting(run, length, held, size * (1 + moments), displacement)
        check_room(aside)
        return cls(block, part, passes, length, needed, aside)

    def seconds(self, run: Run, training: TrainingSide, trajectory: Trajectory, width: int) -> float:
        """About how long it takes, from what the gradient of the first step's batch takes.

        A step costs about six of them (it is computed again, unrolled, and its samples' gradients meet directions) and,
        for each row of the queries, a product with the batch and a few reads of the parameters.
        """
        step = run[0]
        if not step.batches:
            return 0.0
        at = trajectory.at(run.start)
        took = []
        for _ in range(2):
            begun = time.perf_counter()
            training.mean_gradient(step.batches[0], run.start, at, run.names)
            took.append(time.perf_counter() - begun)
        count = len(step.batches[0].columns)
        points = sum(len(batch.columns) for k in range(len(run)) for batch in run[k].batches)
        products = 2 if isinstance(run, ChordRun) else 1
        return min(took) * (points / count * (4 + products * width / 3) + len(run) * (2 + width))

    @staticmethod
    def _waiting(run: Run, length: int, held: int, states: int, displacement: bool) -> int:
        """How much waits on the disk at once."""
        if length == len(run):
            return 0
        places = [run.start, *(k for k in run.anchors if run.start < k < run.stop and k not in run.restarts), run.stop]
        if isinstance(run, ChordRun):
            return held * len(run)
        if len(places) == 2:
            stretch = max(length, math.isqrt(len(run)))
            return (0 if displacement else states * -(-len(run) // stretch)) + held * stretch * (stretch > length)
        longest = max(b - a for a, b in pairwise(places))
        return held * (longest + 1) * (longest > length)


def _is_whole(run: Run) -> bool:
    """Whether all rows are stored, and none is computed again."""
    return run.meta.get("keep", "all") == "all"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
