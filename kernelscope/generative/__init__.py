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
    from .bridging import Bridge, bridge
    from .closed_forms import EquivariantLocalDenoiser, LocalDenoiser, OptimalDenoiser, WienerDenoiser
    from .comparing import compare
    from .comparison import GenerativeComparison
    from .denoiser import Denoiser
    from .denoiser_fits import DenoiserFit, denoiser_fit
    from .diffusers import from_diffusers
    from .example_points import points
    from .explaining_gan import explain_gan
    from .game import GANRun
    from .gan_result import GANExplanation
    from .geometry import CriticGeometry, critic_geometry
    from .jacobians import JacobianGeometry, jacobian_geometry
    from .kernel_critics import kernel_critic
    from .localisation import NoiseLocalisation, noise_localisation
    from .noise import NoiseLaw, schedule
    from .noise_kernels import NoiseKernel, noise_kernel
    from .opening import load
    from .parameterisations import Parameterised, Reparameterised, kernel_factors
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .sampling import Sampled, sample
    from .spectra_of_games import GameSpectrum, game_spectrum
    from .stage_result import DiffusionExplanation, OptimalExplanation
    from .stages import explain_diffusion, explain_optimal
    from .training import train_diffusion, train_gan
    from .witnessing import Witness, witness

__all__ = [
    "Adversary",
    "Bridge",
    "CriticGeometry",
    "Denoiser",
    "DenoiserFit",
    "DiffusionExplanation",
    "DiffusionRun",
    "EquivariantLocalDenoiser",
    "GANExplanation",
    "GANRun",
    "GameSpectrum",
    "GenerativeComparison",
    "JacobianGeometry",
    "Judged",
    "LocalDenoiser",
    "NoiseKernel",
    "NoiseLaw",
    "NoiseLocalisation",
    "OptimalDenoiser",
    "OptimalExplanation",
    "Parameterised",
    "Reparameterised",
    "Sampled",
    "WienerDenoiser",
    "Witness",
    "bridge",
    "compare",
    "critic_geometry",
    "denoiser_fit",
    "explain_diffusion",
    "explain_gan",
    "explain_optimal",
    "Witness",
    "explain_gan",
    "from_diffusers",
    "game_spectrum",
    "jacobian_geometry",
    "kernel_critic",
    "kernel_factors",
    "load",
    "noise_kernel",
    "noise_localisation",
    "points",
    "record_diffusion",
    "record_gan",
    "sample",
    "schedule",
    "train_diffusion",
    "train_gan",
    "witness",
]

_HOMES = {
    "Adversary": "adversary",
    "Bridge": "bridging",
    "CriticGeometry": "geometry",
    "Denoiser": "denoiser",
    "DenoiserFit": "denoiser_fits",
    "DiffusionExplanation": "stage_result",
    "DiffusionRun": "reading",
    "EquivariantLocalDenoiser": "closed_forms",
    "GANExplanation": "gan_result",
    "GANRun": "game",
    "GameSpectrum": "spectra_of_games",
    "GenerativeComparison": "comparison",
    "JacobianGeometry": "jacobians",
    "Judged": "adversary",
    "LocalDenoiser": "closed_forms",
    "NoiseKernel": "noise_kernels",
    "NoiseLaw": "noise",
    "NoiseLocalisation": "localisation",
    "OptimalDenoiser": "closed_forms",
    "OptimalExplanation": "stage_result",
    "Parameterised": "parameterisations",
    "Reparameterised": "parameterisations",
    "Sampled": "sampling",
    "WienerDenoiser": "closed_forms",
    "Witness": "witnessing",
    "bridge": "bridging",
    "compare": "comparing",
    "critic_geometry": "geometry",
    "denoiser_fit": "denoiser_fits",
    "explain_diffusion": "stages",
    "explain_gan": "explaining_gan",
    "explain_optimal": "stages",
    "from_diffusers": "diffusers",
    "game_spectrum": "spectra_of_games",
    "jacobian_geometry": "jacobians",
    "kernel_critic": "kernel_critics",
    "kernel_factors": "parameterisations",
    "load": "opening",
    "noise_kernel": "noise_kernels",
    "noise_localisation": "localisation",
    "points": "example_points",
    "record_diffusion": "recording_diffusion",
    "record_gan": "recording_game",
    "sample": "sampling",
    "schedule": "noise",
    "train_diffusion": "training",
    "train_gan": "training",
    "witness": "witnessing",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.generative has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
