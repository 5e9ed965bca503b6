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
    from .comparing import compare
    from .comparison import GenerativeComparison
    from .denoiser import Denoiser
    from .explain_gan import explain_gan
    from .game import GANRun
    from .gan_result import GANExplanation
    from .localisation import NoiseLocalisation, noise_localisation
    from .noise import NoiseLaw, schedule
    from .noise_kernels import NoiseKernel, noise_kernel
    from .opening import load
    from .points import points
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .sampling import Sampled, sample
    from .stage_result import DiffusionExplanation, OptimalExplanation
    from .stages import explain_diffusion, explain_optimal
    from .training import train_diffusion, train_gan
    from .witness import Witness, witness

__all__ = [
    "Adversary",
    "Denoiser",
    "DiffusionExplanation",
    "DiffusionRun",
    "GANExplanation",
    "GANRun",
    "GenerativeComparison",
    "Judged",
    "NoiseKernel",
    "NoiseLaw",
    "NoiseLocalisation",
    "OptimalExplanation",
    "Sampled",
    "compare",
    "explain_diffusion",
    "explain_optimal",
    "Witness",
    "explain_gan",
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
    "Denoiser": "denoiser",
    "DiffusionExplanation": "stage_result",
    "DiffusionRun": "reading",
    "GANExplanation": "gan_result",
    "GANRun": "game",
    "GenerativeComparison": "comparison",
    "Judged": "adversary",
    "NoiseKernel": "noise_kernels",
    "NoiseLaw": "noise",
    "NoiseLocalisation": "localisation",
    "OptimalExplanation": "stage_result",
    "Sampled": "sampling",
    "compare": "comparing",
    "explain_diffusion": "stages",
    "explain_optimal": "stages",
    "Witness": "witness",
    "explain_gan": "explain_gan",
    "load": "opening",
    "noise_kernel": "noise_kernels",
    "noise_localisation": "localisation",
    "points": "points",
    "record_diffusion": "recording_diffusion",
    "record_gan": "recording_game",
    "sample": "sampling",
    "schedule": "noise",
    "train_diffusion": "training",
    "train_gan": "training",
    "witness": "witness",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.generative has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
