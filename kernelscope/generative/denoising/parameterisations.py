r"""The same denoiser regressed on something else: on the noise, on the clean point, on the velocity.

All of them are affine in each other at one noise level, :math:`D = a(\sigma) y + b(\sigma) o`, with

==============  ================================  ============================================
parameterised   a                                 b
==============  ================================  ============================================
``"noise"``     1                                 :math:`-\sigma`
``"clean"``     0                                 1
``"velocity"``  :math:`s^2 / (\sigma^2 + s^2)`    :math:`-\sigma s / \sqrt{\sigma^2 + s^2}`
``"edm"``       :math:`s^2 / (\sigma^2 + s^2)`    :math:`\sigma s / \sqrt{\sigma^2 + s^2}`
==============  ================================  ============================================

so the core of EDM is the velocity with the other sign. What a network says at one noise level is the same in all of
them; how much a noise level counts is not: gradients, kernels and losses of o at :math:`\sigma` carry the factor
:math:`1 / b(\sigma)` against those of D. A number that compares noise levels belongs to its parameterisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, what_came
from ...errors import DataError
from .denoiser import Denoiser

__all__ = ["PARAMETERISATIONS", "Parameterised", "Reparameterised", "kernel_factors"]

#: Coefficients a and b of each parameterisation, from a noise level and the spread of the data.
PARAMETERISATIONS: dict[str, Callable[[Tensor, float], tuple[Tensor, Tensor]]] = {
    "noise": lambda sigma, s: (torch.ones_like(sigma), -sigma),
    "clean": lambda sigma, s: (torch.zeros_like(sigma), torch.ones_like(sigma)),
    "velocity": lambda sigma, s: (s**2 / (sigma**2 + s**2), -sigma * s * (sigma**2 + s**2).rsqrt()),
    "edm": lambda sigma, s: (s**2 / (sigma**2 + s**2), sigma * s * (sigma**2 + s**2).rsqrt()),
}


class Parameterised(Denoiser):
    r"""A denoiser whose core gives the noise, the clean point or the velocity.

    Args:
        core: A module called as ``core(y, c)`` with points scaled to variance one and noise words :math:`\tfrac14 \ln
            \sigma`, that gives the shape of the points.
        spread: The standard deviation s of the data, over all numbers of all points; 1 is the velocity of diffusers.
        kind: ``"noise"``, ``"clean"``, ``"velocity"`` or ``"edm"``.

    Raises:
        DataError: If the spread is not positive or there is no such parameterisation.

    References:
        "Progressive Distillation for Fast Sampling of Diffusion Models" (Salimans & Ho, 2022), appendix D.

    Example:
        >>> class Nothing(nn.Module):
        ...     def forward(self, y, c):
        ...         return 0 * y
        >>> y, sigma = torch.tensor([[2.0]]), torch.tensor([1.0])
        >>> [float(Parameterised(Nothing(), 1.0, kind).denoised(y, sigma)) for kind in ("noise", "clean", "velocity")]
        [2.0, 0.0, 1.0]
    """

    def __init__(self, core: nn.Module, spread: float, kind: str = "noise"):
        super().__init__(core, spread)
        self.kind = as_choice(kind, "kind", PARAMETERISATIONS)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return PARAMETERISATIONS[self.kind](sigma, self.spread)


class Reparameterised(Denoiser):
    r"""The denoiser of another module, with the same parameters, read in another parameterisation.

    .. math:: o' = \frac{(a - a')\, y + b\, o}{b'}

    Args:
        denoiser: A module with the methods of :class:`Denoiser`.
        kind: ``"noise"``, ``"clean"``, ``"velocity"`` or ``"edm"``.
        spread: The standard deviation of the data; by default that of the module.

    Raises:
        DataError: If the module has no coefficients or no spread, or there is no such parameterisation.

    Example:
        >>> denoiser = Parameterised(nn.Bilinear(1, 1, 1), 1.0, "noise")
        >>> Reparameterised(denoiser, "clean").kind
        'clean'
    """

    def __init__(self, denoiser: nn.Module, kind: str, spread: float | None = None):
        if not hasattr(denoiser, "coefficients") or not isinstance(denoiser, nn.Module):
            raise DataError("A denoiser is a module with coefficients(sigma), as kernelscope.generative.Denoiser; "
                            f"{what_came(denoiser)} came. Wrap the network in one.")
        own: Any = getattr(denoiser, "spread", None)
        super().__init__(denoiser, own if spread is None else spread)
        self.kind = as_choice(kind, "kind", PARAMETERISATIONS)

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        """What a network of this parameterisation gives, for points of shape (n, *) and noise levels of shape (n,)."""
        return self.target(self.denoised(y, sigma), y, sigma)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return PARAMETERISATIONS[self.kind](sigma, self.spread)

    def denoised(self, y: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points D, those of the module itself."""
        core: Any = self.core
        return core.denoised(y, sigma)


def kernel_factors(denoiser: Any, sigma: Tensor) -> dict[str, Tensor]:
    r"""By how much the parameter kernel :math:`K_{\sigma\sigma}` of each parameterisation exceeds the module's own.

    .. math:: K'_{\sigma\sigma} = \Big(\frac{b(\sigma)}{b'(\sigma)}\Big)^2 K_{\sigma\sigma}

    Cosines within the kernel stay as they are, up to sign; traces, norms and shares of noise levels do not.

    Args:
        denoiser: A module with the methods of :class:`Denoiser` and its ``spread``.
        sigma: Noise levels, with shape (k,).

    Returns:
        For each parameterisation, and for D itself under ``"denoised"``, the factor of each noise level.

    Raises:
        DataError: If the module has no coefficients or no spread.

    Example:
        >>> factors = kernel_factors(Parameterised(nn.Identity(), 1.0, "noise"), torch.tensor([0.5, 2.0]))
        >>> factors["clean"].tolist(), factors["noise"].tolist()
        ([0.25, 4.0], [1.0, 1.0])
    """
    if not hasattr(denoiser, "coefficients") or not hasattr(denoiser, "spread"):
        raise DataError("Kernel factors are those of a module with coefficients(sigma) and a spread, as "
                        f"kernelscope.generative.Denoiser; {what_came(denoiser)} came. Wrap the network in one.")
    own = denoiser.coefficients(sigma)[1]
    found = {kind: (own / of(sigma, denoiser.spread)[1]).square() for kind, of in PARAMETERISATIONS.items()}
    return {**found, "denoised": own.square()}
