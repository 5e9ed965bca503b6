"""The models that all experiments on handwritten digits ask about, trained once and recorded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import kernelscope as ks
from kernelscope.generative import GANRun, train_diffusion, train_gan
from kernelscope.generative.denoising.denoiser import Denoiser
from kernelscope.generative.networks import NoiseMLP, critic, generator, matched_width, parameters_of

from .timing import Clock

__all__ = ["Models", "Settings", "denoiser", "digits", "game", "trained"]

#: The latents of a generator.
LATENTS = 16


@dataclass(frozen=True)
class Settings:
    """How the models are trained.

    Attributes:
        steps: Steps of the denoiser, of the generator and of the critic.
        batch: Images in a step.
        width: Units in a layer of the denoiser: 23,296 parameters.
        rates: The rates of the denoiser and of both networks of a game, which fall to nought along a cosine.
        r1: The weight of the penalty R1 of the critic.
        seeds: The seeds; the first runs keep their whole path.
        channels: Channels of the convolutional denoiser: 24 thousand parameters.
        convolutional_steps: Its steps, each of which takes ten times as long.
    """

    steps: int = 1500
    batch: int = 64
    width: int = 96
    rates: tuple[float, float] = (5e-3, 2e-3)
    r1: float = 1.0
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    channels: int = 36
    convolutional_steps: int = 800


@dataclass(frozen=True)
class Models:
    """Denoisers and games of the same seeds, in this order, and what stands beside the first of each.

    Attributes:
        denoisers: Fully connected denoisers.
        games: Non-saturating games with R1, of as many parameters.
        convolutional: A denoiser of convolutions.
        free: A game without R1.
    """

    denoisers: list[ks.Run]
    games: list[GANRun]
    convolutional: ks.Run
    free: GANRun

    @property
    def sizes(self) -> tuple[int, int]:
        """The parameters of a denoiser, and of both networks of a game."""
        return _size(self.denoisers[0]), _size(self.games[0].generator) + _size(self.games[0].critic)


def digits(split: str = "train") -> tuple[Tensor, Tensor]:
    """The digits with entries from -1 to 1, in rows of 64, and their classes."""
    data = ks.data.digits(split)
    return data.x.flatten(1).double() * 2 - 1, data.y


def denoiser(settings: Settings, seed: int = 0, network: str = "mlp", keep: int | str = "all") -> ks.Run:
    """A recorded denoiser."""
    x, plain = digits()[0], network == "mlp"
    return train_diffusion(x, network=network, width=settings.width if plain else settings.channels,
                           steps=settings.steps if plain else settings.convolutional_steps, batch=settings.batch,
                           seed=seed, keep=keep, dtype=x.dtype, rate=settings.rates[0], course="cosine")


def game(settings: Settings, seed: int = 0, r1: float | None = None, keep: int | str = "all") -> GANRun:
    """A recorded game whose two networks together have as many parameters as the denoiser."""
    x = digits()[0]
    size = x.shape[1]
    width = matched_width(lambda width: nn.ModuleList([generator(LATENTS, size, width), critic(size, width)]),
                          parameters_of(Denoiser(NoiseMLP(size, settings.width), 1.0)))
    return train_gan(x, latents=LATENTS, width=width, steps=settings.steps, batch=settings.batch, seed=seed,
                     r1=settings.r1 if r1 is None else r1, keep=keep, dtype=x.dtype,
                     rate=settings.rates[1], course="cosine")


def trained(settings: Settings, clock: Clock) -> Models:
    """All of them; a later seed keeps a tenth of its path."""
    seldom = max(1, settings.steps // 10)
    keeps = ["all", *[seldom] * (len(settings.seeds) - 1)]
    pairs = list(zip(settings.seeds, keeps, strict=True))
    return Models(
        clock("training of denoisers", lambda: [denoiser(settings, seed, keep=keep) for seed, keep in pairs]),
        clock("training of games", lambda: [game(settings, seed, keep=keep) for seed, keep in pairs]),
        clock("training of a convolutional denoiser",
              lambda: denoiser(settings, settings.seeds[0], "conv", keep=settings.convolutional_steps)),
        clock("training of a game without R1", lambda: game(settings, settings.seeds[0], r1=0.0, keep=seldom)))


def _size(run: ks.Run) -> int:
    return sum(p.numel() for p in run.parameters().values())
