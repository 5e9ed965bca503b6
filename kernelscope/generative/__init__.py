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
    from .denoiser import Denoiser
    from .game import GANRun
    from .geometry import CriticGeometry, critic_geometry
    from .kernel_critics import kernel_critic
    from .noise import NoiseLaw, schedule
    from .opening import load
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .sampling import Sampled, sample
    from .spectra_of_games import GameSpectrum, game_spectrum
    from .training import train_diffusion, train_gan

__all__ = [
    "Adversary",
    "Bridge",
    "CriticGeometry",
    "Denoiser",
    "DiffusionRun",
    "GANRun",
    "GameSpectrum",
    "Judged",
    "NoiseLaw",
    "Sampled",
    "bridge",
    "critic_geometry",
    "game_spectrum",
    "kernel_critic",
    "load",
    "record_diffusion",
    "record_gan",
    "sample",
    "schedule",
    "train_diffusion",
    "train_gan",
]

_HOMES = {
    "Adversary": "adversary",
    "Bridge": "bridging",
    "CriticGeometry": "geometry",
    "Denoiser": "denoiser",
    "DiffusionRun": "reading",
    "GANRun": "game",
    "GameSpectrum": "spectra_of_games",
    "Judged": "adversary",
    "NoiseLaw": "noise",
    "Sampled": "sampling",
    "bridge": "bridging",
    "critic_geometry": "geometry",
    "game_spectrum": "spectra_of_games",
    "kernel_critic": "kernel_critics",
    "load": "opening",
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
