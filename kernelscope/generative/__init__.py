"""Diffusion models and GANs, seen through the same nouns.

Both are recorded as ordinary runs, by hooks around a loop that stays as it is, so that everything which is asked of a
run is asked of them too. The names below are resolved when they are first used.

Example:
    >>> import kernelscope as ks
    >>> ks.generative.NoiseLaw()
    NoiseLaw(mean=-1.2, deviation=1.2)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adversary import Adversary, Judged
    from .closed_forms import EquivariantLocalDenoiser, LocalDenoiser, OptimalDenoiser, WienerDenoiser
    from .comparing import compare
    from .comparison import GenerativeComparison
    from .denoiser import Denoiser
    from .denoiser_fits import DenoiserFit, denoiser_fit
    from .diffusers import from_diffusers
    from .game import GANRun
    from .jacobians import JacobianGeometry, jacobian_geometry
    from .noise import NoiseLaw, schedule
    from .opening import load
    from .parameterisations import Parameterised, Reparameterised, kernel_factors
    from .points import points
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .sampling import Sampled, sample
    from .training import train_diffusion, train_gan

__all__ = [
    "Adversary",
    "Denoiser",
    "DenoiserFit",
    "DiffusionRun",
    "EquivariantLocalDenoiser",
    "GANRun",
    "GenerativeComparison",
    "JacobianGeometry",
    "Judged",
    "LocalDenoiser",
    "NoiseLaw",
    "OptimalDenoiser",
    "Parameterised",
    "Reparameterised",
    "Sampled",
    "WienerDenoiser",
    "compare",
    "denoiser_fit",
    "from_diffusers",
    "jacobian_geometry",
    "kernel_factors",
    "load",
    "points",
    "record_diffusion",
    "record_gan",
    "sample",
    "schedule",
    "train_diffusion",
    "train_gan",
]

_HOMES = {
    "Adversary": "adversary",
    "Denoiser": "denoiser",
    "DenoiserFit": "denoiser_fits",
    "DiffusionRun": "reading",
    "EquivariantLocalDenoiser": "closed_forms",
    "GANRun": "game",
    "GenerativeComparison": "comparison",
    "JacobianGeometry": "jacobians",
    "Judged": "adversary",
    "LocalDenoiser": "closed_forms",
    "NoiseLaw": "noise",
    "OptimalDenoiser": "closed_forms",
    "Parameterised": "parameterisations",
    "Reparameterised": "parameterisations",
    "Sampled": "sampling",
    "WienerDenoiser": "closed_forms",
    "compare": "comparing",
    "denoiser_fit": "denoiser_fits",
    "from_diffusers": "diffusers",
    "jacobian_geometry": "jacobians",
    "kernel_factors": "parameterisations",
    "load": "opening",
    "points": "points",
    "record_diffusion": "recording_diffusion",
    "record_gan": "recording_game",
    "sample": "sampling",
    "schedule": "noise",
    "train_diffusion": "training",
    "train_gan": "training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.generative has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
