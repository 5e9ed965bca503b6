r"""Activations: from normal values to the covariances of what they become.

For :math:`(u, v)` normal with variances :math:`a^2, b^2` and covariance K,

.. math:: K' = E[\phi(u)\, \phi(v)], \qquad T' = T\, E[\phi'(u)\, \phi'(v)].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from numbers import Real
from typing import Any, NamedTuple

from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from .covariances import Covariances
from .finite import Applied, Shape, Widths
from .layer import Layer, Single


class Activation(Layer):
    """A function of each value."""

    @abstractmethod
    def phi(self, u: Tensor) -> Tensor:
        """The function itself, as a network of finite width has it."""

    def normal(self, before: bool) -> bool:
        check_normal(self, before)
        return False

    def finite(self, before: Shape, widths: Widths) -> tuple[Applied, Shape]:
        return Applied(self.phi, repr(self)), before


class Dual(NamedTuple):
    """The mean of a product of two activations, and of their derivatives."""

    value: Tensor
    slope: Tensor


class InClosedForm(Activation, Single):
    """An activation whose means are a formula of the covariance and the two variances."""

    @abstractmethod
    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        """For a covariance and two variances, which broadcast."""

    @abstractmethod
    def variance(self, q: Tensor) -> Tensor:
        """The mean square of the activation, for a variance."""

    def variances(self, own: Covariances) -> Tensor:
        return self.variance(own.a.square())

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        found = self.dual(c.value, c.left.square(), c.right.square())
        return c.after(a, b, found.value, None if c.tangent is None else c.tangent * found.slope, lacking=False)


def check_normal(layer: Layer, before: bool) -> None:
    """Whether values are normal before a layer that needs them to be.

    Raises:
        DataError: If they are not.
    """
    if not before:
        raise DataError(f"{layer!r} takes values that are normal, sums of many random terms, and there is no Dense or "
                        "Conv between it and the points, or the activation before. Put one in front of it.")


def real(value: Any, name: str) -> float:
    """A finite number.

    Raises:
        DataError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(float(value)):
        raise DataError(f"{name} must be a finite number; {what_came(value)} came. Pass for example {name}=0.5.")
    return float(value)


def positive(value: Any, name: str) -> float:
    """A positive number.

    Raises:
        DataError: If it is none.
    """
    number = real(value, name)
    if number <= 0:
        raise DataError(f"{name} must be a positive number; {what_came(value)} came. Pass for example {name}=0.5.")
    return number
