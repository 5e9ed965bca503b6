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
    from .many import ManyDenoisers, ManyGames, train_many, train_many_games
    from .memorisation import MemorisationTransition, memorisation_transition
    from .noise import NoiseLaw, schedule
    from .noise_kernels import NoiseKernel, noise_kernel
    from .opening import load
    from .parameterisations import Parameterised, Reparameterised, kernel_factors
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .removal import SubsetTrial, subset_trial
    from .retraining import Halves, half_subsets
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
    "Halves",
    "JacobianGeometry",
    "Judged",
    "LocalDenoiser",
    "ManyDenoisers",
    "ManyGames",
    "MemorisationTransition",
    "NoiseKernel",
    "NoiseLaw",
    "NoiseLocalisation",
    "OptimalDenoiser",
    "OptimalExplanation",
    "Parameterised",
    "Reparameterised",
    "Sampled",
    "SubsetTrial",
    "WienerDenoiser",
    "Witness",
    "Witness",
    "bridge",
    "compare",
    "critic_geometry",
    "denoiser_fit",
    "explain_diffusion",
    "explain_gan",
    "explain_gan",
    "explain_optimal",
    "from_diffusers",
    "game_spectrum",
    "half_subsets",
    "jacobian_geometry",
    "kernel_critic",
    "kernel_factors",
    "load",
    "memorisation_transition",
    "noise_kernel",
    "noise_localisation",
    "points",
    "record_diffusion",
    "record_gan",
    "sample",
    "schedule",
    "subset_trial",
    "train_diffusion",
    "train_gan",
    "train_many",
    "train_many_games",
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
    "Halves": "retraining",
    "JacobianGeometry": "jacobians",
    "Judged": "adversary",
    "LocalDenoiser": "closed_forms",
    "ManyDenoisers": "many",
    "ManyGames": "many",
    "MemorisationTransition": "memorisation",
    "NoiseKernel": "noise_kernels",
    "NoiseLaw": "noise",
    "NoiseLocalisation": "localisation",
    "OptimalDenoiser": "closed_forms",
    "OptimalExplanation": "stage_result",
    "Parameterised": "parameterisations",
    "Reparameterised": "parameterisations",
    "Sampled": "sampling",
    "SubsetTrial": "removal",
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
    "half_subsets": "retraining",
    "jacobian_geometry": "jacobians",
    "kernel_critic": "kernel_critics",
    "kernel_factors": "parameterisations",
    "load": "opening",
    "memorisation_transition": "memorisation",
    "noise_kernel": "noise_kernels",
    "noise_localisation": "localisation",
    "points": "example_points",
    "record_diffusion": "recording_diffusion",
    "record_gan": "recording_game",
    "sample": "sampling",
    "schedule": "noise",
    "subset_trial": "removal",
    "train_diffusion": "training",
    "train_gan": "training",
    "train_many": "many",
    "train_many_games": "many",
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
