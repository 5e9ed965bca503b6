r"""Activations: from normal values to the covariances of what they become.

For :math:`(u, v)` normal with variances :math:`a^2, b^2` and covariance K,

.. math:: K' = E[\phi(u)\, \phi(v)], \qquad T' = T\, E[\phi'(u)\, \phi'(v)].
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from ...errors import DataError
from .covariances import Covariances
from .layer import Layer, Single


class Dual(NamedTuple):
    """The mean of a product of two activations, and of their derivatives."""

    value: Tensor
    slope: Tensor


class Activation(Single):
    """A function of each value."""

    @abstractmethod
    def dual(self, k: Tensor, q1: Tensor, q2: Tensor) -> Dual:
        """For a covariance and two variances, which broadcast."""

    @abstractmethod
    def variance(self, q: Tensor) -> Tensor:
        """The mean square of the activation, for a variance."""

    def normal(self, before: bool) -> bool:
        check_normal(self, before)
        return False

    def variances(self, own: Covariances) -> Tensor:
        return self.variance(own.a.square())

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        found = self.dual(c.value, c.left.square(), c.right.square())
        return c.after(a, b, found.value, None if c.tangent is None else c.tangent * found.slope, lacking=False)


def check_normal(layer: Layer, before: bool) -> None:
    """Whether values are normal before an activation.

    Raises:
        DataError: If they are not.
    """
    if not before:
        raise DataError(f"{layer!r} takes values that are normal, sums of many random terms, and there is no Dense or "
                        "Conv between it and the points, or the activation before. Put one in front of it.")
