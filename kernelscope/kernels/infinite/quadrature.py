r"""Any other activation, by numerical integration: a power series in the cosine :math:`\rho = K / ab`.

With the Hermite polynomials :math:`h_n` of mean square 1, by the formula of Mehler,

.. math:: K' = \sum_n c_n(a)\, c_n(b)\, \rho^n, \qquad c_n(a) = E[\phi(a z)\, h_n(z)],

and the same for the derivatives. The coefficients of each point are found by Gauss-Hermite integration with twice as
many nodes as there are terms, and each entry costs one multiplication for each term. The kernel is that of a polynomial
in place of the activation, another one for each variance, so that it stays positive semidefinite.

References:
    | Toward Deeper Understanding of Neural Networks: The Power of Initialization and a Dual View on Expressivity
      (Daniely et al., 2016)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vjp

from ...arguments import as_count, as_function, what_came
from ...errors import DataError
from .activations import Activation, positive
from .covariances import Covariances, Layout

#: How many terms are taken, and how many can be.
DEGREE, MOST = 50, 150

#: The largest error of mean squares, relative to them, that passes without a warning.
WARNED = 1e-3

#: Activations that have a formula of their own, and its name.
EXACT: dict[Any, str] = {
    torch.relu: "ReLU()", F.relu: "ReLU()", F.leaky_relu: "LeakyReLU()", torch.abs: "Abs()", torch.sign: "Sign()",
    torch.erf: "Erf()", torch.sin: "Sin()", torch.cos: "Cos()", torch.exp: "Exp()", F.gelu: "GELU()",
}
MODULES: dict[type[nn.Module], str] = {nn.ReLU: "ReLU()", nn.LeakyReLU: "LeakyReLU()"}


class Elementwise(Activation):
    """Any smooth function of each value, by numerical integration.

    The error falls fast with the degree where the function is smooth, and slower the larger variances are: of ``tanh``
    and its derivative, at variance 1, it is 3e-5 with 25 terms, 1e-7 with 50 and 3e-11 with 100. At a kink it falls
    slowly, and a warning says so.

    Args:
        function: A function of a tensor that gives as many values, such as ``torch.tanh``; it is differentiated by
            ``torch.func``.
        degree: The number of terms.

    Raises:
        DataError: If it is no such function, or one that has a formula here.

    Example:
        >>> Elementwise(torch.tanh)
        Elementwise(tanh)
    """

    def __init__(self, function: Callable[[Tensor], Tensor], degree: int = DEGREE):
        self.function = as_function(function, "function", "of a tensor")
        self.degree = as_count(degree, "degree", 2)
        if self.degree > MOST:
            raise DataError(f"degree is at most {MOST}, as double precision allows; {degree} came. A function "
                            "that needs more has a kink or a jump, or its variances are large: make W_std smaller.")
        known = EXACT.get(function) or MODULES.get(type(function))  # type: ignore[arg-type]
        if known is not None:
            raise DataError(f"{named(function)} has a kernel in closed form, which is exact; numerical integration is "
                            f"not. Take kernelscope.kernels.infinite.{known}.")
        probe = torch.linspace(-1, 1, 3, dtype=torch.float64)
        found = self.phi(probe)
        if not isinstance(found, Tensor) or found.shape != probe.shape:
            came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else what_came(found)
            raise DataError(f"function gives a value for each value: of a tensor with shape (3,) one with shape (3,); "
                            f"{came} came. Pass for example torch.tanh.")
        error = self.error()
        if not error <= WARNED:
            warnings.warn(f"{self!r} with degree={self.degree} is off by {error:.1g} of its mean square at variance 1: "
                          "it has a kink or a jump, or grows fast. Raise degree, or take an activation that has a "
                          "formula.", stacklevel=2)

    def phi(self, u: Tensor) -> Tensor:
        return self.function(u)

    def error(self, variance: float = 1.0) -> float:
        """How much of the mean squares, of the function and of its derivative, the terms leave out.

        Args:
            variance: The variance of the values.

        Returns:
            The larger of the two shares.

        Example:
            >>> Elementwise(torch.tanh).error(1.0) < 1e-6 < Elementwise(torch.tanh).error(100.0)
            True
        """
        nodes, weights, _ = hermite(self.degree)
        a = torch.tensor([math.sqrt(positive(variance, "variance"))], dtype=torch.float64)
        shares = []
        for values, terms in ((self.phi(a * nodes), self._coefficients(a)), (self._slope(a * nodes), self._slopes(a))):
            whole = float((weights * values.square()).sum())
            shares.append(abs(1 - float(terms.square().sum()) / whole) if whole else 0.0)
        return shares[0] if math.isnan(shares[0]) else max(shares)

    def variances(self, own: Covariances) -> Tensor:
        return self._coefficients(own.a).square().sum(-1)

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        size = c.left * c.right
        cosine = (c.value / torch.where(size > 0, size, 1.0)).clamp(-1, 1)
        value = _series(self._coefficients(c.a), self._coefficients(c.b), cosine, c.layout)
        if c.tangent is None:
            return c.after(a, b, value, None, lacking=False)
        slope = _series(self._slopes(c.a), self._slopes(c.b), cosine, c.layout)
        return c.after(a, b, value, c.tangent * slope, lacking=False)

    def _coefficients(self, a: Tensor) -> Tensor:
        """Those of the function, with shape (*, degree)."""
        nodes, _, weighted = (t.to(a) for t in hermite(self.degree))
        return self.phi(a[..., None] * nodes) @ weighted

    def _slopes(self, a: Tensor) -> Tensor:
        """Those of its derivative."""
        nodes, _, weighted = (t.to(a) for t in hermite(self.degree))
        return self._slope(a[..., None] * nodes) @ weighted

    def _slope(self, u: Tensor) -> Tensor:
        pulled = vjp(self.phi, u)[1]
        return pulled(torch.ones_like(u))[0]

    def __repr__(self) -> str:
        degree = "" if self.degree == DEGREE else f", degree={self.degree}"
        return f"Elementwise({named(self.function)}{degree})"


@lru_cache(maxsize=16)
def hermite(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integrals over a normal variable: twice as many nodes as there are polynomials.

    Returns:
        Nodes and their weights, with shape (2 degree,), and the weights times the polynomials of mean square 1, with
        shape (2 degree, degree).
    """
    count = 2 * degree
    off = torch.arange(1, count, dtype=torch.float64).sqrt()
    nodes = torch.linalg.eigvalsh(torch.diag(off, 1) + torch.diag(off, -1))
    columns = [torch.ones_like(nodes), nodes]
    for n in range(2, count):
        columns.append((nodes * columns[n - 1] - columns[n - 2] * math.sqrt(n - 1)) / math.sqrt(n))
    values = torch.stack(columns, 1)
    weights = 1 / values.square().sum(1)
    return nodes, weights, weights[:, None] * values[:, :degree]


def named(function: Any) -> str:
    """What a function is called."""
    return getattr(function, "__name__", None) or repr(function)


def _series(one: Tensor, other: Tensor, cosine: Tensor, layout: Layout) -> Tensor:
    """The sum of powers of the cosine, whose factors are those of both sides."""
    total = torch.zeros_like(cosine)
    for n in reversed(range(one.shape[-1])):
        total = total.mul(cosine).add(layout.left(one[..., n]) * layout.right(other[..., n]))
    return total
