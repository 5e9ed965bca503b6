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
    from .many import ManyDenoisers, ManyGames, train_many, train_many_games
    from .memorisation import MemorisationTransition, memorisation_transition
    from .noise import NoiseLaw, schedule
    from .opening import load
    from .points import points
    from .reading import DiffusionRun
    from .recording_diffusion import record_diffusion
    from .recording_game import record_gan
    from .removal import SubsetTrial, subset_trial
    from .retraining import Halves, half_subsets
    from .sampling import Sampled, sample
    from .training import train_diffusion, train_gan

__all__ = [
    "Adversary",
    "Denoiser",
    "DiffusionRun",
    "GANRun",
    "Halves",
    "Judged",
    "ManyDenoisers",
    "ManyGames",
    "MemorisationTransition",
    "NoiseLaw",
    "Sampled",
    "SubsetTrial",
    "half_subsets",
    "load",
    "memorisation_transition",
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
]

_HOMES = {
    "Adversary": "adversary",
    "Denoiser": "denoiser",
    "DiffusionRun": "reading",
    "GANRun": "game",
    "Halves": "retraining",
    "Judged": "adversary",
    "ManyDenoisers": "many",
    "ManyGames": "many",
    "MemorisationTransition": "memorisation",
    "NoiseLaw": "noise",
    "Sampled": "sampling",
    "SubsetTrial": "removal",
    "half_subsets": "retraining",
    "load": "opening",
    "memorisation_transition": "memorisation",
    "points": "points",
    "record_diffusion": "recording_diffusion",
    "record_gan": "recording_game",
    "sample": "sampling",
    "schedule": "noise",
    "subset_trial": "removal",
    "train_diffusion": "training",
    "train_gan": "training",
    "train_many": "many",
    "train_many_games": "many",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"kernelscope.generative has no {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
