r"""The kernels of a recorded run.

Training is a sum of kernel machines, and there is more than one kernel to sum. With :math:`\phi_k(x)` the gradient of
the outputs at the start of step k:

- the **step kernel** :math:`\bar K_k(x, z) = \langle\int_0^1\nabla f(x; \theta_k + sD_k)\,ds,\ \phi_k(z)\rangle` is the
  exact one; it has two sides, and is neither symmetric nor positive semi-definite;
- the **path kernel** :math:`\sum_k \eta_k\langle\phi_k(x), \phi_k(z)\rangle` is symmetric and positive semi-definite,
  and exact in the limit of small steps only;
- the **second-order kernel** is the mean of the step kernel over the batches that hold a sample;
- the **loss path kernel** :math:`\sum_k \eta_k\langle\nabla\ell(z), \nabla\ell(z')\rangle` has weights that are the
  same for all samples: :math:`\ell(z; \theta_T) = \ell(z; \theta_0) - \frac1n\sum_i K(z, z_i)` for small full-batch
  steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_place, as_switch
from ...errors import DataError
from ...network import undisturbed
from ...progress import Bar
from ...result import as_float64
from ...run.run import Run
from ..precision import checked_dtype, ledger_precision
from ..quadrature import Quadrature
from ..query_side import QuerySide
from ..questions import checked_memory, checked_place, checked_run
from ..trajectory import Trajectory
from .gradient_products import Plan, sum_of_products
from .kernel import NAMES, PathKernel
from .places import along_a_step, along_the_run, moves_plainly, time_of
from .points import Points, as_points, samples_of
from .sampling import SCHEMES, sampling_of
from .second_kernel import second_kernel
from .second_order import SecondOrder

#: What is said of runs whose steps are not the gradient times the learning rate.
OWN_TIME = (
    "The time of the run is the sum of its learning rates. {names} moves parameters otherwise than by the gradient "
    "times this rate, so the kernel is one of the path that was taken and not of its updates."
)


def path_kernel(run: Run, x: Any = None, z: Any = None, *, kind: str = "path", outputs: str = "trace",
                step: int | None = None, quadrature: str | None = None, sampling: str = "replacement",
                output: str | int | Callable[..., Tensor] | None = None, targets: Any = None,
                dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                memory: int | str = 2**29, progress: bool | None = None) -> PathKernel:
    r"""A kernel of a recorded run between points.

    .. math:: K(x, z) = \sum_k \eta_k\, \langle\phi_k(x), \phi_k(z)\rangle \qquad \text{(the path kernel)}

    with shape :math:`(q, m)`, summed over outputs, or :math:`(q, c, m, c)`. The network is read in eval mode. A
    parameter counts at the steps that moved it, each with the learning rate of its group.

    Args:
        run: The recorded run, or a slice of it.
        x: The points of the rows, in any form that :func:`decompose` takes; the training samples if not given.
        z: The points of the columns; those of the rows if not given. Where targets are needed, a pair of both.
        kind: - ``"path"``: the sum over the steps of the tangent kernel times the learning rate.
              - ``"loss"``: the same of losses, between points with targets.
              - ``"step"``: the exact kernel of one step, with the gradient of x averaged along it and that of z taken
                at its start. Of plain SGD a step changes f(x) by :math:`-\frac{\eta}{B}\sum_i \bar K(x, x_i)\ell'_i`.
              - ``"second"``: the mean of this over batches drawn with replacement that hold sample i, to second order
                in the learning rate, times :math:`\ell'_i`: a row for each x and output, a column for each sample, with
                shape :math:`(q, c, n)`; at one step, or over the run in the mean by learning rate.
        outputs: ``"trace"`` sums over outputs, ``"full"`` keeps pairs of them apart; a loss is one output, and a
            second-order kernel has each by itself.
        step: The step, from 0 on.
        quadrature: Of ``"path"`` and ``"loss"`` ``"left"`` or ``"trapezoid"``; of ``"step"`` ``"gaussM"``,
            ``"midpoint"`` or ``"left"``. Without it ``"left"``, and ``"gauss5"``.
        sampling: Of ``"second"`` how batches are drawn: ``"replacement"``, ``"independent"`` or ``"reshuffling"`` (no
            sample twice in a batch), or ``"fixed"``. A note says so if those of the run look otherwise.
        output: What is explained, as in :func:`decompose`.
        targets: The targets of x, where an output needs them, or for the names of classes.
        dtype: The precision to compute in, as in :func:`decompose`.
        device: Where to compute.
        memory: About how many bytes may be used, as a number or as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`PathKernel`.

    Raises:
        DataError: If points, targets or options do not fit the run.
        ModelError: If the network is no function of a point.
        OutOfBudget: If the answer does not fit into memory.
        RuleError: If the kind asks for plain SGD, and the run is none; or for a learning rate, and there is none.

    References:
        | Every Model Learned by Gradient Descent Is Approximately a Kernel Machine (Domingos, arXiv 2012.00152)
        | (b2), (b6) and (d3) of the theory notes

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x, y = torch.nn.Linear(2, 1, bias=False), torch.eye(2), torch.ones(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> ks.path_kernel(recording.run, x).matrix           # 5 steps of 0.1 of the kernel x.z
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    begun = time.perf_counter()
    run = checked_run(run)
    as_choice(kind, "kind", ("path", "step", "second", "loss"))
    as_choice(outputs, "outputs", ("trace", "full"))
    as_choice(sampling, "sampling", SCHEMES)
    checked_dtype(dtype)
    rule = _quadrature(kind, quadrature)
    at = _step(run, kind, step)
    output = _output(kind, output, z)
    memory = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    with undisturbed(place):
        points = as_points(run, x, targets)
        others = samples_of(run) if kind == "second" else points if z is None else as_points(run, z)
        if kind == "loss" and others.targets is None and points.targets is not None:
            raise DataError('kind="loss" needs the targets of z too. Pass z as a pair of inputs and targets.')
        dtype, note = ledger_precision(run, dtype, points.inputs, place)
        trajectory = Trajectory(run, dtype, place)
        sides = _sides(trajectory, points, others, output, kind)
        places = len(run) + (rule == "trapezoid") if at is None else 1
        bar = Bar(total=places, desc=NAMES[kind], unit="step", disable=quiet)
        with bar:
            if kind == "second":
                matrix, about = _second(trajectory, sides[0], others, sampling, at, memory, bar.update)
            else:
                full = outputs == "full" and kind != "loss"
                matrix, about = _products(trajectory, sides, full, at, rule, memory, bar.update)
    told = run.info()
    notes = [words for words in (note, _said_of_steps(run, kind, sampling, len(others)), sides[0].note) if words]
    return PathKernel(
        matrix=as_float64(matrix), error=None, kind=kind,
        outputs="each" if kind == "second" else "trace" if kind == "loss" else outputs,
        symmetric=kind in ("path", "loss"), definite=kind in ("path", "loss"), square=others is points,
        ids=points.ids, column_ids=others.ids, labels=points.labels, column_labels=others.labels,
        output_names=sides[0].functional.names,
        info={
            "run": {key: told[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
            "first_step": run.start, "step": None if at is None else at - run.start,
            "quadrature": None if rule is None else rule if isinstance(rule, str) else rule.name, **about,
            "dtype": str(dtype).removeprefix("torch."), "notes": notes,
            "seconds": round(time.perf_counter() - begun, 3),
        })


def _quadrature(kind: str, name: str | None) -> str | Quadrature | None:
    """The rule of a kind: of a step its nodes, of a path its word."""
    if kind == "step":
        rule = Quadrature.parse("gauss5" if name is None else name)
        if rule.corrected:
            raise DataError('The correction of "gonzalez" mends a change of outputs, and between two points there is '
                            'none. Pass quadrature="gauss5", which is exact to round-off for smooth networks.')
        return rule
    if kind == "second":
        if name is not None:
            raise DataError("A second-order kernel is taken at the start of a step, so it has no quadrature. Leave it "
                            "out.")
        return None
    return as_choice("left" if name is None else name, "quadrature", ("left", "trapezoid"))


def _step(run: Run, kind: str, step: Any) -> int | None:
    """The number within the recording of the step that is asked for."""
    if not len(run):
        raise DataError("This run has no steps, so it has no kernel. Record training, or take a longer slice.")
    if step is None:
        if kind == "step":
            raise DataError('kind="step" is the kernel of one step, and none was named. Pass step=0, or another one.')
        return None
    if kind in ("path", "loss"):
        raise DataError(f'kind="{kind}" is a sum over steps. Pass a slice of the run for some of them: run[k:k + 1].')
    return run.start + as_place(step, "step", len(run), "steps")


def _output(kind: str, output: Any, z: Any) -> Any:
    if kind == "second" and z is not None:
        raise DataError('kind="second" stands between x and the training samples. Leave z out.')
    if kind == "loss" and output is not None:
        raise DataError('kind="loss" is the kernel of losses, so no other output can be picked. Leave output out, or '
                        'ask for kind="path".')
    return "loss" if kind == "loss" else output


def _sides(trajectory: Trajectory, points: Points, others: Points, output: Any,
           kind: str) -> tuple[QuerySide, QuerySide]:
    """The points of rows and columns, ready to be differentiated."""
    start = trajectory.run.start
    one = points.side(trajectory, output)
    other = one if others is points or kind == "second" else others.side(trajectory, output)
    for side in (one,) if other is one else (one, other):
        if len(side):
            side.probe(trajectory.at(start), trajectory.buffers(start))
    return one, other


def _products(trajectory: Trajectory, sides: tuple[QuerySide, QuerySide], full: bool, at: int | None, rule: Any,
              memory: int, done: Callable[[], object]) -> tuple[Tensor, dict[str, Any]]:
    one, other = sides
    plan = Plan.make(trajectory.run, one, other, full, trajectory.dtype, memory)
    places = (along_the_run(trajectory, rule, plan.length) if at is None else
              iter([along_a_step(trajectory, at, rule)]))
    matrix = sum_of_products(places, one, other, full, plan.block, one is other, done)
    about = {"bytes": plan.bytes, "engine": one.way}
    return matrix, about if at is not None else {"time": time_of(trajectory.run), **about}


def _second(trajectory: Trajectory, side: QuerySide, samples: Points, sampling: str, at: int | None, memory: int,
            done: Callable[[], object]) -> tuple[Tensor, dict[str, Any]]:
    run = trajectory.run
    steps = range(run.start, run.stop) if at is None else range(at, at + 1)
    if len(side):
        SecondOrder(side, run.names).check(trajectory.at(run.start), trajectory.buffers(run.start),
                                           'Ask for kind="step" or kind="path".')
    whole, first = second_kernel(trajectory, steps, side, samples, sampling, memory, done)
    size = float(whole.norm())
    return whole, {"time": time_of(run) if at is None else None, "sampling": sampling,
                   "correction": float((whole - first).norm()) / size if size else 0.0}


def _said_of_steps(run: Run, kind: str, sampling: str, samples: int) -> str:
    """What the steps of this run have that the kernel does not see."""
    steps = [run.step(k) for k in range(run.start, run.stop)]
    if kind == "second":
        drawn = sampling_of([step.batches[0].columns for step in steps], samples).scheme
        said = "" if drawn == sampling else (
            f"The kernel is that of batches drawn {SCHEMES[sampling]}; those of this run look as if drawn "
            f"{SCHEMES[drawn]}.")
        forms = "Samples came in changing forms, of which the kernel has the first of each." * run.draws
        return " ".join(words for words in (said, forms) if words)
    names = sorted({f"{step.optimizer}{' with momentum or decay' * (step.optimizer == 'SGD')}"
                    for step in steps if not moves_plainly(step)})
    return OWN_TIME.format(names=" and ".join(names)) if names and kind != "step" else ""
