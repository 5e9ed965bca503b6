"""Five numbers that tell a run, for those who keep many runs side by side, each defined in a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decomposition.exact import decompose
from ..decomposition.questions import checked_run
from ..decomposition.stochastic.points import samples_of
from ..diagnostics.comparing.leaning import cancellation
from ..diagnostics.coverage.coverage import coverage
from ..diagnostics.evolution.course import evolution
from ..errors import DataError
from ..run.run import Run

#: The five, by name.
DEFINITIONS = {
    "completeness": "What the ledger leaves over at the probes, as a share of the sizes of its terms, at most: "
                    "round-off where nothing is missing.",
    "cancellation": "The sizes of all contributions to a probe's answer, added up, over the size of their sum, median "
                    "over probes: beyond 10 no share of the answer means anything.",
    "coverage": "The share of a probe's tangent feature that lies inside the span of training, mean over probes; "
                "without probes that of each training sample inside the span of the others.",
    "effective_rank": "Over how many directions the tangent kernel at the end of training spreads the training "
                      "samples, by the entropy of its eigenvalues.",
    "drift": "1 minus the CKA of the tangent kernels of the training samples at the start and at the end: 0 where "
             "training left the kernel as it was.",
}

#: What is told of the kernel at each time, by the names of :class:`KernelEvolution`.
COURSE = {"entropy rank": "effective_rank", "alignment": "alignment", "cka first": "cka_with_start",
          "cka last": "cka_with_end", "trace": "trace", "loss": "loss"}

#: On how many training samples kernels are taken, and how many of them are probes where none came.
MOST, PROBES = 500, 16


@dataclass(frozen=True)
class Scalars:
    """The five numbers of a run, and the course of its kernel.

    Attributes:
        five: By name; ``None`` of one that is not finite.
        steps: The steps at which the kernel was taken.
        course: Of each number of the kernel its values at these steps.
        probes: What the probes were, in words.
    """

    five: dict[str, float | None]
    steps: list[int]
    course: dict[str, list[float]]
    probes: str


def run_scalars(run: Run, probes: Any = None, *, targets: Any = None, times: Any = 12, samples: int = MOST,
                memory: int | str = "1GB", progress: bool | None = None) -> Scalars:
    r"""The five numbers that tell a run, and the course of its kernel along the steps.

    They are the completeness residual of the ledger, the cancellation :math:`\kappa = \sum|c_i| / |\sum c_i|`, the
    coverage of the probes, the effective rank of the kernel at the end, and its drift
    :math:`1 - \mathrm{CKA}(K_0, K_T)`; :data:`DEFINITIONS` has a sentence for each.

    Args:
        run: The recorded run.
        probes: The points that are asked about, in any form that :func:`decompose` takes. If not given, 16 training
            samples are, and coverage is that of training samples by the others.
        targets: Their targets.
        times: At how many times, or which steps, the kernel is taken.
        samples: On how many training samples at most.
        memory: About how much may be used.
        progress: Whether bars are shown; on a terminal or in a notebook, if not given.

    Raises:
        DataError: If the run has no steps, or probes do not fit it.

    Example:
        >>> import kernelscope as ks, torch.nn.functional as F
        >>> x, y = torch.randn(8, 3), torch.randn(8, 1)
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        ...     for _ in range(5):
        ...         optimizer.zero_grad()
        ...         F.mse_loss(model(x), y).backward()
        ...         optimizer.step()
        >>> told = ks.integrations.run_scalars(recording.run)
        >>> round(told.five["drift"], 6)                     # the kernel of a linear model does not move
        0.0
    """
    run = checked_run(run)
    if not len(run):
        raise DataError("A run without steps was trained on nothing, so there is nothing to tell. Take a longer slice.")
    if probes is None and targets is not None:
        raise DataError("Targets came without probes. Pass the points as probes, or leave targets out.")
    held = samples_of(run)
    some = torch.linspace(0, len(held) - 1, min(PROBES, len(held))).round().long()
    asked: Any = held.chosen(some).inputs if probes is None else probes
    ledger = decompose(run, asked, "answer", targets=targets, memory=memory, progress=progress)
    covered = coverage(run, asked, baselines=False, memory=memory, progress=progress)
    moved = evolution(run, times=times, samples=min(samples, len(held)), regression=False, movie=0, memory=memory,
                      progress=progress)
    last = len(moved) - 1
    shares = covered.left_out if probes is None else covered.coverage
    five = {"completeness": ledger.completeness(),
            "cancellation": float(cancellation(ledger.contributions.flatten(0, 1)).nanmedian()),
            "coverage": float(shares.mean()), "effective_rank": float(moved.series["entropy rank"][last]),
            # In single precision a kernel may be more like itself than 1.
            "drift": max(0.0, 1 - float(moved.cka[0, last]))}
    return Scalars({name: value if math.isfinite(value) else None for name, value in five.items()},
                   moved.times.tolist(), {word: _finite(moved.series[name]) for name, word in COURSE.items()
                                          if name in moved.series and bool(moved.series[name].isfinite().all())},
                   f"{len(some)} training samples" if probes is None else f"{len(covered):,} probes")


def _finite(values: Tensor) -> list[float]:
    return [float(value) for value in values]
