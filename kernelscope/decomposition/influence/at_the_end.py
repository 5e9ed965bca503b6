"""Influence at the end of a run, for several dampings at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import NonFiniteError
from ...progress import Bar
from ...run.run import Run
from ..query_side import QuerySide
from ..training_side import rows_of
from ..trajectory import Trajectory
from .curved import Curved, members_of
from .gauss_newton import at_samples, solver_of


@dataclass(frozen=True, eq=False)
class AtTheEnd:
    """What was found at the end of a run.

    Attributes:
        values: The outputs, with shape (q, c).
        influences: For each damping, with shape (q c, n).
        info: How the equations were solved, and what the end is like.
    """

    values: Tensor
    influences: list[Tensor]
    info: dict[str, Any]


def at_the_end(run: Run, trajectory: Trajectory, side: QuerySide, to: Callable[[Any], Any], dampings: list[float],
               memory: int, quiet: bool | None) -> AtTheEnd:
    """The outputs of queries, and their damped Gauss-Newton influences.

    Args:
        run: The run.
        trajectory: Its parameters.
        side: The queries.
        to: Brings samples to the precision and the device of the parameters.
        dampings: The dampings.
        memory: About how many bytes may be used.
        quiet: Whether no bar is shown.

    Raises:
        DataError: If a damping is lost in rounding.
        NonFiniteError: If a gradient of a query, or the curvature, is NaN or infinite.
    """
    parameters, buffers = trajectory.at(run.stop), trajectory.buffers(run.stop)
    values = side.outputs(parameters, buffers)[1]
    influences = [torch.zeros(values.numel(), run.size, dtype=torch.float64) for _ in dampings]
    if not len(side):
        return AtTheEnd(values, influences, {})
    side.probe(parameters, buffers)
    members = members_of(run, to)
    with Bar(desc="influence at the end", unit="sample", disable=quiet) as bar:
        curved = Curved(run, members, parameters, buffers, run.names, memory, bar)
        # Rows of query gradients, and of their solutions at each damping.
        size = (len(dampings) + 2) * curved.size * values.element_size() * max(values.shape[1], 1)
        block = max(1, memory // (4 * max(size, 1)))
        solver = solver_of(curved, dampings, len(dampings) * values.numel())
        for start in range(0, len(side), block):
            rows = side.part(slice(start, start + block)).gradients(parameters, buffers)
            flat = torch.cat([rows_of(part) for part in rows], 1)
            if not bool(flat.isfinite().all()):
                raise NonFiniteError("The output has a gradient that is NaN or infinite at a query. Look at the "
                                     "queries, and at operations like sqrt(0) in the network.")
            at = slice(start * values.shape[1], start * values.shape[1] + len(flat))
            for found, own in zip(influences, at_samples(curved, solver.solve(flat)), strict=True):
                found[at, members.columns] = own.double().cpu()
        return AtTheEnd(values, influences, {
            "solver": solver.how, "residual": solver.residual, "gradient": _rest(curved), "negative": curved.negative,
            "engine": {"queries": side.way}})


def _rest(curved: Curved) -> float:
    """The mean gradient beside the mean length of its parts."""
    total, length = torch.zeros(curved.size), 0.0
    for _, rows in curved.slopes():
        total = total.to(rows) + rows.sum(0)
        length += float(rows.norm(dim=1).sum())
    return float(total.norm()) / length if length else 0.0
