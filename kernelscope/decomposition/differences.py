r"""Whether second derivatives are what differences of gradients say.

A gradient that was cut off from part of what it depends on, by ``detach``, has another derivative than automatic
differentiation tells, and no second automatic way shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp

from ..composed import Composed
from ..errors import ModelError
from ..network import MISFITS, Parameters, gradients_of
from .training_side import noise

#: The steps of differences along a direction: some are too long where a branch is near, some too short for round-off.
STEPS = (1e-6, 1e-8, 1e-3)

#: How far a derivative and differences may be apart, relative, and how many digits of a gradient are round-off.
APART, ROUNDED = 1e-3, 1e-13

#: What is said of second derivatives that are not those of the gradients.
CUT = (
    "The second derivatives of {what} are not what automatic differentiation tells: along a direction it gives "
    "{found:.4g}, and differences of the gradients give {truth:.4g}. A network or loss that uses detach(), no_grad() "
    "or a backward pass of its own does so. {instead}"
)


def missed(found: float, slope: Callable[[float], float], size: float, rounding: float) -> float | None:
    """What central differences give in the place of ``found``, or ``None`` if they agree with it for some step.

    Args:
        found: The derivative of the slope at nought.
        slope: The slope so far along a direction.
        size: What the derivative is small or large beside.
        rounding: The size of the numbers that the slope is made of.

    Example:
        >>> missed(6.0, lambda h: (1 + h) ** 6, 1.0, 1.0) is None
        True
        >>> round(missed(3.0, lambda h: (1 + h) ** 6, 1.0, 1.0), 3)
        6.0
    """
    truth = found
    for step in STEPS:
        truth = (slope(step) - slope(-step)) / (2 * step)
        if not abs(truth - found) > APART * max(size, abs(found)) + ROUNDED * rounding / step:
            return None
    return truth


def check_bends(function: Callable[[Parameters], Tensor], at: Parameters, what: str, instead: str) -> None:
    """Compares the second derivatives of a number with differences of its gradient along a direction, in float64.

    Where the function cannot be computed in float64, or not be transformed, nothing is said.

    Args:
        function: From parameters in float64 to a number.
        at: The parameters, in float64.
        what: Whose derivatives they are, in words.
        instead: What to do without them, as a sentence.

    Raises:
        ModelError: If they differ.
    """
    names = list(at)
    one, other = noise(at, names), noise(at, names, seed=1)

    def gradient(step: float) -> Parameters:
        leaves = {name: (at[name] + step * one[name]).requires_grad_() for name in names}
        with torch.enable_grad():
            found = gradients_of(function(leaves), leaves)
        return {name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(leaves.items(), found, strict=True)}

    try:
        with Composed():
            bent = jvp(grad(function), (at,), (one,))[1]
        size, width, length = (float(inner(t, t)) ** 0.5 for t in (bent, other, gradient(0.0)))
    # Torch refuses other dtypes by them too.
    except MISFITS:
        return
    found = float(inner(bent, other))
    truth = missed(found, lambda step: float(inner(gradient(step), other)), size, length * width)
    if truth is not None:
        raise ModelError(CUT.format(what=what, found=found, truth=truth, instead=instead))


def inner(one: Parameters, other: Parameters) -> Tensor:
    """The inner product of two directions."""
    return torch.stack([(t * other[name]).sum() for name, t in one.items()]).sum()
