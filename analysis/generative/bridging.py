"""What can a critic tell a generator, and is a critic a denoiser?

Two experiments on models of handwritten digits:

- :func:`e8_geometry`: over how many directions a critic's slopes spread, how its kernel and the generator's are, how
  the game turns; with and without the penalty R1. Null: both networks as training began.
- :func:`e10`: the critic's slope beside the denoiser's step at the same points, over noise levels. Nulls: a random
  direction, the steps at other points, untrained networks, the Wiener denoiser, images that neither model has seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import kernelscope as ks
from kernelscope.generative import GANRun

from .models import digits

__all__ = ["Settings", "e8_geometry", "e10"]


@dataclass(frozen=True)
class Settings:
    """At how much is looked.

    Attributes:
        points: Points to look at.
        eigenvalues: How many eigenvalues of the game are found.
        seed: Of the draws.
    """

    points: int = 360
    eigenvalues: int = 12
    seed: int = 0


def e8_geometry(settings: Settings, games: Mapping[str, GANRun]) -> tuple[dict[str, float], list["ks.Result"]]:
    """The geometry of games.

    Args:
        settings: At how much is looked.
        games: Trained games by name.

    Returns:
        Numbers, each with the name of its game and, for the null, ``untrained``; and the geometry and the spectrum of
        the first game.
    """
    numbers, results = {}, []
    held = digits("test")[0]
    for name, run in games.items():
        found = ks.generative.critic_geometry(run, points=settings.points, held_out=held, seed=settings.seed)
        turns = ks.generative.game_spectrum(run, points=settings.points // 5, count=settings.eigenvalues,
                                            seed=settings.seed)
        for row in found.to_frame().itertuples():
            numbers |= {f"{name}: {row.measure}": row.trained, f"{name}: {row.measure}, untrained": row.untrained}
        numbers |= {f"{name}: witness, shuffled": float(found.shuffled.abs().max()),
                    f"{name}: critic alignment, held out": found.held_out["critic alignment"],
                    f"{name}: gap, held out": found.held_out["gap"],
                    f"{name}: turning": turns.turning, f"{name}: turning, untrained": turns.null}
        results += [found, turns]
    return numbers, results[:2]


def e10(settings: Settings, diffusion: "ks.Run", gan: GANRun) -> tuple[dict[str, float], "ks.generative.Bridge"]:
    """The critic's slope beside the denoiser's step at the same points.

    Args:
        settings: At how much is looked.
        diffusion: A trained denoiser.
        gan: A trained game.

    Returns:
        The smallest and the largest mean cosine over noise levels of each comparison, and the bridge.
    """
    found = ks.generative.bridge(diffusion, gan, held_out=digits("test")[0], count=settings.points, seed=settings.seed)
    numbers = {"chance": found.chance()}
    for where in ("generated", "noisy"):
        for name in getattr(found, where):
            low, high = found.range(name, where)
            numbers |= {f"{where}: {name}, least": low, f"{where}: {name}, most": high}
    return numbers, found
