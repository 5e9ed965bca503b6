r"""Critics of infinite width: what a kernel alone tells of two sets of points.

A critic whose kernel k stays as it is follows, from nought, the gradient of its loss in the space of the kernel. For
the difference of means (IPM) and for least squares (LSGAN, targets +1 and -1, each side with its own mean) that is

.. math:: f_t = t\,\Big(\tfrac1n\sum_i k(\cdot, x_i) - \tfrac1m\sum_j k(\cdot, g_j)\Big), \qquad
          f_t(X) = (I - e^{-2 t K W})\, y

with the weights W = 1/n of a real point and 1/m of a generated one; with as many of both, N points in all, the exponent
is :math:`-4Kt/N`. The first is the witness function of the maximum mean discrepancy. A critic that was trained is
compared with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...arguments import as_choice, as_positive, what_came
from ...errors import DataError, NonFiniteError
from ...kernels.base import Kernel
from ...machine.machine import KernelMachine

__all__ = ["kernel_critic", "slope"]


def kernel_critic(kernel: Kernel, real: Tensor, generated: Tensor, time: float = 1.0, loss: str = "ipm", *,
                  weights: tuple[Tensor, Tensor] | None = None) -> KernelMachine:
    r"""The critic that gradient flow in the space of a kernel has reached at a time, from nought.

    Args:
        kernel: The kernel k; what it leaves to points is taken from both sets.
        real: Real points, with shape (n, *).
        generated: Generated points, with shape (m, *).
        time: The time t.
        loss: ``"ipm"`` for :math:`E f(g) - E f(x)`, ``"lsgan"`` for :math:`E (f(x) - 1)^2 + E (f(g) + 1)^2`.
        weights: The weights of real and of generated points, with shapes (n,) and (m,), such as those of a quadrature;
            1/n and 1/m if not given.

    Returns:
        A machine with the real points as its first centers; :func:`slope` is its field.

    Raises:
        DataError: If the points of both sets are not alike, or there is not one weight for each.
        NonFiniteError: If a point or a weight is NaN or infinite.

    References:
        "A Neural Tangent Kernel Perspective of GANs" (Franceschi et al., 2022), sections 4 and 5.

    Example:
        >>> from kernelscope.kernels import Gaussian
        >>> critic = kernel_critic(Gaussian(1.0), torch.tensor([[1.0]]), torch.tensor([[-1.0]]))
        >>> critic(torch.tensor([[1.0], [0.0], [-1.0]]))
        tensor([ 0.8647,  0.0000, -0.8647])
    """
    as_choice(loss, "loss", ("ipm", "lsgan"))
    time = as_positive(time, "time")
    x, g = (_points(points, name) for points, name in ((real, "real"), (generated, "generated")))
    if x.shape[1:] != g.shape[1:]:
        raise DataError(f"Real and generated points must be alike; shapes {tuple(x.shape)} and {tuple(g.shape)} came. "
                        "Pass both as (points, ...) with the same shape of a point.")
    both = torch.cat([x, g.to(x)]).flatten(1)
    fitted = kernel.fitted(both)
    sign = torch.cat([torch.ones(len(x)), -torch.ones(len(g))]).to(both)
    weight = _weights(weights, len(x), len(g)).to(both)
    if loss == "ipm":
        return KernelMachine(fitted, both, time * weight * sign)
    root = weight.double().sqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * fitted(both).double() * root)
    values = values.clamp(min=0)
    # Where an eigenvalue is nought the flow is a straight line.
    flat = values <= torch.finfo(values.dtype).eps * values[-1]
    reached = torch.where(flat, 2 * time, -torch.expm1(-2 * time * values) / torch.where(flat, 1.0, values))
    alpha = root * (vectors @ (reached * (vectors.T @ (root * sign.double()))))
    return KernelMachine(fitted, both, alpha.to(both))


def slope(machine: KernelMachine, x: Tensor) -> Tensor:
    """The gradient of a machine of one output by the point, with the shape of ``x``.

    Example:
        >>> from kernelscope.kernels import Gaussian
        >>> critic = kernel_critic(Gaussian(1.0), torch.tensor([[1.0]]), torch.tensor([[-1.0]]))
        >>> slope(critic, torch.tensor([[0.0]]))
        tensor([[1.2131]])
    """
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        centers = machine.centers.to(at)
        values = machine.kernel(at.flatten(1), centers) @ machine.coefficients.to(at)
        return torch.autograd.grad(values.sum(), at)[0]


def _points(points: Any, name: str) -> Tensor:
    if not isinstance(points, Tensor) or points.ndim < 2 or not len(points) or not points.is_floating_point():
        came = f"shape {tuple(points.shape)}" if isinstance(points, Tensor) else what_came(points)
        raise DataError(f"{name} must be points of floating point, with shape (n, *); {came} came. Pass for example "
                        "gan.points.")
    bad = (~points.isfinite()).flatten(1).any(1).nonzero()
    if len(bad):
        raise NonFiniteError(f"{name} must be finite, and point {int(bad[0])} holds NaN or an infinite value. Leave it "
                             "out, or look at what made it.")
    return points.detach()


def _weights(weights: Any, n: int, m: int) -> Tensor:
    if weights is None:
        return torch.cat([torch.full((n,), 1 / n, dtype=torch.float64), torch.full((m,), 1 / m, dtype=torch.float64)])
    if not isinstance(weights, tuple | list) or [getattr(w, "shape", None) for w in weights] != [(n,), (m,)] or any(
            bool((w < 0).any()) for w in weights):
        raise DataError(f"weights must be a pair of tensors, {n} numbers from 0 on for real points and {m} for "
                        f"generated ones; {what_came(weights)} came. Leave it out for equal ones.")
    if not all(bool(w.isfinite().all()) for w in weights):
        raise NonFiniteError("weights must be finite, and one of them is NaN or infinite. Leave weights out for equal "
                             "ones.")
    return torch.cat([w.double() for w in weights])
