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
    from .comparing.bridging import Bridge, bridge
    from .comparing.comparing import compare
    from .comparing.comparison import GenerativeComparison
    from .denoising.closed_forms import EquivariantLocalDenoiser, LocalDenoiser, OptimalDenoiser, WienerDenoiser
    from .denoising.denoiser import Denoiser
    from .denoising.diffusers import from_diffusers
    from .denoising.fits import DenoiserFit, denoiser_fit
    from .denoising.jacobians import JacobianGeometry, jacobian_geometry
    from .denoising.noise import NoiseLaw, schedule
    from .denoising.parameterisations import Parameterised, Reparameterised, kernel_factors
    from .denoising.reading import DiffusionRun
    from .denoising.recording import record_diffusion
    from .denoising.sampling import Sampled, sample
    from .games.adversary import Adversary, Judged
    from .games.explaining import explain_gan
    from .games.game import GANRun
    from .games.geometry import CriticGeometry, critic_geometry
    from .games.kernel_critics import kernel_critic
    from .games.recording import record_gan
    from .games.result import GANExplanation
    from .games.spectra import GameSpectrum, game_spectrum
    from .games.witnessing import Witness, witness
    from .opening import load
    from .reference import points
    from .stages.localisation import NoiseLocalisation, noise_localisation
    from .stages.noise_kernels import NoiseKernel, noise_kernel
    from .stages.optimal_result import OptimalExplanation
    from .stages.result import DiffusionExplanation
    from .stages.sampler_result import SamplerExplanation
    from .stages.stages import explain_diffusion, explain_optimal
    from .training import train_diffusion, train_gan
    from .trials.covering import CoveragePlan, CoverageTrial, Setting, coverage_trial
    from .trials.disjoint import DisjointHalves, disjoint_halves
    from .trials.many import ManyDenoisers, ManyGames, train_many, train_many_games
    from .trials.memorisation import MemorisationTransition, memorisation_transition
    from .trials.removal import SubsetTrial, subset_trial
    from .trials.retraining import Halves, half_subsets

__all__ = [
    "Adversary",
    "Bridge",
    "CoveragePlan",
    "CoverageTrial",
    "CriticGeometry",
    "Denoiser",
    "DenoiserFit",
    "DiffusionExplanation",
    "DiffusionRun",
    "DisjointHalves",
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
    "SamplerExplanation",
    "Setting",
    "SubsetTrial",
    "WienerDenoiser",
    "Witness",
    "bridge",
    "compare",
    "coverage_trial",
    "critic_geometry",
    "denoiser_fit",
    "disjoint_halves",
    "explain_diffusion",
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
    "Adversary": "games.adversary",
    "Bridge": "comparing.bridging",
    "CoveragePlan": "trials.covering",
    "CoverageTrial": "trials.covering",
    "CriticGeometry": "games.geometry",
    "Denoiser": "denoising.denoiser",
    "DenoiserFit": "denoising.fits",
    "DiffusionExplanation": "stages.result",
    "DiffusionRun": "denoising.reading",
    "DisjointHalves": "trials.disjoint",
    "EquivariantLocalDenoiser": "denoising.closed_forms",
    "GANExplanation": "games.result",
    "GANRun": "games.game",
    "GameSpectrum": "games.spectra",
    "GenerativeComparison": "comparing.comparison",
    "Halves": "trials.retraining",
    "JacobianGeometry": "denoising.jacobians",
    "Judged": "games.adversary",
    "LocalDenoiser": "denoising.closed_forms",
    "ManyDenoisers": "trials.many",
    "ManyGames": "trials.many",
    "MemorisationTransition": "trials.memorisation",
    "NoiseKernel": "stages.noise_kernels",
    "NoiseLaw": "denoising.noise",
    "NoiseLocalisation": "stages.localisation",
    "OptimalDenoiser": "denoising.closed_forms",
    "OptimalExplanation": "stages.optimal_result",
    "Parameterised": "denoising.parameterisations",
    "Reparameterised": "denoising.parameterisations",
    "Sampled": "denoising.sampling",
    "SamplerExplanation": "stages.sampler_result",
    "Setting": "trials.covering",
    "SubsetTrial": "trials.removal",
    "WienerDenoiser": "denoising.closed_forms",
    "Witness": "games.witnessing",
    "bridge": "comparing.bridging",
    "compare": "comparing.comparing",
    "coverage_trial": "trials.covering",
    "critic_geometry": "games.geometry",
    "denoiser_fit": "denoising.fits",
    "disjoint_halves": "trials.disjoint",
    "explain_diffusion": "stages.stages",
    "explain_gan": "games.explaining",
    "explain_optimal": "stages.stages",
    "from_diffusers": "denoising.diffusers",
    "game_spectrum": "games.spectra",
    "half_subsets": "trials.retraining",
    "jacobian_geometry": "denoising.jacobians",
    "kernel_critic": "games.kernel_critics",
    "kernel_factors": "denoising.parameterisations",
    "load": "opening",
    "memorisation_transition": "trials.memorisation",
    "noise_kernel": "stages.noise_kernels",
    "noise_localisation": "stages.localisation",
    "points": "reference",
    "record_diffusion": "denoising.recording",
    "record_gan": "games.recording",
    "sample": "denoising.sampling",
    "schedule": "denoising.noise",
    "subset_trial": "trials.removal",
    "train_diffusion": "training",
    "train_gan": "training",
    "train_many": "trials.many",
    "train_many_games": "trials.many",
    "witness": "games.witnessing",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.generative has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
