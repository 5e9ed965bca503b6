"""The one place where bundling meets ridge regression: a ridge that can be taken, and sums of columns."""

from __future__ import annotations

from numbers import Real
from typing import Any

from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from ...solvers.ridge import NormalEquations, RidgePath


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


def summed(columns: Tensor, targets: Tensor) -> NormalEquations:
    """The sums of columns and targets, with shapes (n, p) and (n, c)."""
    equations = NormalEquations(columns.shape[1], targets.shape[1])
    equations.add(columns, targets)
    return equations


def without_features(path: RidgePath) -> Tensor:
    """The coefficients of the free columns alone, with shape (p, c): the linear map that needs no features."""
    return path.coefficients(float("inf"))
