"""The one place where bundling meets ridge regression: sums of columns, and the ridge that suits them."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from ...solvers.ridge import NormalEquations, RidgePath

#: The ridges that are tried, as shares of the mean eigenvalue of the columns.
SHARES = tuple(10.0 ** (k / 2) for k in range(-20, 5))


def checked_ridge(ridge: Any) -> float | None:
    """A ridge; ``None`` where it is to be chosen.

    Raises:
        DataError: If it is no number above nought.
    """
    if ridge is None:
        return None
    if isinstance(ridge, bool) or not isinstance(ridge, Real) or not 0 < float(ridge) < float("inf"):
        raise DataError(f"ridge must be a number above 0, or None to choose it by cross-validation; {what_came(ridge)} "
                        "came. Pass for example ridge=1e-6.")
    return float(ridge)


def chosen_ridge(path: RidgePath, ridge: float | None) -> float:
    """The ridge that was asked for, else that of the least generalised cross-validation error.

    Raises:
        DataError: If there are too few samples for any.
    """
    if ridge is not None:
        return ridge
    spectrum, n = path.spectrum, path.equations.count
    free = int(path.free.sum())
    if free >= n:
        raise DataError(f"{n} rows are too few for {free} columns that are not penalised (the linear skip and the "
                        "constant). Hand in more points, or pass skip=False.")
    mean = float(spectrum.mean()) / n
    if not mean > 0:
        # Features that say nothing beside the free columns get no weight, whatever the ridge.
        return 1.0
    errors = {share * mean: path.gcv(share * mean) for share in SHARES}
    return min(errors, key=lambda each: errors[each])


def summed(columns: Tensor, targets: Tensor) -> NormalEquations:
    """The sums of columns and targets, with shapes (n, p) and (n, c)."""
    equations = NormalEquations(columns.shape[1], targets.shape[1])
    equations.add(columns, targets)
    return equations


def less(equations: NormalEquations, columns: Tensor, targets: Tensor) -> NormalEquations:
    """The sums without some of their samples."""
    rest = equations.copy()
    rest.add(columns, targets, sign=-1)
    return rest


def without_features(path: RidgePath) -> Tensor:
    """The coefficients of the free columns alone, with shape (p, c): the linear map that needs no features."""
    return path.coefficients(float("inf"))


def on_cpu(values: Tensor) -> Tensor:
    """Values in double precision on the CPU, in which everything is fitted."""
    return values.detach().to("cpu", torch.float64)
