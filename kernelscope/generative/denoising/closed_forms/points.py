"""Noisy points and noise levels as they are meant, or a sentence that says what was needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....arguments import what_came
from ....errors import DataError, NonFiniteError

__all__ = ["noisy", "rows", "traced", "training_points"]


def training_points(x: Any, dtype: torch.dtype) -> Tensor:
    """Training points in the precision asked for, detached.

    Raises:
        DataError: If there is no point, or no number in it.
        NonFiniteError: If one of their numbers is NaN or infinite.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.numel():
        came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else what_came(x)
        raise DataError(f"Training points must be a tensor with shape (n, *), with at least one point; {came} came. "
                        "Pass the clean points, for example ks.data.digits('train').x.")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise DataError(f"dtype must be a floating-point type of torch; {what_came(dtype)} came. Leave it out for "
                        "torch.float64.")
    x = x.detach().to(dtype)
    if not bool(x.isfinite().all()):
        place = int((~x.flatten(1).isfinite().all(1)).nonzero()[0])
        raise NonFiniteError(f"Training point {place} has numbers that are NaN or infinite, and every denoised point "
                             "would have them. Leave such points out.")
    return x


def noisy(y: Any, sigma: Any, shape: torch.Size, like: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy points as rows with shape (q, d), and their noise levels, both in the precision and place of ``like``.

    Raises:
        DataError: If they do not go together, or with points of ``shape``, or a noise level is not positive.
        NonFiniteError: If one of their numbers is NaN or infinite.
    """
    size = shape.numel()
    if not isinstance(y, Tensor) or y.ndim < 2 or y[0:1].numel() not in (0, size) or y.shape[1:].numel() != size:
        came = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else what_came(y)
        raise DataError(f"Noisy points must have shape (q, {', '.join(map(str, shape))}), as the training points, or "
                        f"as many numbers in another fold; {came} came. Pass y with {size} numbers for each point.")
    if not isinstance(sigma, Tensor) or sigma.shape != (len(y),):
        came = f"shape {tuple(sigma.shape)}" if isinstance(sigma, Tensor) else what_came(sigma)
        raise DataError(f"There must be one noise level for each of the {len(y)} points; {came} came. Pass sigma with "
                        f"shape ({len(y)},), for example torch.full(({len(y)},), 0.5).")
    y, sigma = y.flatten(1).to(like), sigma.to(like)
    if not traced(y) and not traced(sigma):
        if not bool(y.isfinite().all()) or not bool(sigma.isfinite().all()):
            raise NonFiniteError("Noisy points and noise levels must be finite; NaN or infinity came. Look at what "
                                 "made them: a sampler that diverges, or a noise level that overflows.")
        if not bool((sigma > 0).all()):
            raise DataError(f"Noise levels must be positive; {float(sigma.min()):g} came. At noise level 0 a point is "
                            "its own denoised point, so leave it out.")
    return y, sigma


def rows(denoise: Callable[[Tensor, Tensor], Tensor], y: Tensor, sigma: Tensor) -> Tensor:
    r"""The Jacobian :math:`\partial D_i / \partial y_j` at each point, row by row, with shape (q, d, d).

    It is exact where the denoised point depends on its own noisy point alone, as in networks without batch statistics.

    Raises:
        DataError: If the denoiser has no gradient, or gives another shape.

    Example:
        >>> rows(lambda y, sigma: y**2, torch.tensor([[1.0, 2.0]]), torch.ones(1))
        tensor([[[2., 0.],
                 [0., 4.]]])
    """
    with torch.enable_grad():
        at = y.detach().requires_grad_()
        given = denoise(at, sigma)
        if given.shape != y.shape:
            raise DataError(f"A denoiser must give one point for each; shape {tuple(y.shape)} went in and "
                            f"{tuple(given.shape)} came out. Pass a function (y, sigma) -> D.")
        if not given.requires_grad:
            raise DataError("The denoiser gives points without a gradient, so there is no Jacobian. Pass one that is "
                            "computed by torch, not under torch.no_grad().")
        flat = given.flatten(1)
        found = [torch.autograd.grad(flat[:, i].sum(), at, retain_graph=True)[0].flatten(1)
                 for i in range(flat.shape[1])]
    return torch.stack(found, dim=1)


def traced(values: Tensor) -> bool:
    """Whether the values belong to a transform of torch.func, in which no number can be looked at."""
    return torch._C._functorch.is_functorch_wrapped_tensor(values)
