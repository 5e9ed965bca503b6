"""What may stand for a denoiser where one is asked about: a run, a module, a closed form, a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import what_came
from ...errors import DataError
from ...network import Network, exact_arithmetic, random_state
from ...run.run import Run
from .reading import DiffusionRun

__all__ = ["DenoiserFunction", "as_denoiser", "as_levels", "as_points", "noised"]

#: How points are drawn at several noise levels.
DRAWS = ("paired", "independent")


@dataclass(frozen=True)
class DenoiserFunction:
    """A denoiser as a function.

    Attributes:
        denoise: Noisy points with shape (q, *) and noise levels with shape (q,) to denoised points.
        clean: The clean points it was trained on, where they are known.
        untrained: The same at the start of its training, where it is known.
        jacobian: Its Jacobian with shape (q, d, d), where there is a formula.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    clean: Tensor | None = None
    untrained: Callable[[Tensor, Tensor], Tensor] | None = None
    jacobian: Callable[[Tensor, Tensor], Tensor] | None = None


def as_denoiser(value: Any) -> DenoiserFunction:
    """A denoiser from a run of one, a module with ``denoised``, or a function (y, sigma) -> D.

    Raises:
        DataError: If it is none of them.
    """
    if isinstance(value, Run):
        value = DiffusionRun(value)
    if isinstance(value, DiffusionRun):
        clean, start = value.clean, value.run.parameters(0)
        clean = clean[clean.flatten(1).isfinite().all(1)]
        return DenoiserFunction(value.denoised, clean, lambda y, sigma: value.denoised(y, sigma, start))
    if isinstance(value, nn.Module) and hasattr(value, "denoised"):
        # A copy in eval mode: the module itself is only read.
        copied: Any = Network(value).module(()).requires_grad_(False)
        own = next((p for p in copied.parameters()), torch.zeros(()))

        def denoise(y: Tensor, sigma: Tensor) -> Tensor:
            with exact_arithmetic(), random_state(None, y.device):
                return copied.denoised(y.to(own), sigma.to(own)).to(y)

        return DenoiserFunction(denoise)
    if callable(value) and not isinstance(value, type | nn.Module):
        return DenoiserFunction(value, jacobian=getattr(value, "jacobian", None))
    raise DataError("A denoiser is a run of kernelscope.generative.Denoiser, a module with a method denoised(y, "
                    f"sigma), or a function (y, sigma) -> D; {what_came(value)} came. Wrap a network in a Denoiser.")


def as_points(x: Any, what: str) -> Tensor:
    """Points with shape (q, *), as float64.

    Raises:
        DataError: If they are none, or not finite.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.numel():
        came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else what_came(x)
        raise DataError(f"{what} must be a tensor with shape (q, *), with at least one point; {came} came. Pass clean "
                        "points.")
    if not bool(x.isfinite().all()):
        raise DataError(f"{what} have numbers that are NaN or infinite. Leave such points out.")
    return x.detach().double()


def as_levels(levels: Any) -> Tensor:
    """Noise levels, ascending, as float64 with shape (k,).

    Raises:
        DataError: If they are no positive numbers.
    """
    try:
        found = torch.as_tensor(levels, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0)
    if found.ndim != 1 or not len(found) or not bool((found > 0).all()) or not bool(found.isfinite().all()):
        raise DataError(f"levels must be positive noise levels, at least one; {what_came(levels)} came. Pass for "
                        "example levels=[0.1, 0.3, 1.0].")
    return found.sort().values


def noised(x: Tensor, levels: Tensor, draws: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    r"""Clean and noisy points at each level, :math:`y = x + \sigma n`.

    Paired, all levels have the same x and the same n; independent, each has its own n, and points drawn anew from x
    with replacement.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    n = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    for sigma in levels:
        clean = x
        if draws == "independent":
            clean = x[torch.randint(len(x), (len(x),), generator=generator)]
            n = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        found.append((clean, clean + sigma * n))
    return found
