r"""From a kernel, points and targets to a machine.

Among the functions :math:`f = \sum_j k(\cdot, z_j)\, \alpha_j + b` of p centers the one is found that minimises

.. math:: \frac1n \sum_i w_i\, |f(x_i) - y_i|^2 + \lambda\, \|f\|_H^2.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from .. import __version__
from ..arguments import as_count, as_seed, as_switch, what_came
from ..budget import as_bytes
from ..errors import DataError, NonFiniteError, OutOfBudget
from ..features.base import FeatureMap, points_between
from ..kernels.base import Kernel
from ..kernels.of_features import FeatureKernel
from ..progress import telling
from ..solvers import Loss, Newton, Problem, Solution, Solver, shared
from ..tiles import Leading, Tiles
from .checking import closed, look_at, usable, within
from .checkpoint import Checkpoint
from .describing import described
from .fit_features import fit_features
from .fitting import Fitting
from .keeping import probe
from .machine import KernelMachine
from .matrix import opened
from .plan import Plan, minimising, planned
from .primal import FeatureMachine
from .reading import (
    centers_of,
    checked_ridges,
    checked_weights,
    digest_of,
    look_over,
    points_and_targets,
    validation_of,
)
from .watching import Errors, Telling

#: The share of the memory that the products of a kernel may use, and what they have in any case.
SHARE, LEAST = 0.25, 2**20

#: How far an objective may be beyond what is possible, relative to that of a machine that is nought.
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}

#: On how many validation points the error is taken after each pass, at least, and for one of how many points.
WATCHED, EACH = 1000, 20


class Options(TypedDict, total=False):
    """What a fit may be told beside kernel, points, targets and solver."""

    centers: Any
    ridge: float | Sequence[float]
    intercept: bool
    weights: Any
    validation: Any
    checkpoint: str | os.PathLike[str] | None
    memory: int | str
    seed: int
    progress: bool | None
    distributed: bool
    loss: str | Loss | None
    tiles: str | os.PathLike[str] | Tiles | Leading | None
    patience: int | None


@overload
def fit(k: FeatureMap, x: Any, y: Any = None, *, solver: Literal["primal"] | None = None,
        **options: Unpack[Options]) -> FeatureMachine: ...


@overload
def fit(k: Kernel | FeatureMap, x: Any, y: Any = None, *, solver: Literal["primal"],
        **options: Unpack[Options]) -> FeatureMachine: ...


@overload
def fit(k: Kernel | FeatureMap, x: Any, y: Any = None, *, solver: Solver | str | None = None,
        **options: Unpack[Options]) -> KernelMachine: ...


@torch.no_grad()
def fit(k: Kernel | FeatureMap, x: Any, y: Any = None, *, centers: Any = None, ridge: float | Sequence[float] = 0.0,
        intercept: bool = False, solver: Solver | str | None = None, weights: Any = None, validation: Any = None,
        checkpoint: str | os.PathLike[str] | None = None, memory: int | str = "1GB", seed: int = 0,
        progress: bool | None = None, distributed: bool = False, loss: str | Loss | None = None,
        tiles: str | os.PathLike[str] | Tiles | Leading | None = None,
        patience: int | None = None) -> KernelMachine | FeatureMachine:
    r"""Fits a kernel machine; prints first what it will do and why, then how far it is.

    The machine is computed where the points are and in their precision; for more digits pass ``x.double()``.

    Args:
        k: The kernel. One whose bandwidth is left open gets the median distance of the points. Or a map of features,
            whose p weights are solved for in one pass over however many points; one whose bandwidth is left open gets
            that distance too.
        x: The points, n of them: a tensor, an array, the path of an ``.npy`` file, a data set, or a loader that does
            not shuffle; what does not fit in memory is read in parts.
        y: Their targets, with shape (n,) or (n, c); without them x gives both, as ``(x, y)`` or as a data set does.
            Numbers are fitted as they are: classes are columns of 0 and 1, as ``torch.nn.functional.one_hot`` makes.
        centers: ``None`` for all points, a number p of them drawn at random, or points of your own.
        ridge: :math:`\lambda`, from 0 on; or several, which are fitted in the same passes. The machine is then the one
            with the smallest validation error, or of the first without validation; ``machine.at(ridge)`` gives each.
            Of features it is without validation the one with the smallest GCV, and any other can be asked for. If not
            given there is none, ridge 0, for a kernel as for features: nothing is chosen, and as many features as
            points pass through all targets, noise and all. ``ridge=[1e-6, 1e-3, 1]`` lets GCV choose.
        intercept: Whether a constant is fitted, which costs nothing in :math:`\|f\|_H`.
        solver: ``"direct"``, ``"cg"``, ``"eigenpro"``, a solver of ``ks.solvers``; or ``None`` to take the one with
            the fewest operations that fits into memory. With all points as centers and a ridge above rounding,
            ``"cg"`` is :class:`~kernelscope.solvers.PCG`. ``"primal"`` solves for the weights of the features of a
            kernel, as is done for a map anyway; it has no centers, tiles and checkpoints, and takes the squared loss.
        weights: The weight of each point, with shape (n,); only their ratios matter.
        validation: Points and targets to measure the error on, ``(x, y)``; by the loss that the solver minimises.
        checkpoint: A folder to keep in where the fit stands. The same call goes on from there, after a crash or after
            Ctrl-C, to the same coefficients bit for bit; a call with other data or settings is refused.
        memory: About how much may be used beside the data, a number of bytes or a size such as ``"1GB"``.
        seed: Which points become centers.
        progress: ``True`` tells of each pass, ``False`` of nothing; if not given, of the plan, and of a pass every few
            seconds.
        distributed: Whether the processes of ``torch.distributed`` fit together. Each of them, as ``torchrun`` starts
            them, calls ``fit`` with the same arguments, computes with its share of the centers, and gets the machine;
            only the first one prints and writes. ``memory`` is that of each.
        loss: ``"squared"``, ``"logistic"`` for targets between 0 and 1, ``"softmax"`` for one class of several,
            ``"huber"`` for targets with outliers, or a loss of ``ks.solvers``; those but the first are minimised by
            :class:`~kernelscope.solvers.Newton`. If not given, that of the solver.
        tiles: A folder to keep the kernel matrix in, where all points are centers, or ``ks.Tiles`` of these points, or
            the leading part of those of more. Tiles that are missing in the folder are computed first, by all processes
            together, and a later fit to the same points reads them.
        patience: After how many passes without a lower validation error the fit ends; of several ridges, without one
            for any of them. The machine is then, for each ridge, that of the pass with the lowest error; of many
            validation points some are looked at. If not given, the validation error ends nothing.

    Returns:
        The machine, of features a :class:`~kernelscope.machine.primal.FeatureMachine`. Its values have shape (q,) for
        targets of shape (n,), and (q, c) for (n, c).

    Raises:
        DataError: If shapes, numbers or the kernel cannot be used; said before the work begins.
        NonFiniteError: If a point, a target, a weight or a kernel value is NaN or infinite.
        OutOfBudget: If it does not fit into ``memory``.
        ProcessLost: If one of several processes ends or does not answer.

    Example:
        >>> import torch, kernelscope as ks
        >>> x = torch.linspace(0, 6, 50, dtype=torch.float64)[:, None]
        >>> k = ks.kernels.Gaussian(bandwidth=1.0)
        >>> machine = ks.fit(k, x, x[:, 0].sin(), centers=10, ridge=1e-8, progress=False)
        >>> machine
        KernelMachine(Gaussian(bandwidth=1), 10 centers, 1 output, ridge 1e-08)
        >>> bool((machine(x) - x[:, 0].sin()).abs().max() < 1e-2)
        True
    """
    start, quiet = time.monotonic(), progress is not None and not as_switch(progress, "progress")
    if isinstance(solver, str) and solver == "primal" or solver is None and isinstance(k, FeatureMap):
        return fit_features(k, x, y, ridge, intercept, weights, validation, memory,
                            (lambda line: None) if quiet else _print, progress, centers=centers, checkpoint=checkpoint,
                            distributed=distributed, loss=loss, tiles=tiles, patience=patience)
    k = FeatureKernel(k) if isinstance(k, FeatureMap) else k
    solver = minimising(solver, loss)
    task = _task(k, x, y, centers, ridge, intercept, weights, validation, _patient(patience, validation),
                 as_bytes(memory), as_seed(seed), checkpoint is not None, as_switch(distributed, "distributed"),
                 solver.loss if isinstance(solver, Solver) else None, tiles)
    say: Callable[[str], None] = _print if task.problem.first and not quiet else (lambda line: None)
    place = None if checkpoint is None else Checkpoint(checkpoint, task.belongs | {"solver": _settings(solver)},
                                                       writes=task.problem.first)
    try:
        if place is not None:
            task.problem.agree(float(place.meta.get("passes", -1)), f"what {place.folder} holds, which all have to see")
        used, plan = planned(task.problem, solver, task.words, None if place is None else place.choice)
        say(repr(plan))
        if place is not None:
            place.begin(plan.name)
        if place is None or not place.meta.get("done"):
            _build(task.problem, say, progress)
        watch = Telling(say, progress is True, task.watched, place, task.problem, plan.step, task.patience)
        solution = _solved(used, task.problem, watch, place, say)
    finally:
        if place is not None:
            place.close()
    machine = _machine(task, solution, watch, plan, time.monotonic() - start)
    assert machine.fitting is not None
    say(repr(machine.fitting))
    return machine


@dataclass(frozen=True, eq=False)
class _Task:
    """What is to be done, read and looked over."""

    kernel: Kernel
    centers: Any
    problem: Problem
    single: bool
    words: str
    belongs: dict[str, Any]
    errors: Errors | None
    patience: int | None

    @property
    def watched(self) -> Errors | None:
        """The errors that are looked at while the solver works, on few enough points."""
        return None if self.errors is None else self.errors.of_some(max(WATCHED, len(self.problem.x) // EACH))


def _task(k: Kernel, x: Any, y: Any, centers: Any, ridge: Any, intercept: bool, weights: Any, validation: Any,
          patience: int | None, memory: int, seed: int, fingerprint: bool, distributed: bool, loss: Loss | None,
          tiles: Any) -> _Task:
    ridges, constant = checked_ridges(ridge), as_switch(intercept, "intercept")
    kernel = usable(k, None)
    points, targets = points_and_targets(kernel, x, y)
    w = checked_weights(weights, len(points))
    others = validation_of(kernel, validation, targets)
    digest = hashlib.sha256() if fingerprint else None
    look_over(kernel, points, digest)
    kernel = usable(kernel, points)
    z = centers_of(kernel, points, centers, seed, memory)
    far = kernel.points(z)
    near = far if centers is None else points
    used = within(kernel, max(LEAST, int(SHARE * memory)))
    try:
        like = look_at(used, near, far)
    except OutOfBudget as error:
        if not closed(kernel):
            raise
        raise OutOfBudget(f"The kernel's products get a quarter of fit's memory. {error} So give fit four times of "
                          "that.") from error
    y2 = targets.to(like).view(len(points), -1)
    matrix = None if tiles is None else opened(tiles, used, near, far, memory)
    problem = Problem(used, near, y2, far, ridges, None if w is None else w.to(like), constant, memory, matrix)
    if distributed:
        problem = shared(problem)
        if matrix is not None:
            problem.agree(float(matrix.side), "the side of the tiles")
    if others is not None:
        used(points_between(others[0], 0, 1), points_between(far, 0, 1))
    errors = None
    if others is not None:
        y3 = others[1].to(like).view(len(others[1]), -1)
        if loss is not None:
            loss.check(y3, None, False)
        errors = Errors(used, far, others[0], y3, loss, memory)
    belongs = {} if digest is None else {
        "x": digest.hexdigest(), "y": digest_of(y2), "weights": digest_of(w), "z": digest_of(*_tensors(z)),
        "kernel": described(kernel) or {"kernel": type(kernel).__name__, "values": digest_of(probe(kernel, z))},
        "ridge": list(ridges), "intercept": constant, "memory": memory, "dtype": str(like.dtype),
        "version": __version__, "tiles": None if matrix is None else [matrix.side, str(matrix.dtype)],
        # Without patience it does not matter on what the error is looked at.
        "patience": None if patience is None or errors is None else [patience, *_told(errors)],
    } | ({"processes": problem.processes} if problem.processes > 1 else {})
    return _Task(kernel, z, problem, targets.ndim == 1, _in_words(problem, kernel, centers), belongs, errors, patience)


def _patient(patience: Any, validation: Any) -> int | None:
    if patience is None:
        return None
    if validation is None:
        raise DataError("patience counts passes without a lower validation error, and there is no validation. Pass "
                        "validation=(x, y), or leave patience out.")
    return as_count(patience, "patience", 1)


def _told(errors: Errors) -> tuple[str, str]:
    """The checksums of validation points and targets."""
    digest = hashlib.sha256()
    look_over(errors.kernel, errors.x, digest)
    return digest.hexdigest(), digest_of(errors.y)


def _build(problem: Problem, say: Callable[[str], None], progress: bool | None) -> None:
    """Computes the tiles that are missing."""
    if not isinstance(problem.tiles, Tiles) or not problem.tiles.missing:
        return
    # How long they take is in the plan.
    say(f"kernel matrix: {problem.tiles.missing:,} of {len(problem.tiles.places):,} tiles to compute, in "
        f"{problem.tiles.folder}")
    try:
        problem.tiles.build(progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Interrupted with {problem.tiles.missing:,} tiles missing. The same call goes on from "
                                f"{problem.tiles.folder}.") from None


def _solved(solver: Solver, problem: Problem, watch: Telling, place: Checkpoint | None,
            say: Callable[[str], None]) -> Solution:
    if place is not None and place.meta.get("done") and place.tensors is not None:
        say(f"{place.folder} holds this fit, and it is done.")
        return _restored(place, problem.y.device)
    if watch.lowest is not None and watch.lowest.enough:
        # It was interrupted between its last pass and its end.
        return watch.lowest.ended(tuple(one["residual"] or 0.0 for one in watch.history), watch.passes)
    if place is not None and watch.kept is not None:
        say(f"goes on after {watch.step} {watch.passes:.3g}, from {place.folder}")
    try:
        with telling(False):
            solution = solver.solve(problem, watch)
    except KeyboardInterrupt:
        watch.write()
        how = (f"The same call goes on from {place.folder}." if place is not None
               else "Nothing was kept; pass checkpoint=, a folder, to go on after an interruption.")
        raise KeyboardInterrupt(f"Interrupted after {watch.step} {watch.passes:.3g}. {how}") from None
    _check_end(solver, problem, solution, watch.lowest is not None and watch.lowest.enough)
    if watch.lowest is not None:
        solution = watch.lowest.of(solution)
    if place is not None:
        _keep(place, solution, watch)
    return solution


def _check_end(solver: Solver, problem: Problem, solution: Solution, early: bool) -> None:
    """Whether a machine came out that can be one; the objective is looked at where the fit did not end early.

    Raises:
        NonFiniteError: If a coefficient is NaN or infinite.
        DataError: If the objective is none that the best machine could have.
    """
    if not bool(solution.coefficients.isfinite().all() and solution.intercepts.isfinite().all()):
        raise NonFiniteError(f"{solver!r} ended with NaN or infinite coefficients. Look at the kernel's numbers and at "
                             'the points, raise ridge, or take solver="direct".')
    if early:
        return
    rest = problem.y - problem.mean() if problem.intercept else problem.y
    # A machine that is nought has this error; other losses than the squared one are measured by other numbers.
    most = float(problem.weighed(rest).mul(rest).mean(0).sum()) if not isinstance(solver, Newton) else math.inf
    # What an intercept takes up leaves its rounding.
    size = float(problem.weighed(problem.y).mul(problem.y).mean(0).sum())
    slack = CLOSE.get(problem.y.dtype, 1e-2) * most if math.isfinite(most) else 0.0
    slack += 64 * torch.finfo(problem.y.dtype).eps * size if math.isfinite(size) else 0.0
    bad = [value for value in solution.objective if not -slack <= value <= most + slack]
    if bad:
        raise DataError(
            f"{solver!r} ended at an objective of {bad[0]:.3g}, and the best machine has one from 0 to {most:.3g}: "
            f"rounding in {str(problem.y.dtype)[6:]} has the last word for this kernel and this ridge. Take "
            'solver="direct" or "cg" with enough memory, a larger ridge, or x.double().'
        )


def _keep(place: Checkpoint, solution: Solution, watch: Telling) -> None:
    """Keeps what was found, so that the same call finds it again."""
    watch.write()
    place.keep({"coefficients": solution.coefficients, "intercepts": solution.intercepts,
                "objective": torch.tensor(solution.objective, dtype=torch.float64),
                "history": torch.tensor(solution.history, dtype=torch.float64)} | watch.as_tensors(),
               {"done": True, "passes": solution.passes, "notes": list(solution.notes)})


def _restored(place: Checkpoint, device: torch.device) -> Solution:
    t, meta = place.tensors_on(device), place.meta
    assert t is not None
    return Solution(t["coefficients"], t["intercepts"], tuple(t["objective"].tolist()), meta["passes"],
                    tuple(t["history"].tolist()), tuple(meta["notes"]))


def _machine(task: _Task, solution: Solution, watch: Telling, plan: Plan, seconds: float) -> KernelMachine:
    problem, notes = task.problem, list(solution.notes)
    errors = None if task.errors is None else task.errors(solution.coefficients, solution.intercepts).cpu()
    chosen = 0 if errors is None else int(errors.argmin())
    if errors is None and len(problem.ridge) > 1:
        notes.append(f"Without validation this is the machine of the first of {len(problem.ridge)} ridges; "
                     "machine.at(ridge) gives the others.")
    alpha, b = solution.coefficients, solution.intercepts
    objective = torch.tensor(solution.objective, dtype=torch.float64)
    fitting = Fitting(list(problem.ridge), chosen, objective, errors, alpha, b, watch.history, solution.passes, seconds,
                      plan.plain(), notes)
    alpha, b = fitting.solution(chosen)
    return KernelMachine(task.kernel, task.centers, alpha[:, 0] if task.single else alpha, b[0] if task.single else b,
                         fitting=fitting)


def _settings(solver: Any) -> Any:
    """A solver in words that say all of its settings."""
    if not isinstance(solver, Solver):
        return solver if solver is None or isinstance(solver, str) else what_came(solver)
    return _inside(solver)


def _inside(value: Any) -> Any:
    """A solver, or a loss, with all that it holds; numbers to their last digit."""
    if not isinstance(value, Solver | Loss):
        return repr(value)
    return {"is": type(value).__name__} | {name: _inside(held) for name, held in sorted(vars(value).items())}


def _tensors(centers: Any) -> list[Tensor]:
    if isinstance(centers, Tensor):
        return [centers]
    return list(centers.values() if isinstance(centers, dict) else centers)


def _in_words(problem: Problem, kernel: Kernel, centers: Any) -> str:
    (n, p), c = problem.shape, problem.outputs
    what = "all of them centers" if centers is None else f"{p:,} center{'s' * (p > 1)}"
    return (f"{kernel!r}, {n:,} point{'s' * (n > 1)}, {what}, {c} output{'s' * (c > 1)}, "
            f"{str(problem.y.dtype)[6:]}" + (f", {len(problem.ridge)} ridges" if len(problem.ridge) > 1 else ""))


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
