"""What can a critic tell a generator, and is a critic a denoiser?

Two experiments on models of handwritten digits, which are trained here unless they are given:

- :func:`e8_geometry`: over how many directions a critic's slopes spread, how its kernel and the generator's are, how
  the game turns; with and without the penalty R1. Null: both networks as training began.
- :func:`e10`: the critic's slope beside the denoiser's step at the same points, over noise levels. Nulls: a random
  direction, the steps at other points, untrained networks, the Wiener denoiser, images that neither model has seen.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

import kernelscope as ks
from kernelscope.generative import GANRun, train_diffusion, train_gan


@dataclass(frozen=True)
class Settings:
    """How large the models are.

    Attributes:
        steps: Steps of each network.
        batch: Images in a batch.
        width: Units in a layer of generator and critic.
        denoiser_width: Units in a layer of the denoiser.
        r1: The weight of the penalty R1.
        points: Points to look at.
        eigenvalues: How many eigenvalues of the game are found.
        seed: Where training begins.
    """

    steps: int = 3000
    batch: int = 64
    width: int = 104
    denoiser_width: int = 104
    r1: float = 0.1
    points: int = 360
    eigenvalues: int = 12
    seed: int = 0


def digits() -> tuple[Tensor, Tensor]:
    """Training and held-out images, with entries from -1 to 1."""
    return ks.data.digits("train").x * 2 - 1, ks.data.digits("test").x * 2 - 1


def game(settings: Settings, r1: float | None = None) -> GANRun:
    """A game on digits."""
    return train_gan(digits()[0], steps=settings.steps, batch=settings.batch, width=settings.width, seed=settings.seed,
                     r1=settings.r1 if r1 is None else r1, keep=max(1, settings.steps // 10))


def denoiser(settings: Settings) -> "ks.Run":
    """A denoiser on digits."""
    return train_diffusion(digits()[0], steps=settings.steps, batch=settings.batch, width=settings.denoiser_width,
                           seed=settings.seed, keep=max(1, settings.steps // 10))


def e8_geometry(settings: Settings, games: Mapping[str, GANRun] | None = None
                ) -> tuple[dict[str, float], list["ks.Result"]]:
    """The geometry of games with and without R1.

    Args:
        settings: How large the models are.
        games: Trained games by name; those with and without R1 are trained if not given.

    Returns:
        Numbers, each with the name of its game and, for the null, ``untrained``; and the geometry and the spectrum of
        the first game.
    """
    start = time.process_time()
    if games is None:
        games = {"R1": game(settings), "no R1": game(settings, r1=0.0)}
    numbers, results = {"training": time.process_time() - start}, []
    _, held = digits()
    for name, run in games.items():
        start = time.process_time()
        found = ks.generative.critic_geometry(run, points=settings.points, held_out=held, seed=settings.seed)
        turns = ks.generative.game_spectrum(run, points=settings.points // 5, count=settings.eigenvalues,
                                            seed=settings.seed)
        for row in found.to_frame().itertuples():
            numbers |= {f"{name}: {row.measure}": row.trained, f"{name}: {row.measure}, untrained": row.untrained}
        numbers |= {f"{name}: witness, shuffled": float(found.shuffled.abs().max()),
                    f"{name}: critic alignment, held out": found.held_out["critic alignment"],
                    f"{name}: gap, held out": found.held_out["gap"],
                    f"{name}: turning": turns.turning, f"{name}: turning, untrained": turns.null,
                    f"{name}: seconds": time.process_time() - start}
        results += [found, turns]
    return numbers, results[:2]


def e10(settings: Settings, models: tuple["ks.Run", GANRun] | None = None) -> tuple[dict[str, float], "ks.Result"]:
    """The critic's slope beside the denoiser's step at the same points.

    Args:
        settings: How large the models are.
        models: A trained denoiser and a trained game; both are trained if not given.

    Returns:
        The smallest and the largest mean cosine over noise levels of each comparison, and the bridge.
    """
    start = time.process_time()
    diffusion, gan = (denoiser(settings), game(settings)) if models is None else models
    numbers = {"training": time.process_time() - start}
    start = time.process_time()
    found = ks.generative.bridge(diffusion, gan, held_out=digits()[1], count=settings.points,
                                 seed=settings.seed)
    for where in ("generated", "noisy"):
        for name in getattr(found, where):
            low, high = found.range(name, where)
            numbers |= {f"{where}: {name}, least": low, f"{where}: {name}, most": high}
    numbers |= {"chance": found.chance(), "seconds": time.process_time() - start}
    return numbers, found
