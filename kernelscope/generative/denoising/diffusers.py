r"""Networks of the package diffusers as denoisers.

Their schedulers preserve variance, :math:`x_t = \sqrt{\bar\alpha_t}\, x + \sqrt{1 - \bar\alpha_t}\, n`; here noise is
added. Both are one:

.. math:: y = \frac{x_t}{\sqrt{\bar\alpha_t}}, \qquad \sigma_t = \sqrt{\frac{1 - \bar\alpha_t}{\bar\alpha_t}}, \qquad
          \bar\alpha = \frac{1}{1 + \sigma^2}
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import as_choice, what_came
from ...errors import DataError
from .closed_forms.points import traced
from .denoiser import Denoiser, along
from .parameterisations import PARAMETERISATIONS

__all__ = ["DiffusersDenoiser", "from_diffusers"]

#: What diffusers calls the parameterisations.
PREDICTIONS = {"epsilon": "noise", "sample": "clean", "v_prediction": "velocity"}

#: By how much a noise level may be beyond those of training.
BEYOND = 1.01


class DiffusersDenoiser(Denoiser):
    r"""A network called as ``unet(x_t, t)`` with the protocol of :class:`Denoiser`.

    The relation :math:`D = a(\sigma) y + b(\sigma) o` is exact at any noise level; only the timestep the network is
    told is one of training, the nearest in :math:`\ln\sigma`, or one between two of them.

    Args:
        unet: The network, held as ``core``, called as ``unet(x_t, t, return_dict=False)[0]``, as UNet2DModel is.
        alphas: The scheduler's :math:`\bar\alpha_t`, descending, with shape (T,).
        prediction: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``.
        timesteps: ``"nearest"`` or ``"interpolated"``, which tells the network numbers that it was not trained on.

    Raises:
        DataError: If there is no such prediction; when called, if a noise level is beyond those of training.

    Example:
        >>> class Nothing(nn.Module):
        ...     def forward(self, x, t, return_dict):
        ...         return (0 * x,)
        >>> denoiser = DiffusersDenoiser(Nothing(), torch.tensor([0.8, 0.5, 0.2]), "v_prediction")
        >>> denoiser.levels, denoiser.timestep(torch.tensor([0.9])), denoiser.denoised(torch.ones(1, 2), torch.ones(1))
        (tensor([0.5000, 1.0000, 2.0000]), tensor([1]), tensor([[0.5000, 0.5000]]))
    """

    levels: Tensor

    def __init__(self, unet: nn.Module, alphas: Tensor, prediction: str = "epsilon", timesteps: str = "nearest"):
        super().__init__(unet, spread=1.0)
        self.kind = PREDICTIONS[as_choice(prediction, "prediction", PREDICTIONS)]
        self.timesteps = as_choice(timesteps, "timesteps", ("nearest", "interpolated"))
        levels = ((1 - alphas) / alphas).sqrt()
        # With no signal left at the last timestep its noise level is infinite, and nothing can be denoised there.
        self.register_buffer("levels", levels[levels.isfinite()], persistent=False)

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:
        """What the network gives for noisy points of shape (n, *) at noise levels of shape (n,)."""
        if not traced(sigma) and not bool(self._known(sigma).all()):
            off = float(sigma[~self._known(sigma)][0])
            raise DataError(f"The network was trained at noise levels {float(self.levels[0]):.3g} to "
                            f"{float(self.levels[-1]):.3g}, and {off:.3g} came. Pass levels within them, for example "
                            "schedule(18, denoiser.levels[0], denoiser.levels[-1]).")
        images = y if y.ndim > 2 else y.view(self._fold(y))
        scaled = images * along((1 + sigma**2).rsqrt(), images)
        return self.core(scaled, self.timestep(sigma), return_dict=False)[0].view_as(y)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep that the network is told at each noise level."""
        logs = self.levels.to(sigma).log()
        at = sigma.log()
        if self.timesteps == "nearest":
            return (at[:, None] - logs).abs().argmin(1)
        above = torch.searchsorted(logs, at.contiguous()).clamp(1, len(logs) - 1)
        low, high = logs[above - 1], logs[above]
        return above - 1 + ((at - low) / (high - low)).clamp(0, 1)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return PARAMETERISATIONS[self.kind](sigma, self.spread)

    def _known(self, sigma: Tensor) -> Tensor:
        levels = self.levels.to(sigma)
        return (sigma >= levels[0] / BEYOND) & (sigma <= levels[-1] * BEYOND)

    def _fold(self, y: Tensor) -> list[int]:
        config = getattr(self.core, "config", None)
        side, channels = getattr(config, "sample_size", None), getattr(config, "in_channels", None)
        if not isinstance(side, int) or not isinstance(channels, int):
            return list(y.shape)
        return [len(y), channels, side, side]


def from_diffusers(unet: nn.Module, scheduler: Any, timesteps: str = "nearest") -> DiffusersDenoiser:
    r"""A network and a scheduler of diffusers as a denoiser, which everything here takes.

    Args:
        unet: A network without text or class conditions, such as UNet2DModel; it is held, not copied.
        scheduler: What it was trained with, such as DDPMScheduler: its :math:`\bar\alpha_t` and prediction type count.
        timesteps: ``"nearest"`` tells the network the timestep of training whose :math:`\ln\sigma` is nearest;
            ``"interpolated"`` one between two, on a straight line in :math:`\ln\sigma`.

    Returns:
        The :class:`DiffusersDenoiser`; record its training, or pass its ``denoised`` to :func:`sample`.

    Raises:
        DataError: If the network is no module, or the scheduler does not preserve variance.

    References:
        "Denoising Diffusion Probabilistic Models" (Ho et al., 2020), equation 4.

    Example:
        >>> from types import SimpleNamespace
        >>> scheduler = SimpleNamespace(alphas_cumprod=torch.tensor([0.8, 0.2]),
        ...                             config=SimpleNamespace(prediction_type="epsilon"))
        >>> from_diffusers(nn.Identity(), scheduler).coefficients(torch.tensor([0.5]))
        (tensor([1.]), tensor([-0.5000]))
    """
    if not isinstance(unet, nn.Module):
        raise DataError(f"The network must be a module called as unet(x_t, t); {what_came(unet)} came. Pass the UNet "
                        "of a pipeline, pipeline.unet.")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    prediction = getattr(getattr(scheduler, "config", None), "prediction_type", None)
    if not isinstance(alphas, Tensor) or alphas.ndim != 1 or not bool((alphas.diff() < 0).all()):
        raise DataError("The scheduler must preserve variance, with alphas_cumprod that falls with the timestep, as "
                        f"DDPMScheduler and DDIMScheduler do; {what_came(scheduler)} came. Pass the scheduler that the "
                        "network was trained with.")
    if prediction not in PREDICTIONS:
        raise DataError(f"The scheduler's prediction_type must be {', '.join(PREDICTIONS)}; {what_came(prediction)} "
                        "came. Set it to what the network was trained to give.")
    return DiffusersDenoiser(unet, alphas, prediction, timesteps)
