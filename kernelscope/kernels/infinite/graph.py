r"""Graphs: every node adds up the values of the nodes that feed it.

With the pattern A of a graph, whose entry :math:`A_{pq}` says how strongly node p feeds node q,

.. math:: K'(x, z) = A_x^\top K(x, z)\, A_z, \qquad T'(x, z) = A_x^\top T(x, z)\, A_z.

The layer has no weights of its own. The graph neural tangent kernel of Du et al. (2019) is that of blocks of an
``Aggregate`` with :math:`A + 1`, the neighbours and the node itself, and layers ``Dense(2**0.5), ReLU()``, then
``Dense(2**0.5)`` and a ``GlobalSumPool``; for its means instead of sums, hand in patterns whose columns add up to one.

References:
    | Graph Neural Tangent Kernel: Fusing Graph Neural Networks with Graph Kernels (Du et al., 2019)
    | Infinitely Wide Graph Convolutional Networks: Semi-supervised Learning via Gaussian Processes (Hu et al., 2020)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments import what_came
from ...errors import DataError
from .covariances import Beside, Covariances
from .gathering import gathered
from .layer import Single


class Aggregate(Single):
    r"""At each node the sum over those that feed it, :math:`y_q = \sum_p A_{pq}\, x_p`.

    Graphs come as the values of their nodes, with shape (n, channels, nodes), and their patterns beside them, with
    shape (n, nodes, nodes): ``(x, pattern)``, or by name ``{"x": x, "pattern": pattern}``. Graphs of several sizes are
    filled up with nodes of any values, which a ``"mask"`` of shape (n, nodes) leaves out again. The layer has
    kernels alone: ``net.torch(...)`` cannot build it, as a module would need the patterns beside its inputs.

    Example:
        >>> import torch
        >>> from kernelscope.kernels.infinite import Dense, GlobalSumPool, ReLU, Serial
        >>> net = Serial(Aggregate(), Dense(2**0.5), ReLU(), Dense(), GlobalSumPool())
        >>> x = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]], dtype=torch.float64)
        >>> alone, joined = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
        >>> net.nngp((x, torch.stack([alone, joined])))   # nodes of 1 and 2, or of 3 and 3
        tensor([[ 9.0000, 18.0000],
                [18.0000, 36.0000]], dtype=torch.float64)
    """

    spatial = paired = patterned = True
    remembers = 1

    def pixels(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 1:
            raise DataError(f"{self!r} takes graphs, of shape (n, channels, nodes); points with {len(shape)} axes "
                            "after the channels came. Put the nodes on one axis.")
        return shape

    def variances(self, own: Covariances) -> Tensor:
        return own.layout.diagonal(self._gathered(own.double(), own.double().given))

    def between(self, c: Covariances, a: Tensor, b: Tensor) -> Covariances:
        wide = c.double()
        tangent = None if wide.tangent is None else self._gathered(wide, wide.tangent)
        return wide.after(a.double(), b.double(), self._gathered(wide, wide.given), tangent)

    def _gathered(self, c: Covariances, values: Tensor) -> Tensor:
        return gathered(values, c.layout, *(self._weights(side, root) for side, root in ((c.x, c.a), (c.z, c.b))))

    def _weights(self, side: Beside, root: Tensor) -> Tensor:
        pattern = side.pattern
        if pattern is None or pattern.shape[-1] != root.shape[-1]:
            came = "there is none" if pattern is None else f"the pattern has {pattern.shape[-1]}"
            raise DataError(f"{self!r} needs a pattern of the {root.shape[-1]} nodes before it, and {came}. Put it "
                            "before layers that change the nodes.")
        return pattern.to(root).mT


def checked_pattern(pattern: object, x: Tensor) -> Tensor:
    """A pattern in the precision of the points that it is of, with shape (n, nodes, nodes).

    Raises:
        DataError: If it has another shape, or numbers that are not finite.
    """
    nodes = x.shape[-1]
    if not isinstance(pattern, Tensor) or tuple(pattern.shape) != (len(x), nodes, nodes):
        came = f"shape {tuple(pattern.shape[1:])}" if isinstance(pattern, Tensor) else what_came(pattern)
        raise DataError(f"A pattern has one row and one column for each node, shape {(nodes, nodes)} for a point "
                        f"of shape {tuple(x.shape[1:])}; {came} came. Pass each graph as a dense matrix.")
    if pattern.is_complex() or pattern.is_floating_point() and not bool(torch.isfinite(pattern).all()):
        raise DataError("A pattern holds finite numbers, 1 where a node feeds another and 0 elsewhere; others came. "
                        "Look at where it comes from.")
    return pattern.to(x)
