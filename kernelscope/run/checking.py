r"""Whether a stored run is what it says: its bytes, and its steps computed again.

From a stored row :math:`\theta_a` and the optimizer's stored states some steps are replayed to a later stored row
:math:`\theta_b`; what they miss it by is measured by the way they went,

.. math:: |\hat\theta_b - \theta_b| / |\theta_b - \theta_a|.
"""

from __future__ import annotations

import torch

from ..errors import KernelscopeError
from ..result import Check, CheckRow
from .replay import replay
from .run import Run

#: Steps replayed from one anchor if rows are stored that often, and anchors tried.
STRETCH, ANCHORS = 10, 3
#: Beyond the first, the miss is more than rounding; beyond the second, these are not the steps that were made.
ROUNDING, ANOTHER = 1e-3, 1e-2


def check_run(run: Run) -> Check:
    """Checks an opened run; its checksums were verified when it was opened, or it would not have opened."""
    count, size = len(run.store.segments), run.store.nbytes
    complete = bool(run.meta.get("complete", False))
    return Check((
        CheckRow("checksums", "pass", float(count), None,
                 f"All {count} segments ({size:,} bytes) hold what was written."),
        CheckRow("complete", "pass" if complete else "warn", None, None,
                 f"The recording ended after {len(run):,} steps." if complete else
                 f"The recording was cut short; {len(run):,} steps were acknowledged and are here."),
        _replayed(run),
    ))


def _replayed(run: Run) -> CheckRow:
    stored = [k for k in range(run.start, run.stop + 1) if run.row(k) is not None]
    anchors = [k for k in stored[:-1] if k in run.restarts or run.states(k)]
    chosen = sorted({anchors[i * (len(anchors) - 1) // max(ANCHORS - 1, 1)] for i in range(ANCHORS)}) if anchors else []
    steps, worst = 0, 0.0
    try:
        for anchor in chosen:
            end = max([k for k in stored if anchor < k <= anchor + STRETCH] or [min(k for k in stored if k > anchor)])
            start, goal = run.row(anchor), run.row(end)
            assert start is not None
            assert goal is not None
            (again,) = replay(run, anchor, end, end)
            way = float((goal - start).double().norm()) or 1.0
            worst = max(worst, float((again.to(goal.dtype) - goal).double().norm()) / way)
            if torch.isfinite(again).all().item() is False:
                worst = float("inf")
            steps += end - anchor
    except KernelscopeError as error:
        return CheckRow("replay", "warn", None, None, f"No step was computed again: {error}")
    if not steps:
        return CheckRow("replay", "warn", None, None, "No step can be computed again: no optimizer state is stored.")
    if worst <= ROUNDING:
        how = "bit for bit" if worst == 0 else f"to {worst:.1e} of the way they went"
        return CheckRow("replay", "pass", worst, ROUNDING,
                        f"{steps} steps computed again arrive at the stored parameters {how}.")
    return CheckRow("replay", "warn" if worst <= ANOTHER else "fail", min(worst, 1e300), ANOTHER,
                    f"{steps} steps computed again miss the stored parameters by {worst:.1e} of the way they went. The "
                    "loss given to record is not the one that was minimised, or the network draws random numbers from "
                    "a generator of its own.")
