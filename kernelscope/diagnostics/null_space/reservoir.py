r"""Directions of the residual carried through a run, as its own steps carry them.

The gradient of a mean squared error is linear in the residual :math:`u = f - y`, and the rule of an optimizer is linear
in the gradient. So the steps take any direction v of the residual along: with the gradients :math:`\phi_k` at the start
of step k and :math:`\tilde\phi_k` along it,

.. math:: g_k = \tfrac{2}{Bc}\,\phi_k(\text{batch})^T v_k, \qquad \delta_k = \text{rule}(g_k, g_{k-1}, \dots), \qquad
          v_{k+1} = v_k + \tilde\phi_k\,\delta_k, \qquad T(x)v = \sum_k \tilde\phi_k(x)\,\delta_k .

A column costs as much memory as the optimizer's state, and no product of n by n matrices is formed. Of plain full-batch
descent :math:`\sum_k \Psi_k^T S_k\Psi_k = \frac n2(I - \Psi^T\Psi)`, the Gramian of what was dissipated. For every
rule, by the inequality of Cauchy and Schwarz over the steps,

.. math:: |T(x)v|^2 \le \sum_k |\tilde\phi_k(x)|^2_{w_k}\ \sum_k |\delta_k|^2_{1/w_k} .
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_switch
from ...budget import as_words
from ...decomposition.exact import final_outputs
from ...decomposition.output import output_functional
from ...decomposition.precision import checked_dtype, ledger_precision
from ...decomposition.query_side import QuerySide
from ...decomposition.questions import as_queries, checked_memory, checked_place, checked_run, in_order
from ...decomposition.stochastic.places import moves_plainly
from ...decomposition.stochastic.points import samples_of
from ...decomposition.training_side import TrainingSide
from ...decomposition.trajectory import Stretch, Trajectory
from ...decomposition.unrolling import Key, OptimizerState, UnrolledStep, Unroller
from ...errors import DataError, OutOfBudget, RuleError
from ...network import Parameters, cast, undisturbed
from ...progress import Bar
from ...result import as_float64
from ...run.run import Run
from .chords import rates_of
from .reservoir_result import Reservoir

#: Rounding of a long product of steps, relative, by the precision of the computation.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}

#: How far recorded steps of a lower precision may be from exact ones, relative.
COARSE = 0.1

#: Columns of which one is this part of the others' length beside them span no direction more.
SPANNED = 1e-10

#: What is said of a run that begins in motion.
HEAVY = ("The optimizer had momentum before the first step of this run, which no residual explains. Take the run from "
         "the first step of its optimizer, or ask null_space(run, x, y).")


def reservoir(run: Run, x: Any = None, *, directions: Tensor | None = None, dtype: torch.dtype | None = None,
              device: torch.device | str | None = None, memory: int | str = "1GB",
              progress: bool | None = None) -> Reservoir:
    r"""Tells which directions of the residual a run dissipated, and which it left: those no query hears of.

    .. math:: u_T = \Psi u_0, \qquad W = \tfrac n2(I - \Psi^T\Psi), \qquad f_T(x) - f_0(x) = T(x)u_0, \qquad
              Wv = 0 \Rightarrow T(x)v = 0

    Args:
        run: The recorded run, or a slice of it, of a mean squared error without weight decay, dropout or batch
            statistics.
        x: The queries, in any form that :func:`decompose` takes; none if not given.
        directions: Directions of the residual, with shape :math:`(n, c, r)`, in the order of the samples that were
            drawn; without it all of them, :math:`r = nc`.
        dtype: The precision to compute in, as in :func:`decompose`.
        device: Where to compute.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Raises:
        DataError: If queries or directions do not fit the run.
        OutOfBudget: If the columns do not fit into memory.
        RuleError: If the steps of the run are not linear in the residual.

    References:
        | (f3) of the theory notes
        | The Gramian of cumulative dissipation (Litman and Guo, arXiv 2605.01172)

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x = torch.nn.Linear(2, 1, bias=False).double(), torch.eye(2).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> with ks.record(model, (x, x[:, :1]), loss=F.mse_loss) as recording:
        ...     for _ in range(2):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), x[:, :1]).backward()
        ...         optimizer.step()
        >>> ks.reservoir(recording.run).values                # each step halves both directions: 1 - 1/16
        tensor([0.9375, 0.9375], dtype=torch.float64)
    """
    run = checked_run(run)
    checked_dtype(dtype)
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    if not len(run):
        raise DataError("This run has no steps, so it carried no residual. Record training, or take a longer slice.")
    with undisturbed(place):
        queries = None if x is None else as_queries(in_order(run, x), tuple(run.samples.inputs))
        dtype, _ = ledger_precision(run, dtype, samples_of(run).inputs if queries is None else queries, place)
        return reservoir_of(Trajectory(run, dtype, place), queries, directions, memory, quiet)


def reservoir_of(trajectory: Trajectory, queries: tuple[Tensor, ...] | None, directions: Tensor | None, memory: int,
                 quiet: bool | None) -> Reservoir:
    """The reservoir of a run that has been looked at, within :func:`undisturbed`."""
    run = trajectory.run
    _check_linear(run)
    samples = samples_of(run)
    if samples.targets is None:
        raise DataError("The run holds no targets, so there are no residuals. Record a loss that takes some.")
    side = samples.side(trajectory, None)
    side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
    n, c = len(side), len(side.functional.names)
    targets = as_float64(samples.targets).reshape(n, -1)
    if targets.shape[1] != c:
        raise DataError(f"The targets have {targets.shape[1]} entries for each sample and the outputs {c}, so "
                        "residuals are no differences of the two. Train outputs of the shape of the targets.")
    basis = _basis(directions, n, c)
    asked = None if queries is None else _queries(trajectory, queries)
    start = _outputs(trajectory, side, run.start)
    walk = _Walk(trajectory, side, asked, memory)
    columns = torch.cat([basis, (start - targets)[..., None]], 2).to(trajectory.device, trajectory.dtype)
    walk.check(columns.shape[2])
    with Bar(total=len(run), desc="reservoir", unit="step", disable=quiet) as bar:
        walk.go(columns, bar.update)
    carried, moved = as_float64(walk.columns), as_float64(walk.moved)
    ends = carried[..., :-1].reshape(n * c, -1)
    inner = torch.eye(ends.shape[1], dtype=torch.float64) - ends.T @ ends
    values, turn = torch.linalg.eigh((inner + inner.T) / 2)
    values, turn = values.flip(0), turn.flip(1)
    change = torch.zeros(0, c, dtype=torch.float64) if asked is None else (
        _outputs(trajectory, asked, run.stop) - _outputs(trajectory, asked, run.start))
    return Reservoir(
        values=values, directions=basis @ turn, energies=((walk.inner[:-1, :-1] @ turn) * turn).sum(0).clamp(min=0),
        moved=moved[..., :-1] @ turn, lengths=walk.lengths, initial=start - targets,
        final=_outputs(trajectory, side, run.stop) - targets, carried=carried[..., -1], change=change,
        foretold=moved[..., -1], labels=targets - targets.mean(0), ids=samples.ids,
        plain=all(moves_plainly(run.step(k)) for k in range(run.start, run.stop)),
        info={"first_step": run.start, "steps": len(run), "rounding": ROUNDING[trajectory.dtype],
              "recorded": max(ROUNDING[trajectory.dtype], ROUNDING.get(run.precision, COARSE)),
              "dtype": str(trajectory.dtype).removeprefix("torch."), "engine": side.way})


def _check_linear(run: Run) -> None:
    """Refuses a run whose steps are not linear in the residuals."""
    problem = ""
    if run.loss.name != "mse_loss":
        problem = f"its loss is {run.loss.name or 'one of its own'}, and only that of a mean squared error is"
    elif run.draws:
        problem = "samples came in changing forms, each with a residual of its own"
    for k in range(run.start, run.stop):
        step = run.step(k)
        if problem:
            break
        if any(group.get("weight_decay") for group in step.groups):
            problem = "weight decay moves parameters without any residual"
        elif any(batch.random is not None or run.network.couples(batch.training) for batch in step.batches):
            problem = "samples of a batch meet in dropout or batch normalisation"
        elif any(batch.at != k for batch in step.batches):
            problem = "a step used gradients of earlier parameters"
    if problem:
        raise RuleError(f"Residuals are carried by steps that are linear in them, and those of this run are not: "
                        f"{problem}. Ask null_space(run, x, y), which holds for every run.")


def _basis(directions: Any, n: int, c: int) -> Tensor:
    """Orthonormal directions, with shape (n, c, r)."""
    if directions is None:
        return torch.eye(n * c, dtype=torch.float64).reshape(n, c, n * c)
    if not isinstance(directions, Tensor) or directions.ndim != 3 or directions.shape[:2] != (n, c) or not (
            directions.shape[2]):
        came = f"shape {tuple(directions.shape)}" if isinstance(directions, Tensor) else type(directions).__name__
        raise DataError(f"directions must be a tensor with shape ({n}, {c}, r), one residual for each sample and "
                        f"output in a column; {came} came.")
    flat = as_float64(directions).reshape(n * c, -1)
    if not bool(flat.isfinite().all()):
        raise DataError("directions hold NaN or infinite values. Pass finite columns.")
    lengths = flat.norm(dim=0)
    count = flat.shape[1]
    apart = torch.linalg.svdvals(flat / lengths.clamp(min=torch.finfo(flat.dtype).tiny))
    if count > n * c or not bool(lengths.all()) or float(apart[-1]) <= SPANNED * float(apart[0]):
        rank = int((apart > SPANNED * float(apart[0])).sum()) if bool(lengths.any()) else 0
        raise DataError(f"directions must be columns of which none follows from the others; {count} came that span "
                        f"{rank} of {n * c} dimensions. Pass the columns of torch.linalg.qr of them that are needed.")
    return torch.linalg.qr(flat)[0].reshape(n, c, -1)


def _queries(trajectory: Trajectory, queries: tuple[Tensor, ...]) -> QuerySide:
    run = trajectory.run
    inputs = cast(queries, trajectory.dtype, trajectory.device)
    if not len(inputs[0]):
        raise DataError("No query came. Pass one or more as x, or leave x out for the residuals alone.")
    final = final_outputs(trajectory, None, inputs)
    functional = output_functional(None, final, None, run, len(inputs[0])).to(trajectory.dtype)
    side = QuerySide(run.network, inputs, functional, run.names)
    side.probe(trajectory.at(run.start), trajectory.buffers(run.start))
    return side


def _outputs(trajectory: Trajectory, side: QuerySide, k: int) -> Tensor:
    return as_float64(side.outputs(trajectory.at(k), trajectory.buffers(k))[1])


class _Walk:
    """Carries columns forward through the steps of a run."""

    def __init__(self, trajectory: Trajectory, side: QuerySide, asked: QuerySide | None, memory: int):
        self.trajectory, self.side, self.asked, self.memory = trajectory, side, asked, memory
        self.run = trajectory.run
        self._momentum: dict[Key, Tensor] = {}
        self._places = {int(i): j for j, i in enumerate(self.run.samples.seen.nonzero().flatten().tolist())}

    def check(self, count: int) -> None:
        """Refuses more columns than there is room for."""
        size = self.run.parameter_count * self.trajectory.dtype.itemsize
        needed = count * (4 * size + 3 * self.side.inputs[0].shape[0] * 8 * len(self.side.functional.names))
        if needed + 8 * size > self.memory:
            raise OutOfBudget(
                f"{count} directions of the residual need about {as_words(needed + 8 * size)}, and memory="
                f"{as_words(self.memory)} was given. Raise memory, or pass some as directions=.")
        self._block = max(1, int((self.memory - needed) // (6 * max(size, 1) * len(self.side.functional.names))))
        self._length = max(1, min(len(self.run), (self.memory - needed) // (8 * max(size, 1))))

    def go(self, columns: Tensor, done: Any) -> None:
        """Takes the columns, with shape (n, c, r), to the end of the run."""
        run = self.run
        self.columns = columns.clone()
        count, c = columns.shape[2], columns.shape[1]
        asked = 0 if self.asked is None else len(self.asked)
        self.moved = columns.new_zeros(asked, c, count)
        self.lengths = torch.zeros(asked, c, dtype=torch.float64)
        self.inner = torch.zeros(count, count, dtype=torch.float64)
        training = TrainingSide(run, self.trajectory.dtype, self.trajectory.device, self.memory // 4)
        unroller, state = Unroller(run, training, False), OptimizerState()
        # The steps before a slice are gone through for the states they leave behind.
        starts = [*range(0, run.start, self._length), *range(run.start, run.stop, self._length)]
        for first in starts:
            last = min(first + self._length, run.start if first < run.start else run.stop)
            if first == run.start and any(bool(m.any()) for m in state.momentum.values()):
                raise RuleError(HEAVY)
            rows = unroller.stretch(self.trajectory, first, last)
            for k, unrolled in zip(range(first, last), unroller.steps(first, last, state, rows), strict=True):
                if first < run.start:
                    continue
                if any(found is not None and bool(found.any()) for found in unrolled.fresh.values()):
                    raise RuleError(HEAVY)
                self._step(k, rows, unrolled)
                done()

    def _step(self, k: int, rows: Stretch, unrolled: UnrolledStep) -> None:
        here, there = rows[k], rows[k + 1]
        names = [name for name in unrolled.linear]
        moves = self._moves(k, here, unrolled, names)
        if not moves:
            return
        rates = rates_of(self.run, k, k + 1)
        flat = torch.cat([moves[name].flatten(1) for name in names], 1)
        root = torch.cat([torch.full((here[name].numel(),), rates[name] ** -0.5).to(flat) for name in names])
        scaled = flat * root
        self.inner += as_float64(scaled @ scaled.T)
        buffers = self.trajectory.buffers(k)
        step = torch.cat([(there[name] - here[name]).flatten() for name in names])
        whole = {name: there[name] - here[name] for name in self.run.names}
        energy = float((step * root).square().sum())
        middle = here | {name: here[name] + whole[name] / 2 for name in self.run.names}
        beside = (flat @ (step * root.square())) / energy if energy else torch.zeros(len(flat)).to(flat)
        for side, target in ((self.side, self.columns), (self.asked, self.moved)):
            if side is None:
                continue
            for start in range(0, len(side), self._block):
                part = side.part(slice(start, start + self._block))
                change = part.outputs(there, buffers)[1] - part.outputs(here, buffers)[1]
                found = dict(zip(part.names, part.gradients(middle, buffers), strict=True))
                p = torch.cat([found[name].flatten(1) for name in names], 1)
                q = p @ step
                e = change.flatten() - q
                target[start:start + self._block] += (p @ flat.T + e[:, None] * beside).reshape(
                    len(part), -1, len(flat))
                if side is self.asked:
                    own = (p / root).square().sum(1) + ((2 * e * q + e * e) / energy if energy else 0.0)
                    self.lengths[start:start + self._block] += as_float64(own).reshape(len(part), -1)

    def _moves(self, k: int, here: Parameters, unrolled: UnrolledStep, names: list[str]) -> Parameters:
        """How the rule moves the parameters by each column, with shape (r, *)."""
        step, buffers = self.run.step(k), self.trajectory.buffers(k)
        total: Parameters = {}
        c = self.columns.shape[1]
        for batch, weight in zip(step.batches, unrolled.weights, strict=True):
            at = torch.tensor([self._places[i] for i in batch.columns.tolist()])
            for places in at.split(self._block):
                side = _picked(self.side, places)
                found = dict(zip(side.names, side.gradients(here, buffers), strict=True))
                own = self.columns[places].reshape(-1, self.columns.shape[2])
                for name in names:
                    if name in unrolled.silent:
                        continue
                    g = (own.T @ found[name].flatten(1)) * (weight * 2 / (len(at) * c))
                    g = g.reshape(-1, *here[name].shape)
                    total[name] = total[name] + g if name in total else g
        moves: Parameters = {}
        for name in names:
            rule = unrolled.linear[name]
            clip = unrolled.clip if isinstance(unrolled.clip, float) else unrolled.clip[name]
            mean = total.get(name)
            d = (torch.zeros(self.columns.shape[2], *here[name].shape).to(here[name]) if mean is None
                 else mean * clip * rule.sign)
            update = rule.c * d
            if rule.a or rule.b:
                key = unrolled.keys[name]
                fresh = rule.b * (d if rule.before is None else rule.before(d))
                held = self._momentum.get(key)
                momentum = fresh if held is None else rule.a * held + fresh
                self._momentum[key] = momentum
                update = update + rule.e * momentum
            moves[name] = -(update if rule.after is None else rule.after(update))
        return moves


def _picked(side: QuerySide, places: Tensor) -> QuerySide:
    """Some of the points, by their places."""
    part = copy.copy(side)
    part.inputs = tuple(x[places] for x in side.inputs)
    return part
