r"""How fast errors fall: the order of each, measured.

An error :math:`e(h) = C h^p` has the logarithm :math:`\log C + p\log h`, so that its order p is the slope of the line
through its logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import DataError
from ..result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd

#: How far a measured order may be from the claimed one.
NEAR = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class Orders(Result):
    """Errors against a step size, and the order of each.

    Attributes:
        sizes: The step sizes, ascending, with shape (a,).
        errors: By name the errors, each with shape (a,).
        claimed: By name the order that is claimed, where one is.
        size_name: What the sizes are, in a few words.
    """

    sizes: Tensor
    errors: dict[str, Tensor]
    claimed: dict[str, float]
    size_name: str

    def order(self, name: str) -> float:
        """The order of an error, by least squares in logarithms over the errors that are not nought."""
        there = self.errors[name] > 0
        if int(there.sum()) < 2:
            return math.nan
        x, y = self.sizes[there].log(), self.errors[name][there].log()
        x, y = x - x.mean(), y - y.mean()
        return float((x @ y) / (x @ x))

    def said(self) -> str:
        """The orders in words."""
        return ", ".join(f"{name} {self.order(name):.2f}" for name in self.errors)

    def summary(self) -> str:
        """The orders in one sentence."""
        return f"Orders(in the {self.size_name}: {self.said()})"

    def to_frame(self) -> pd.DataFrame:
        """One row for each size, one column for each error, and a last row of orders."""
        import pandas as pd

        columns: dict[str, list[Any]] = {self.size_name: [*(f"{size:g}" for size in self.sizes.tolist()), "order"]}
        columns |= {name: [*values.tolist(), self.order(name)] for name, values in self.errors.items()}
        return pd.DataFrame(columns)

    def check(self) -> Check:
        """Whether each measured order is the claimed one."""
        rows = []
        for name, claimed in self.claimed.items():
            off = abs(self.order(name) - claimed)
            rows.append(CheckRow(name, "pass" if off <= NEAR else "fail", off, NEAR,
                                 f"The order of {name} was measured as {self.order(name):.2f}, and {claimed:g} is "
                                 "claimed."))
        return Check(tuple(rows))


def orders(sizes: Sequence[float], errors: Mapping[str, Sequence[float]], *,
           claimed: Mapping[str, float] | None = None, size_name: str = "learning rate") -> Orders:
    r"""Measures how fast errors fall with a step size.

    .. math:: p = \mathrm{slope}\ \text{of}\ \log e\ \text{over}\ \log h

    Args:
        sizes: The step sizes.
        errors: By name the error at each size.
        claimed: By name the order it is said to have.
        size_name: What the sizes are, in a few words.

    Raises:
        DataError: If there are not as many errors as sizes, or they are no positive numbers.

    Example:
        >>> orders([0.1, 0.2], {"square": [0.01, 0.04]}, claimed={"square": 2})
        Orders(in the learning rate: square 2.00)
    """
    given = _numbers(sizes)
    if given is None or len(set(given)) < 2 or not all(0 < h < math.inf for h in given):
        raise DataError(f"sizes must be two or more positive numbers; {str(sizes)[:80]} came. Pass for example [0.1, "
                        "0.2].")
    if not isinstance(errors, Mapping) or not errors:
        raise DataError('errors must be a dictionary of lists by name. Pass for example {"midpoint": [1e-4, 4e-4]}.')
    found = {}
    for name, values in errors.items():
        row = torch.as_tensor(_numbers(values) or [], dtype=torch.float64)
        if len(row) != len(given) or not bool(((row >= 0) & torch.isfinite(row)).all()):
            odd = "" if len(row) != len(given) else ", one of them negative or no number"
            raise DataError(f"errors[{name!r}] must hold one number from 0 on for each of the {len(given)} sizes; "
                            f"{len(row)} came{odd}. Measure each error at each size.")
        found[str(name)] = row
    unknown = [name for name in claimed or {} if name not in found]
    if unknown:
        raise DataError(f"claimed names {unknown[0]!r}, and the errors are of {', '.join(found)}. Name one of these.")
    ordered = torch.as_tensor([float(h) for h in given], dtype=torch.float64).sort()
    return Orders(ordered.values, {name: row[ordered.indices] for name, row in found.items()},
                  {name: float(order) for name, order in (claimed or {}).items()}, size_name)


def _numbers(values: Any) -> list[float] | None:
    """A list of numbers, from a list, an array or a tensor of them."""
    plain = values.tolist() if hasattr(values, "tolist") else values
    try:
        return [float(value) for value in plain if not isinstance(value, str)]
    except (TypeError, ValueError):
        return None
