r"""The second-order stochastic gradient kernel, one row for each query and output, one column for each sample.

A batch of B samples that was drawn with replacement moves the parameters by :math:`-\eta\hat g`. Of those batches that
hold sample i the average of the step kernel is, to second order in :math:`\eta`,

.. math:: K_2(x, x_i)\, \ell'_i = \langle\phi(x), g_i\rangle - \tfrac{\eta}{2} g_i^T H_x\, h_i, \qquad
          h_i = \big(1 - \tfrac1B\big) g + \tfrac1B g_i ,

with :math:`g_i` the gradient of the sample's loss, g their mean and :math:`H_x` the Hessian of the output. The change
of the output in the mean over batches is :math:`-\frac{\eta}{n}\sum_i K_2(x, x_i)\,\ell'_i + O(\eta^3)` for each step.
Batches that hold no sample twice have :math:`v = \frac{n-B}{(n-1)B}` in the place of :math:`\frac1B`, and the batch of
all samples has 0: v is how much of the covariance of single gradients that of a batch has.

Source: (b2) of the theory notes; compare "Second-Order Path Kernel Interpolation Formulas in Machine Learning" (arXiv
2606.07495).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

from ...budget import as_words
from ...errors import ModelError, NonFiniteError, OutOfBudget, RuleError
from ...network import Parameters, apart, cast, per_sample_losses
from ...run.run import Run
from ...run.step import Step
from ..query_side import QuerySide
from ..training_side import TrainingSide
from ..trajectory import Trajectory
from ..unrolling import OptimizerState, Unroller
from .derivatives import along, bend, scaled_sum
from .places import moves_plainly, rates
from .points import Points
from .sampling import Sampling

#: How many vectors as large as the parameters a sample takes: its gradient, two directions, and what they carry along.
COPIES = 8


def second_kernel(trajectory: Trajectory, steps: range, side: QuerySide, samples: Points, scheme: str, memory: int,
                  done: Callable[[], object]) -> tuple[Tensor, Tensor]:
    """The kernel times the loss derivatives, and its first-order part, both with shape (q, c, n).

    Args:
        trajectory: The run.
        steps: The steps over which it is averaged, with their learning rates as weights.
        side: The queries.
        samples: The training samples.
        scheme: How batches are drawn, a word of :mod:`.sampling`.
        memory: About how many bytes may be used.
        done: Called after each step.

    Raises:
        RuleError: If a step is not that of plain SGD.
        ModelError: If a sample has no gradient of its own, or the network cannot be differentiated forward twice.
        OutOfBudget: If the answer does not fit.
    """
    run = trajectory.run
    shape = len(side), len(side.functional.names), len(samples)
    size = sum(p.numel() for p in run.network.parameters.values()) * trajectory.dtype.itemsize
    answer = 2 * torch.Size(shape).numel() * torch.float64.itemsize
    each = COPIES * (size + sum(x.numel() * x.element_size() for x in side.inputs))
    if answer + each > memory:
        raise OutOfBudget(
            f"The kernel of {shape[0]} queries with {shape[1]} outputs and {shape[2]} samples needs about "
            f"{as_words(answer + each)} here, and memory={as_words(memory)} was given. Raise memory, or ask for fewer "
            "queries or outputs."
        )
    chunk = int(max(1, min(shape[2], (memory - answer) // max(each, 1))))
    length = int(max(1, (memory - answer) // (8 * max(size, 1))))
    for k in steps:
        _refuse_other_steps(run, k)
    unroller = Unroller(run, TrainingSide(run, trajectory.dtype, trajectory.device, memory // 4), False)
    whole = side.inputs[0].new_zeros(shape, dtype=torch.float64)
    first = torch.zeros_like(whole)
    time = sum(map(_rate, (run.step(k) for k in steps)))
    for start in range(steps.start, steps.stop, length):
        stretch = range(start, min(start + length, steps.stop))
        rows = unroller.stretch(trajectory, stretch.start, stretch.stop)
        for k in stretch:
            unrolled = next(unroller.steps(k, k + 1, OptimizerState(), rows))
            if unrolled.clip != 1.0 or not unrolled.explained:
                _refuse(run, k, "its gradient was clipped or scaled, or something else moved the parameters too")
            part, linear = _at_step(trajectory, rows[k], k, side, samples, scheme, chunk)
            weight = _rate(run.step(k)) / time if time else 1 / len(steps)
            whole += weight * part
            first += weight * linear
            done()
    if not bool(whole.isfinite().all()):
        raise NonFiniteError("The kernel holds NaN or infinite values: an output or a loss has none that are finite "
                             "here. Look at the queries and samples, and at operations like log(0).")
    return whole, first


def _rate(step: Step) -> float:
    return next(iter(rates(step).values()), 0.0)


def _refuse(run: Run, k: int, problem: str) -> None:
    raise RuleError(
        f"The second-order kernel is that of plain SGD, one batch a step; step {k - run.start} is another: {problem}. "
        'Ask for kind="step", which holds for every optimizer, or kind="path".'
    )


def _refuse_other_steps(run: Run, k: int) -> None:
    """Refuses a step that its numbers tell to be another than that of plain SGD on one batch."""
    step = run.step(k)
    if not moves_plainly(step):
        _refuse(run, k, f"{step.optimizer} made it with momentum, decay or a rule of its own")
    if len(set(rates(step).values())) > 1:
        _refuse(run, k, "its parameters have several learning rates")
    if len(step.batches) != 1 or step.batches[0].at != k:
        _refuse(run, k, "it was made of several forward passes")
    batch = step.batches[0]
    if run.network.couples(batch.training) or batch.random is not None:
        raise ModelError(
            "The second-order kernel needs a gradient for each sample by itself, and in training this network mixed "
            'the samples of a batch or drew random numbers (batch normalisation, dropout). Ask for kind="step".'
        )


def _at_step(trajectory: Trajectory, theta: Parameters, k: int, side: QuerySide, samples: Points, scheme: str,
             chunk: int) -> tuple[Tensor, Tensor]:
    run, step = trajectory.run, trajectory.run.step(k)
    buffers = trajectory.buffers(k)
    rate, (batch,) = _rate(step), step.batches
    own = apart(theta, list(rates(step)))
    inputs, targets = cast((samples.inputs, samples.targets), trajectory.dtype, trajectory.device)
    n = len(samples)
    v = Sampling(scheme, n, (len(batch.columns),), (0,)).own(0)

    def loss(moving: Parameters, x: tuple[Tensor, ...], y: Tensor) -> Tensor:
        outputs = run.network({**theta, **moving}, buffers, tuple(t[None] for t in x), batch.training)
        return per_sample_losses(run.loss, outputs, y[None], 1).sum()

    def outputs(moving: Parameters) -> Tensor:
        raw = run.network({**theta, **moving}, buffers, side.inputs)
        return side.functional(raw, side.functional.side)

    def gradients(rows: slice) -> Parameters:
        return vmap(grad(loss), in_dims=(None, 0, 0))(own, tuple(x[rows] for x in inputs), targets[rows])

    cuts = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    try:
        mean = {name: torch.zeros_like(p) for name, p in own.items()}
        for rows in cuts:
            mean = {name: mean[name] + t.sum(0) / n for name, t in gradients(rows).items()}

        def both(g: Parameters) -> tuple[Tensor, Tensor]:
            beside = scaled_sum((1 - v, mean), (v, g))
            linear = along(outputs, own, g)
            return linear - rate / 2 * bend(outputs, own, g, beside), linear

        found = [vmap(both)(gradients(rows)) for rows in cuts]
    except torch.OutOfMemoryError:
        raise
    # torch.func reports what it cannot transform by these.
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            "The second-order kernel differentiates the network forward twice, and this one cannot be: "
            f'{str(error).strip().splitlines()[0][:160]}. Ask for kind="step" or kind="path".'
        ) from error
    whole, linear = (torch.cat(parts).movedim(0, -1).to(torch.float64) for parts in zip(*found, strict=True))
    return whole, linear
