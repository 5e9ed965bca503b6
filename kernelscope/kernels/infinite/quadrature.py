r"""Any other activation, by numerical integration: a power series in the cosine :math:`\rho = K / ab`.

With the Hermite polynomials :math:`h_n` of mean square 1, by the formula of Mehler,

.. math:: K' = \sum_n c_n(a)\, c_n(b)\, \rho^n, \qquad c_n(a) = E[\phi(a z)\, h_n(z)],

and the same for the derivatives. The coefficients of each point are sums over an even grid, which has nearly all digits
where the function is smooth; the grid is finer for larger variances. Each entry costs one multiplication for each term.
The kernel is that of a polynomial in place of the activation, another one for each variance, so that it stays positive
semidefinite.

What the terms leave out is known, as the squares of all coefficients add up to the mean square:

.. math:: \varepsilon(a) = 1 - \frac{\sum_{n < N} c_n(a)^2}{E[\phi(a z)^2]}.

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
from ..distances import root
from .activations import Activation, positive
from .covariances import Covariances, Layout, Side

#: How many terms are taken, and how many can be.
DEGREE, MOST = 50, 500

#: The largest shares of mean squares left out that pass without a warning, and at all.
WARNED, REFUSED = 1e-3, 0.1

#: How far the grid goes, at what the density of a normal value is below 1e-42, and from where on next to nothing of a
#: mean square may lie.
END, EDGE = 14.0, 12.0

#: The steps of the grid for roots of variances up to COARSE, no plain number, so that no plain wave fits to them; and
#: how often they are halved, once for each twice the root.
STEP, COARSE, HALVINGS = 1 / (16 + math.pi), 4, 4

#: How many values of the function are taken at once.
VALUES = 2**16

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
    slowly, and so it does where variances are so large that the function looks like a step. The share that is left out
    is measured at every variance that a layer meets: a warning names it from 0.1 % on, and from 10 % on it is refused.

    Args:
        function: A function of a tensor that gives as many values, such as ``torch.tanh``; it is differentiated by
            ``torch.func``.
        degree: The number of terms.

    Raises:
        DataError: If it is no such function, or one that has a formula here; and from its kernels, where the terms
            leave out more than a tenth of a mean square.

    Example:
        >>> Elementwise(torch.tanh)
        Elementwise(tanh)
    """

    def __init__(self, function: Callable[[Tensor], Tensor], degree: int = DEGREE):
        self.function = as_function(function, "function", "of a tensor")
        self.degree = as_count(degree, "degree", 2)
        if self.degree > MOST:
            raise DataError(f"degree is at most {MOST}, since each entry costs as many multiplications; {degree} came. "
                            "A function that needs more has a kink or a jump, or its variances are large: make W_std "
                            "smaller.")
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
        self.notes = 2 * self.degree
        self._told = 0.0
        self._check(torch.ones(1, dtype=torch.float64), torch.tensor([self.error()], dtype=torch.float64), math.inf)

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
        a = torch.tensor([math.sqrt(positive(variance, "variance"))], dtype=torch.float64)
        return float(self._expanded(a, True)[1])

    def own(self, c: Covariances) -> tuple[Covariances, Side]:
        terms, left_out = self._expanded(c.a.reshape(-1), c.tangent is not None)
        self._check(c.a.reshape(-1), left_out, REFUSED)
        terms = terms.reshape(*c.a.shape, *terms.shape[1:])
        side = Side(root(terms[..., 0, :].square().sum(-1)), terms)
        return self(c, side, side), side

    def __call__(self, c: Covariances, left: Side, right: Side) -> Covariances:
        assert left.more is not None
        assert right.more is not None
        one, other, size = left.more.to(c.given), right.more.to(c.given), c.left * c.right
        cosine = (c.value / torch.where(size > 0, size, 1.0)).clamp(-1, 1)
        value, tangent = _series(one[..., 0, :], other[..., 0, :], cosine, c.layout), None
        if c.tangent is not None:
            tangent = c.tangent * _series(one[..., 1, :], other[..., 1, :], cosine, c.layout)
        return c.after(left.root.to(c.given), right.root.to(c.given), value, tangent, lacking=False)

    def _expanded(self, a: Tensor, slopes: bool) -> tuple[Tensor, Tensor]:
        """Coefficients at some roots of variances, with shape (n, 1 or 2, degree), and the shares they leave out."""
        # The grid of a point is its own affair, whoever else is there.
        halvings = (a.detach().double() / COARSE).clamp(1, 2**HALVINGS).nan_to_num(1.0).log2().ceil().long()
        order, terms, shares = [], [], []
        for k in halvings.unique().tolist():
            nodes = grid(self.degree, k)[0]
            for some in (halvings == k).nonzero()[:, 0].split(max(1, VALUES // len(nodes))):
                found = self._on_a_grid(a[some], slopes, k)
                order.append(some)
                terms.append(found[0])
                shares.append(found[1])
        back = torch.cat(order).argsort()
        return torch.cat(terms)[back], torch.cat(shares)[back]

    def _on_a_grid(self, a: Tensor, slopes: bool, halvings: int) -> tuple[Tensor, Tensor]:
        nodes, weights, weighted = (t.to(a) for t in grid(self.degree, halvings))
        value, pulled = vjp(self.phi, a[:, None] * nodes)[:2]
        functions = torch.stack([value, pulled(torch.ones_like(value))[0]] if slopes else [value], 1)
        terms = functions @ weighted
        squares = functions.detach().square() * weights
        whole = squares.sum(-1)
        left_out = whole - terms.detach().square().sum(-1)
        # What grows so fast that much of it lies at the edge goes on beyond it.
        lost = torch.maximum(left_out, squares[..., nodes.abs() > EDGE].sum(-1))
        return terms, torch.where(whole == 0, 0.0, lost / whole).amax(-1)

    def _check(self, a: Tensor, left_out: Tensor, refused: float) -> None:
        """Speaks where the terms leave out too much, each time that it is twice as much as it has said before."""
        bad = left_out.nan_to_num(torch.inf, torch.inf)
        worst = int(bad.argmax())
        share = float(bad[worst])
        if share <= WARNED:
            return
        variance = float(a[worst].detach()) ** 2
        message = (f"{self!r} is off by {share:.2g} of its mean square at variance {variance:.4g}: "
                   f"{self.degree} terms are too few, as at a kink or a jump, or where variances are large. Raise "
                   "degree, take an activation that has a formula, or make W_std or the points smaller.")
        if share > refused:
            raise DataError(message)
        if share > 2 * self._told:
            self._told = share
            warnings.warn(message, stacklevel=2)

    def __repr__(self) -> str:
        degree = "" if self.degree == DEGREE else f", degree={self.degree}"
        return f"Elementwise({named(self.function)}{degree})"


@lru_cache(maxsize=16)
def grid(degree: int, halvings: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integrals over a normal variable, by the trapezoidal rule, whose error for smooth functions is beyond all powers.

    Args:
        degree: The number of polynomials.
        halvings: How often the steps are halved.

    Returns:
        The m nodes and their weights, with shape (m,), and the weights times the Hermite polynomials of mean square 1,
        with shape (m, degree).
    """
    step = STEP / 2**halvings
    count = int(END / step)
    nodes = step * torch.arange(-count, count + 1, dtype=torch.float64)
    # Polynomials times the root of the density: neither is too large or too small by itself.
    rooted = (nodes.square() / -4).exp() * (step / math.sqrt(2 * math.pi)) ** 0.5
    columns = [rooted, nodes * rooted]
    for n in range(2, degree):
        columns.append((nodes * columns[n - 1] - columns[n - 2] * math.sqrt(n - 1)) / math.sqrt(n))
    return nodes, rooted.square(), rooted[:, None] * torch.stack(columns[:degree], 1)


def named(function: Any) -> str:
    """What a function is called."""
    return getattr(function, "__name__", None) or repr(function)


def _series(one: Tensor, other: Tensor, cosine: Tensor, layout: Layout) -> Tensor:
    """The sum of powers of the cosine, whose factors are those of both sides."""
    total = torch.zeros_like(cosine)
    for n in reversed(range(one.shape[-1])):
        total = total.mul(cosine).add(layout.left(one[..., n]) * layout.right(other[..., n]))
    return total
