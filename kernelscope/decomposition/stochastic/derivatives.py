r"""First and second derivatives of outputs along directions in parameter space, all outputs at once.

For outputs :math:`f(\theta)` with gradients :math:`\phi` and Hessians :math:`H` a direction d gives
:math:`\langle\phi, d\rangle`, and two of them :math:`u^T H v`, by forward differentiation alone: no Hessian is formed,
and what it costs does not grow with the number of outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from ...composed import Composed

#: Parameters or directions by name.
Tree = dict[str, Tensor]

#: From parameters to outputs.
Outputs = Callable[[Tree], Tensor]


def along(f: Outputs, theta: Tree, d: Tree) -> Tensor:
    r""":math:`\langle\phi, d\rangle` for each output.

    Example:
        >>> from kernelscope.network import exact_arithmetic
        >>> f = lambda t: t["w"].square()
        >>> with exact_arithmetic():
        ...     along(f, {"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
        tensor([6.])
    """
    with Composed():
        return jvp(f, (theta,), (d,))[1]


def bend(f: Outputs, theta: Tree, u: Tree, v: Tree) -> Tensor:
    r""":math:`u^T H v` for each output.

    Example:
        >>> from kernelscope.network import exact_arithmetic
        >>> f = lambda t: t["w"] ** 3
        >>> one = {"w": torch.tensor([1.0])}
        >>> with exact_arithmetic():
        ...     bend(f, {"w": torch.tensor([3.0])}, one, one)
        tensor([18.])
    """
    return jvp(lambda t: along(f, t, v), (theta,), (u,))[1]


def scaled_sum(*terms: tuple[float, Tree]) -> Tree:
    """A linear combination."""
    names = terms[0][1]
    return {name: torch.stack([c * tree[name] for c, tree in terms]).sum(0) for name in names}
