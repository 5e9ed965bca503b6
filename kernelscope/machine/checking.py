"""Kernels that a machine can be made of, looked at before the work.

A kernel that is a formula of vectors is finite for all pairs where it is for each vector with itself, and symmetric; so
is one of an infinitely wide network. Of any other that is not known: some of its matrix is looked at first; the rest is
when a solver comes to it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..data.points import Points
from ..errors import DataError, NonFiniteError
from ..features.base import points_between
from ..kernels.base import Kernel
from ..kernels.closed_form import ClosedForm
from ..kernels.infinite.images import OfImages
from ..kernels.of_features import FeatureKernel
from ..kernels.tangent import Tangent
from ..solvers.orthonormal import checked

#: Of how many centers the matrix is looked at: of a kernel of features, and of one that nothing is known of.
SOME, MANY = 64, 2048


def closed(kernel: Kernel) -> bool:
    """Whether a kernel is a formula of two vectors, or made of such kernels."""
    parts: tuple[Kernel, ...] = getattr(kernel, "parts", ())
    return all(closed(part) for part in parts) if parts else isinstance(kernel, ClosedForm)


def known(kernel: Kernel) -> bool:
    """Whether a kernel is symmetric and positive semidefinite by how it is made."""
    parts: tuple[Kernel, ...] = getattr(kernel, "parts", ())
    return all(known(part) for part in parts) if parts else isinstance(kernel, ClosedForm | OfImages)


def usable(k: Any, x: Any) -> Kernel:
    """The kernel with what it takes from the points, as a bandwidth.

    Raises:
        DataError: If no machine can be made of it.
    """
    if not isinstance(k, Kernel):
        raise DataError(f"A machine is fitted with a kernel; {what_came(k)} came. Pass for example "
                        "ks.kernels.Laplacian(bandwidth=20.0).")
    if not k.symmetric:
        raise DataError(f"A machine needs a symmetric kernel, and {k!r} is not. Use k + k.T, or a FeatureKernel of one "
                        "map.")
    if k.targets:
        raise DataError(f"{k!r} takes points with their targets, and a machine is asked about points that have none. "
                        "Use the kernel of outputs: leave loss out.")
    return k.fitted(x) if x is not None else k


def within(kernel: Kernel, memory: int) -> Kernel:
    """The kernel, whose products keep to some memory."""
    parts: tuple[Kernel, ...] = getattr(kernel, "parts", ())
    own = getattr(kernel, "memory", 0)
    if not parts and not (isinstance(kernel, ClosedForm) and own > memory):
        return kernel
    other = copy.copy(kernel)
    if parts:
        other.__dict__["parts"] = tuple(within(part, memory) for part in parts)
    else:
        other.__dict__["memory"] = memory
    return other


def look_at(kernel: Kernel, x: Points, z: Points) -> Tensor:
    """One entry of the matrix, after the kernel was looked at.

    Raises:
        DataError: If the kernel is not symmetric, not positive, or does not give a matrix.
        NonFiniteError: If it is NaN or infinite somewhere.
    """
    if kernel.columns_of(z) is not None:
        raise DataError(f'{kernel!r} keeps outputs apart, and a machine needs one number for each pair of points. Use '
                        'outputs="trace".')
    rows, columns = min(3, len(x)), min(2, len(z))
    block = kernel(points_between(x, 0, rows), points_between(z, 0, columns))
    if tuple(block.shape) != (rows, columns) or not block.is_floating_point():
        raise DataError(f"A kernel gives a matrix of real numbers, and {kernel!r} gave {block.dtype} of shape "
                        f"{tuple(block.shape)} for {rows} and {columns} points. Let it give shape ({rows}, {columns}).")
    if known(kernel):
        for points, what in ((z, "center"),) if z is x else ((z, "center"), (x, "point")):
            _check_diagonal(kernel.diagonal(points), kernel, what)
    else:
        most = SOME if isinstance(kernel, FeatureKernel | Tangent) else MANY
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:most].sort().values
        some = z.chosen(order.tolist())
        # Not kernel(some): a kernel may compute one half of that and mirror it.
        gram = checked(kernel(some, z.chosen(order.tolist())), order)
        _check_diagonal(gram.diagonal(), kernel, "center")
    return block[:1, :1]


def _check_diagonal(values: Tensor, kernel: Kernel, what: str) -> None:
    if not bool(values.isfinite().all()):
        raise NonFiniteError(f"{kernel!r} is NaN or infinite for {what} {int((~values.isfinite()).nonzero()[0])} and "
                             "itself. Look at this point, and at the kernel's numbers.")
    if bool((values < 0).any()):
        raise DataError(f"{kernel!r} is negative for {what} {int((values < 0).nonzero()[0])} and itself, so it is not "
                        "positive semidefinite. A machine needs a kernel that is.")
