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
    from .denoiser import Denoiser
    from .game import GANRun
    from .noise import NoiseLaw, schedule
    from .opening import load
    from .points import points
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .sampling import Sampled, sample
    from .training import train_diffusion, train_gan

__all__ = [
    "Adversary",
    "Denoiser",
    "DiffusionRun",
    "GANRun",
    "Judged",
    "NoiseLaw",
    "Sampled",
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
    "DiffusionRun": "reading",
    "GANRun": "game",
    "Judged": "adversary",
    "NoiseLaw": "noise",
    "Sampled": "sampling",
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
