r"""The kernel of a run at some of its times, and what it would have learned.

With :math:`\phi_t` the gradient of the outputs by the parameters that the run trained, at the parameters and buffers of
time t,

.. math:: K_t(x, z) = \sum_c \langle\phi_{t,c}(x), \phi_{t,c}(z)\rangle

is taken among training samples, and between them and other points. All numbers of a time come from this one matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_switch, as_whole
from ...decomposition.precision import checked_dtype
from ...decomposition.questions import checked_memory, checked_place, checked_run
from ...decomposition.stochastic.points import Points, as_points, samples_of
from ...errors import DataError
from ...network import undisturbed
from ...progress import Bar
from ...run.run import Run
from ..states import times_of
from ..task import counted
from .choosing import evenly
from .following import followed
from .regression import RIDGES
from .result import KernelEvolution
from .scene import Scene, check_room

#: How many training samples the kernel is taken of, unless more are asked for.
MOST = 2000


def evolution(run: Run, x: Any = None, y: Any = None, *, times: Any = None, k: int = 10, samples: int | None = None,
              ridge: float | None = None, output: int | Callable[..., Tensor] | None = None, regression: bool = True,
              movie: int = 6, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
              memory: int | str = "1GB", progress: bool | None = None) -> KernelEvolution:
    r"""How the kernel of a network moved while it was trained, and what each of its kernels would have learned.

    .. math:: K_t(x, z) = \sum_c \langle\nabla f_c(x; \theta_t), \nabla f_c(z; \theta_t)\rangle

    Args:
        run: The recorded run, or a slice of it.
        x: Points that were not trained on, in any form that :func:`decompose` takes.
        y: Their targets, in the form of those in training.
        times: How many times, evenly from the start to the end; or steps, ``len(run)`` being the end; 30 if not given.
        k: How many of the largest eigenvalues are kept.
        samples: On how many training samples at most; 2,000 if not given. Of more, some are taken evenly from each
            class.
        ridge: The ridge :math:`\rho`, in shares of :math:`\mathrm{tr} K / n`, which is added to the matrix of the
            samples. If not given, the one of 1e-4, 1e-3, 1e-2, 0.1 and 1 that has the least error of leaving one
            sample out, in the mean over all times; 1e-2 without regression.
        output: What the kernel is of: all outputs, the number of one, or a function of the outputs. What the network
            itself scores is always that of all of them.
        regression: Whether targets are fitted with the kernel of each time, and x predicted.
        movie: At how many times the matrix of some samples is kept to be drawn.
        dtype: The precision to compute in; without it that of the network.
        device: Where to compute.
        memory: About how much may be used, a number of bytes or a size such as ``"1GB"``.
        progress: Whether a bar is shown; on a terminal or in a notebook, if not given.

    Returns:
        The :class:`KernelEvolution`.

    Raises:
        DataError: If the run has no step, or points, targets or options do not fit it.
        NonFiniteError: If a gradient is NaN or infinite.
        OutOfBudget: If the kernel of the samples does not fit into ``memory``.

    References:
        | Deep Learning versus Kernel Learning (Fort et al., 2020): kernel distance, velocity
        | Neural Networks as Kernel Learners: The Silent Alignment Effect (Atanasov, Bordelon and Pehlevan, 2022)
        | Properties of the After Kernel (Long, 2021)

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> model, x, y = torch.nn.Linear(2, 1).double(), torch.eye(2).double(), torch.tensor([[1.0], [2.0]]).double()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> found = ks.evolution(recording.run)               # the kernel of a linear model never moves
        >>> [round(v, 12) for v in found.series["cka last"].tolist()]
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    begun = time.perf_counter()
    run = checked_run(run)
    steps = times_of(run, times)
    k, movie = as_count(k, "k", least=1), as_count(movie, "movie")
    most = MOST if samples is None else as_count(samples, "samples", least=2)
    ridges = _ridges(ridge)
    regression = as_switch(regression, "regression")
    checked_dtype(dtype)
    room = checked_memory(memory)
    quiet = None if progress is None else not as_switch(progress, "progress")
    if x is None and y is not None:
        raise DataError("y are the targets of x, and no x came. Pass the points too: ks.evolution(run, x, y).")
    if output is not None and as_whole(output) is None and not callable(output):
        raise DataError(f"output must be None for all outputs, the number of one, or a function of them; {output!r} "
                        "came. Leave it out for the kernel of the whole network.")
    place = checked_place(device, next(iter(run.network.parameters.values())).device)
    kind = dtype or (torch.float64 if run.dtype == torch.float64 else torch.float32)
    with undisturbed(place):
        held, points = samples_of(run), None if x is None else as_points(run, x, y)
        held, dropped = _counted(run, held, "training samples")
        points, more = (points, []) if points is None else _counted(run, points, "points")
        if len(held) < 2:
            raise DataError("This run trained on one sample, and a kernel of one point has no direction. Train on "
                            "two samples at least.")
        whole = len(held)
        held = held.chosen(_chosen(held, most))
        check_room(len(held), 0 if points is None else len(points), kind, room)
        scene = Scene.of(run, held, points, output, steps, kind, place, room)
        with Bar(total=len(steps), desc="evolution", unit="time", disable=quiet) as bar:
            found = followed(scene, k, ridges, regression, movie, bar.update)
    told = run.info()
    notes = dropped + more + scene.task.notes + found.pop("notes")
    if len(held) < whole:
        notes.append(f"The kernel is that of {len(held):,} of {whole:,} training samples, evenly from each class.")
    about = found.pop("about")
    return KernelEvolution(**found, info={
        "run": {key: told[key] for key in ("path", "steps", "rules", "samples", "parameters", "loss", "dtype")},
        "first_step": run.start, "samples": len(held), "points": 0 if points is None else len(points),
        "samples_held": whole, "dtype": str(kind).removeprefix("torch."), "notes": notes,
        "seconds": round(time.perf_counter() - begun, 3), **about})


def _counted(run: Run, points: Points, what: str) -> tuple[Points, list[str]]:
    """The points that count in the loss, and a note where some do not.

    Raises:
        DataError: If none does.
    """
    if points.targets is None:
        return points, []
    kept = counted(run, points.targets).nonzero().flatten()
    if len(kept) == len(points):
        return points, []
    if not len(kept):
        raise DataError(f"The targets of all {what} are of the class that the loss ignores. Give some that count.")
    left = f"{len(points) - len(kept):,} of {len(points):,} {what} are left out"
    return points.chosen(kept), [f"{left}: their target is the class that the loss ignores."]


def _ridges(ridge: Any) -> tuple[float, ...]:
    if ridge is None:
        return RIDGES
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 < ridge < float("inf"):
        raise DataError(f"ridge is a positive number, in shares of the mean of the kernel's diagonal; {ridge!r} came. "
                        "Pass for example ridge=1e-3, or leave it out.")
    return (float(ridge),)


def _chosen(held: Points, most: int) -> Tensor:
    """The places of the samples that are looked at."""
    if len(held) <= most:
        return torch.arange(len(held))
    words = held.labels
    order = torch.arange(len(held)) if words is None else torch.tensor(
        sorted(range(len(held)), key=lambda i: words[i]))
    return evenly(order, most).sort().values
