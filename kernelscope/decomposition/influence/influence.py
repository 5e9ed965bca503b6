r"""What the weight of each sample in training does to the outputs of the trained network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_positive, as_switch
from ...errors import DataError, NonFiniteError, RuleError
from ...network import cast, undisturbed
from ...progress import Bar
from ...ranks import spearman
from ...run.chords import ChordRun
from ...run.run import Run
from ..exact import final_outputs
from ..output import output_functional
from ..precision import checked_dtype, ledger_precision
from ..query_side import QuerySide
from ..questions import as_queries, as_targets, checked_memory, checked_place, checked_run
from ..training_side import TrainingSide
from ..trajectory import Trajectory
from ..unrolling import Unroller
from .at_the_end import at_the_end
from .bending import Bending
from .damping import damping_of
from .metagradient import Back, Plan, look
from .result import METHODS, Influence
from .statistics import Statistics

#: What is said of steps that torch rounds to low precision.
LOW = ("{count} steps of Muon are rounded to bfloat16 as they are made; the derivative is that of the polynomial that "
       "they round.")
AUTOCAST = ("The passes of this run were made in reduced precision; the derivative is that of the same passes in full "
            "precision.")


def influence(
    run: Run,
    x: Any,
    output: str | int | Callable[..., Tensor] | None = None,
    *,
    targets: Any = None,
    method: str = "metagradient",
    damping: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory: int | str = 2**29,
    progress: bool | None = None,
) -> Influence:
    r"""The derivative of the trained network's outputs by the weight of each sample in training.

    .. math:: I_i(x) = \frac{\partial f_T(x)}{\partial w_i}\Big|_{w=1}, \qquad
              f_{\text{without } i}(x) \approx f_T(x) - I_i(x),

    where step k uses the gradient :math:`\frac1B\sum_i w_i\nabla\ell_i(\theta_k)`, or that of the recorded loss's own
    mean: with class weights or ignored targets :math:`\sum_i w_i c_i\nabla\ell_i / \sum_i c_i`. It is counterfactual
    and first order, and no share of the output: for shares see :func:`kernelscope.decompose`.

    ``"metagradient"`` goes through the whole recorded training, momentum, preconditioners, decay, clipping and batch
    statistics included; batches, random numbers, learning rates and the divisors of means are as recorded: leaving a
    sample out of a weighted mean would change its divisor too, and that is not part of this derivative. Of a slice of a
    run it is the derivative by the weights in those steps.

    ``"gauss-newton"`` looks at the end alone, in eval mode and at the n samples that training drew:
    :math:`I_i = -\frac1n\nabla f^T (G + \delta I)^{-1}\nabla\ell_i` with the Gauss-Newton matrix
    :math:`G = \frac1n J^T H_{out} J` of the mean loss. The damping :math:`\delta` is in the units of G. If it is not
    given it is :math:`1/\tau` with the training time :math:`\tau = \sum_k\eta_k/(1-\mu)` (of rules that precondition,
    :math:`\tau = \sum_k |\theta_{k+1}-\theta_k|/|\hat g_k|`), plus coupled weight decay: directions of less curvature
    were not learned in that time. :meth:`Influence.check` tells how the ranks change with ten times and a tenth of it.

    Args:
        run: The recorded run, or a slice of it.
        x: The queries, with shape :math:`(q, *)`, in any form that :func:`kernelscope.decompose` takes.
        output: What is asked about, as for :func:`kernelscope.decompose`: ``None`` for all outputs, a number,
            ``"margin"``, ``"answer"``, ``"loss"``, or a function.
        targets: The queries' targets, with one row for each, where the output needs them.
        method: ``"metagradient"`` or ``"gauss-newton"``.
        damping: The :math:`\delta` of ``"gauss-newton"``.
        dtype: The precision, ``float64`` if not given, and ``float32`` where the network allows no other.
        device: Where to compute; where the model was when it was recorded or loaded, if not given.
        memory: About how many bytes the computation may use beside the run itself, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`Influence`, of shape :math:`(q, c, n)`; samples that were never drawn have 0.

    Raises:
        DataError: If queries, targets or options do not fit the run, or its steps are not known.
        ModelError: If the network is no function of a query, or keeps state that is no running statistic.
        RuleError: If an optimizer's rule is not known, gradients were scaled in an unknown way, more than half of
            the path is not explained by the rule, or the run is of a game.
        NonFiniteError: If a query, a gradient or an influence is NaN or infinite.
        OutOfBudget: If not even one query fits in memory.

    References:
        "Data Cleansing for Models Trained with SGD" (Hara et al., 2019), and "MAGIC: Near-Optimal Data Attribution for
        Deep Learning" (Ilyas and Engstrom, arXiv 2504.16430) for the first method; "Understanding Black-box Predictions
        via Influence Functions" (Koh and Liang, 2017), equation 2, and "Studying Large Language Model Generalization
        with Influence Functions" (Grosse et al., arXiv 2308.03296), section 2, for the second.

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
        >>> found = ks.influence(recording.run, torch.ones(1, 3))
        >>> found.influences.shape, found.removed([0, 3]).shape
        (torch.Size([1, 1, 8]), torch.Size([1, 1]))
    """
    begun = time.perf_counter()
    run = checked_run(run)
    as_choice(method, "method", METHODS)
    checked_dtype(dtype)
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    if damping is not None:
        damping = as_positive(damping, "damping", "1e-2")
        if method != "gauss-newton":
            raise DataError('A damping is part of method="gauss-newton"; the metagradient has none. Leave it out.')
    if method == "metagradient" and isinstance(run, ChordRun):
        raise DataError(
            "This run is known by some of its parameters alone, and the metagradient goes back through every step. "
            'Pass method="gauss-newton", which looks at the end of training, or the recording if this one is thinned.'
        )
    with undisturbed(place):
        asked = _Asked.of(run, x, output, targets, dtype, place, memory)
        if method == "metagradient":
            values, influences, info = _through_the_run(run, asked, memory, quiet)
        else:
            values, influences, info = _at_the_end(run, asked, damping, memory, quiet)
    _refuse_infinite([influences])
    facts = run.info()
    notes = [note for note in (asked.note, asked.training.note, asked.side.note) if note] + info.pop("notes")
    return Influence(
        influences=influences.view(*values.shape, run.size), values=values.double().cpu(), method=method,
        sample_ids=torch.tensor(run.samples.ids, dtype=torch.int64), labels=run.labels,
        output_names=asked.side.functional.names,
        info={
            "run": {key: facts[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
            "first_step": run.start, "dtype": str(asked.trajectory.dtype).removeprefix("torch."), **info,
            "notes": notes, "seconds": round(time.perf_counter() - begun, 3),
        })


def influences_at(run: Run, x: Any, dampings: list[float], *, output: Any = None, targets: Any = None,
                  device: torch.device | str | None = None, memory: int | str = 2**29,
                  progress: bool | None = None) -> list[Tensor]:
    """The Gauss-Newton influences at several dampings, which share the matrix, each with shape (q c, n).

    The arguments are those of :func:`influence`.
    """
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        asked = _Asked.of(run, x, output, targets, None, place, memory)
        found = at_the_end(run, asked.trajectory, asked.side, asked.training.to, dampings, memory, quiet).influences
    _refuse_infinite(found)
    return found


def _refuse_infinite(influences: list[Tensor]) -> None:
    if not all(bool(found.isfinite().all()) for found in influences):
        raise NonFiniteError(
            "Influences are NaN or infinite: the network gives such outputs or derivatives at some step of the run, or "
            "a derivative grew without bound. Look at the queries, and at operations like log(0) in the network."
        )


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked of a run, in the precision and at the place of the computation."""

    trajectory: Trajectory
    side: QuerySide
    training: TrainingSide
    note: str | None

    @classmethod
    def of(cls, run: Run, x: Any, output: Any, targets: Any, dtype: torch.dtype | None, place: torch.device,
           memory: int) -> _Asked:
        given = as_queries(x, tuple(run.samples.inputs))
        dtype, note = ledger_precision(run, dtype, given, place)
        queries = cast(given, dtype, place)
        trajectory = Trajectory(run, dtype, place)
        final = final_outputs(trajectory, None, queries)
        aims = cast(as_targets(targets, len(queries[0])), dtype, place)
        functional = output_functional(output, final, aims, run, len(queries[0])).to(dtype)
        return cls(trajectory, QuerySide(run.network, queries, functional, run.names),
                   TrainingSide(run, dtype, place, memory // 4), note)


def _at_the_end(run: Run, asked: _Asked, damping: float | None, memory: int,
                quiet: bool | None) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The outputs, their damped Gauss-Newton influences with shape (q c, n), and what was measured."""
    used = damping_of(run) if damping is None else damping
    # How the ranks change with ten times and a tenth of the damping is part of the answer.
    found = at_the_end(run, asked.trajectory, asked.side, asked.training.to, [used, 10 * used, used / 10], memory,
                       quiet)
    own, *others = found.influences
    if not len(own):
        return found.values, own, {"notes": []}
    seen = run.samples.seen if run.samples.seen.dtype == torch.bool else slice(None)
    beside = [float(spearman(own[:, seen], other[:, seen]).mean()) for other in others]
    return found.values, own, {
        "damping": used, "damping_rule": "1 / training time" if damping is None else "given",
        "sensitivity": min(beside), "notes": [], **found.info}


def _through_the_run(run: Run, asked: _Asked, memory: int,
                     quiet: bool | None) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The outputs, their metagradients with shape (q c, n), and what was seen on the way."""
    trajectory, training, side = asked.trajectory, asked.training, asked.side
    width, count = len(side.functional.names), len(side)
    _refuse_games(run)
    if not len(run) or not count:
        values = side.outputs(trajectory.at(run.stop), trajectory.buffers(run.stop))[1]
        return values, torch.zeros(count * width, run.size, dtype=torch.float64), {"notes": []}
    side.probe(trajectory.at(run.stop), trajectory.buffers(run.stop))
    plan = Plan.make(run, count, width, trajectory.dtype, memory)
    unroller = Unroller(run, training, displacement=False, keeping=True)
    statistics = Statistics(run, training, run.names)
    bending = Bending(training, run.names, memory // 4)
    parts, growth = [], 1.0
    desc = f"influence (about {plan.bytes / 2**20:.0f} MiB)"
    with Bar(total=(plan.passes + 1) * len(run), desc=desc, unit="step", disable=quiet) as bar:
        seen = look(run, unroller, trajectory, plan.length, bar.update)
        for start in range(0, count, plan.block):
            back = Back(run, trajectory, training, side.part(slice(start, start + plan.block)), bending, statistics)
            back.go(seen, unroller, bar.update)
            parts.append(back)
            growth = max(growth, back.growth)
    notes = [*bending.notes]
    if seen.rounded:
        notes.append(LOW.format(count=seen.rounded))
    if any(batch.autocast for k in range(run.start, run.stop) for batch in run.step(k).batches):
        notes.append(AUTOCAST)
    return torch.cat([part.values for part in parts]), torch.cat([part.influences for part in parts]), {
        "unexplained": min(1.0, seen.path[1] / seen.path[0]) if seen.path[0] else 0.0,
        "unexplained_steps": len(seen.unexplained), "first_unexplained": seen.unexplained[:5],
        "clipped_steps": seen.scaling.clipped, "growth": growth, "bytes": plan.bytes, "notes": notes,
        "engine": {"training": training.way, "queries": side.way},
    }


def _refuse_games(run: Run) -> None:
    if any(run.step(k).seen is not None for k in range(run.start, run.stop)):
        raise RuleError(
            "This run is one of two networks that trained against each other, and a sample's weight would move the "
            'other one as well, which this run does not hold. Use influence(..., method="gauss-newton"), which holds '
            "the other network fixed, or look at contributions."
        )
