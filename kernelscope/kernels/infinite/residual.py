"""What goes past some layers, added to what they make of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DataError
from ..distances import root
from .covariances import Covariances, Side
from .finite import Added, Shape, Widths
from .layer import Layer
from .serial import Serial


class Residual(Layer):
    r"""What comes in, added to what layers make of it: :math:`y = x + f(x)`.

    .. math:: K' = K_x + K_f, \qquad T' = T_x + T_f,

    since f ends with random weights, whose values have mean nought.

    Args:
        layers: The layers of f.
        skip: What x goes through meanwhile, as a ``Conv`` with a stride; a layer or several.

    Raises:
        DataError: If f does not end with a ``Dense`` or a ``Conv``.

    Example:
        >>> from kernelscope.kernels.infinite import Dense, ReLU, Residual
        >>> Residual(ReLU(), Dense())
        Residual(ReLU(), Dense())
    """

    fills = False

    def __init__(self, *layers: Layer, skip: Layer | tuple[Layer, ...] = ()):
        self.branch = Serial(*layers)
        self.skip = Serial(*(skip if isinstance(skip, tuple) else (skip,)))
        both = self.branch, self.skip
        if not self.branch.centered:
            raise DataError("A Residual ends with a Dense or a Conv, whose values have mean nought, so that "
                            f"covariances add up; {self.branch!r} came. Put one after the activation.")
        if any(part.flattens for part in both):
            raise DataError("What a Residual adds has the same pixels on both sides; one of its layers ends them. Put "
                            "Flatten or GlobalAvgPool after it.")
        self.spatial, self.paired = any(part.spatial for part in both), any(part.paired for part in both)
        self.patterned, self.remembers = any(part.patterned for part in both), sum(part.remembers for part in both)
        self.notes = sum(part.notes for part in both)
        self.keeps, self.centered = all(part.keeps for part in both), self.skip.centered

    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        (f, inner), (x, beside) = self.branch.own(c), self.skip.own(c)
        deviations = root(f.a.double().square() + x.a.double().square())
        return _added(x, f, deviations, deviations), Side(deviations, None, (inner, beside))

    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        f, x = (part(c, left.inner[i], right.inner[i]) for i, part in enumerate((self.branch, self.skip)))
        return _added(x, f, left.root.to(f.given), right.root.to(f.given))

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        one, other = self.branch.pixels(shape), self.skip.pixels(shape)
        if one != other:
            raise DataError(f"The layers of a Residual make {one} pixels of {shape}, and beside them there are "
                            f"{other}. Give skip= a layer with the same stride.")
        return one

    def there(self, mask: Tensor) -> Tensor:
        return torch.maximum(self.branch.there(mask), self.skip.there(mask))

    def normal(self, before: bool) -> bool:
        return self.branch.normal(before) and self.skip.normal(before)

    def finite(self, before: Shape, widths: Widths) -> tuple[nn.Module, Shape]:
        (branch, after), (skip, other) = self.branch.finite(before, widths), self.skip.finite(before, widths)
        if after.channels != other.channels:
            raise DataError(f"A Residual adds values of as many channels: its layers make {after.channels} of them, "
                            f"and beside them there are {other.channels}. Pass one width for all, give its layers that "
                            "width, or put a Dense before it or into skip=.")
        return Added(branch, skip), after

    def arguments(self) -> dict[str, Any]:
        return {"layers": self.branch.layers, "skip": self.skip.layers}

    def __repr__(self) -> str:
        beside = [f"skip={self.skip!r}"] if self.skip.layers else []
        return f"Residual({', '.join([*map(repr, self.branch.layers), *beside])})"


def _added(x: Covariances, f: Covariances, a: Tensor, b: Tensor) -> Covariances:
    tangent = None if x.tangent is None or f.tangent is None else x.tangent + f.tangent
    if not (x.lacking and f.lacking):
        return f.after(a, b, x.value + f.value, tangent, lacking=False)
    # (R' - R_x - R_f) (R' + R_x + R_f) is a square.
    square = (x.left * f.right - f.left * x.right).square()
    whole = f.layout.left(a) * f.layout.right(b) + x.left * x.right + f.left * f.right
    return f.after(a, b, x.given + f.given + square / torch.where(whole > 0, whole, 1.0), tangent)
