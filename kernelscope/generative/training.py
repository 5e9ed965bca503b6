"""Small, honest reference training: a denoiser and a GAN on points that are vectors or square images, recorded.

The loops are plain ones, recorded as anybody's would be, and the same seed gives the same run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..arguments import as_choice, as_count, as_path, as_positive, as_seed, what_came
from ..errors import DataError, NonFiniteError, StoreExists
from ..progress import counting
from ..run.run import Run
from ..storage import Store
from ..storage.manifest import exists
from .denoising.denoiser import Denoiser, along
from .denoising.noise import NoiseLaw
from .denoising.recording import record_diffusion
from .games.adversary import KINDS, Adversary
from .games.game import GANRun
from .games.recording import record_gan
from .networks import NoiseConv, NoiseMLP, critic, critic_of_images, generator, generator_of_images

__all__ = ["train_diffusion", "train_gan"]

#: What a rate is multiplied by after the part u of all steps.
COURSES: dict[str, Callable[[float], float]] = {
    "constant": lambda u: 1.0,
    "cosine": lambda u: (1 + math.cos(math.pi * u)) / 2,
}

#: Usual rates of the optimizers, for a denoiser and for the networks of a game.
RATES = {"adam": (2e-3, 1e-3), "sgd": (0.2, 0.05), "momentum": (0.05, 0.01)}


def train_diffusion(x: Tensor, *, network: str | nn.Module = "mlp", width: int | None = None, steps: int = 1000,
                    batch: int = 64, rate: float | None = None, optimizer: str = "adam", course: str = "constant",
                    average: float | None = None, law: NoiseLaw | None = None, seed: int = 0,
                    out: str | Path | None = None, keep: int | str = "all", dtype: torch.dtype = torch.float32,
                    overwrite: bool = False) -> Run:
    r"""Trains a denoiser on points and records it.

    Each step draws a batch of points with replacement, a noise level and a noise for each, and goes down the gradient
    of the mean square between what the network gives and ``denoiser.target``.

    Args:
        x: The clean points, with shape (n, d), or (n, channels, side, side) for a network of images.
        network: ``"mlp"`` (:class:`NoiseMLP`), ``"conv"`` (:class:`NoiseConv`, on square images), or a core called
            as ``core(y, c)``, which is wrapped in a :class:`Denoiser`; a Denoiser is taken as it is.
        width: The width of a network named by a word; 128, or 24 of the convolutional one, if not given.
        steps: The number of steps.
        batch: The number of points in one.
        rate: The learning rate; of Adam 0.002, of SGD 0.2, with momentum 0.05, if not given.
        optimizer: ``"adam"``, ``"sgd"``, or ``"momentum"``, SGD with a momentum of 0.9.
        course: ``"constant"``, or ``"cosine"`` for a rate that falls to nought.
        average: The decay of averaged weights that are recorded beside the trained ones, such as 0.99.
        law: The law of noise levels.
        seed: Names the initial network and all draws.
        out: The folder to record into; ``None`` keeps the run in memory.
        keep: Which parameters are stored, as in :func:`kernelscope.record`.
        dtype: The precision.
        overwrite: Whether a run in ``out`` may be replaced.

    Returns:
        The run, which :class:`DiffusionRun` reads as a denoiser.

    Raises:
        DataError: If an argument is not of its kind.

    References:
        "Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), table 1.

    Example:
        >>> train_diffusion(torch.randn(20, 4), width=8, steps=5, batch=4)
        Run(in memory: 5 steps of Adam, 20 samples, 276 parameters)
    """
    x, steps, batch, seed = _points(x, dtype), as_count(steps, "steps", 1), as_count(batch, "batch", 1), as_seed(seed)
    law = NoiseLaw() if law is None else law
    if not isinstance(law, NoiseLaw):
        raise DataError(f"law must be a NoiseLaw; {what_came(law)} came. Pass law=NoiseLaw(-1.2, 1.2), or leave it "
                        "out.")
    _refuse_taken(out, overwrite)
    source = torch.Generator().manual_seed(seed)
    denoiser = _denoiser(x, network, width, seed).to(dtype)
    made = _optimizer(denoiser, optimizer, rate, 0, (0.9, 0.999))
    falling = _falling(made, course, steps)
    averaged = _averaged(denoiser, average)
    with counting(steps, "training", "step") as done, \
            record_diffusion(denoiser, x, law=law, average=averaged, out=out, keep=keep, overwrite=overwrite,
                             notes={"seed": seed}) as recording:
        for _ in range(steps):
            ids = torch.randint(len(x), (batch,), generator=source)
            sigma = law.draw(batch, source).to(dtype)
            y = x[ids] + along(sigma, x[ids]) * torch.randn(x[ids].shape, generator=source, dtype=dtype)
            recording.batch(ids)
            made.zero_grad()
            F.mse_loss(denoiser(y, sigma), denoiser.target(x[ids], y, sigma)).backward()
            made.step()
            falling.step()
            if averaged is not None:
                averaged.update_parameters(denoiser)
            done(1)
    return recording.run


def train_gan(x: Tensor, *, kind: str = "non-saturating", r1: float = 0.1,
              network: str | tuple[nn.Module, nn.Module] = "mlp", latents: int = 16, width: int | None = None,
              steps: int = 1000, critic_steps: int = 1, batch: int = 64, rate: float | None = None,
              optimizer: str = "adam", course: str = "constant", average: float | None = None, seed: int = 0,
              out: str | Path | None = None, keep: int | str = "all", dtype: torch.dtype = torch.float32,
              overwrite: bool = False) -> GANRun:
    r"""Trains a GAN on points and records both networks.

    Each of the generator's steps comes after some of the critic's; all draw new latents, the critic's draw a batch of
    real points with replacement.

    Args:
        x: The real points, with shape (n, d); images are taken as vectors.
        kind: The game: ``"non-saturating"``, ``"wasserstein"`` or ``"hinge"``.
        r1: The weight :math:`\gamma` of the penalty :math:`\tfrac\gamma2 E|\nabla_x D|^2` at real points; 0 for none.
        network: ``"mlp"``, ``"conv"`` (on square images), or a generator and a critic.
        latents: The number of latents.
        width: The width of networks named by a word; 128, or 32 of convolutional ones, if not given.
            :func:`~kernelscope.generative.networks.matched_width` finds one for a number of parameters.
        steps: The number of the generator's steps.
        critic_steps: How many the critic makes before each of them.
        batch: The number of points in one.
        rate: The learning rate of both; of Adam 0.001, of SGD 0.05, with momentum 0.01, if not given.
        optimizer: ``"adam"`` (with betas 0.5 and 0.9), ``"sgd"``, or ``"momentum"``, SGD with a momentum of 0.9.
        course: ``"constant"``, or ``"cosine"`` for rates that fall to nought.
        average: The decay of averaged weights of the generator that are recorded beside the trained ones.
        seed: Names the initial networks and all draws.
        out: The folder to record into; ``None`` keeps both runs in memory.
        keep: Which parameters are stored, as in :func:`kernelscope.record`, of each network.
        dtype: The precision.
        overwrite: Whether a game in ``out`` may be replaced.

    Returns:
        The recorded game.

    Raises:
        DataError: If an argument is not of its kind.

    References:
        | "Generative Adversarial Nets" (Goodfellow et al., 2014), section 3: the non-saturating game
        | "Which Training Methods for GANs do actually Converge?" (Mescheder et al., 2018), equation 9: R1

    Example:
        >>> train_gan(torch.randn(20, 4), latents=2, width=8, steps=5, batch=4)
        GANRun(non-saturating: 5 steps of a generator with 132 parameters, 5 of a critic with 121, 20 real points)
    """
    game = Adversary(kind, r1)
    x, steps, batch, seed = _points(x, dtype), as_count(steps, "steps", 1), as_count(batch, "batch", 1), as_seed(seed)
    x, critic_steps = x.flatten(1), as_count(critic_steps, "critic_steps", 1)
    source = torch.Generator().manual_seed(seed)
    made, judge = (net.to(dtype) for net in _players(x, network, as_count(latents, "latents", 1), width, seed))
    moving, judging = (_optimizer(net, optimizer, rate, 1, (0.5, 0.9)) for net in (made, judge))
    slowing = [_falling(moving, course, steps), _falling(judging, course, steps * critic_steps)]
    averaged = _averaged(made, average)
    against, _ = KINDS[game.kind]
    total = steps * (1 + critic_steps)
    with counting(total, "training", "step") as done, \
            record_gan(made, judge, x, loss=game.kind, r1=game.r1, average=averaged, out=out, keep=keep, places=batch,
                       overwrite=overwrite, notes={"seed": seed}) as recording:
        for _ in range(steps):
            for _ in range(critic_steps):
                ids = torch.randint(len(x), (batch,), generator=source)
                with torch.no_grad():
                    fake = made(torch.randn(batch, latents, generator=source, dtype=dtype))
                recording.batch(ids)
                judging.zero_grad()
                real = x[ids].requires_grad_(game.r1 > 0)
                scores = judge(real)
                loss = against(-scores).mean() + against(judge(fake)).mean()
                if game.r1:
                    slopes, = torch.autograd.grad(scores.sum(), real, create_graph=True)
                    loss = loss + game.r1 / 2 * slopes.square().sum(1).mean()
                loss.backward()
                judging.step()
                slowing[1].step()
            moving.zero_grad()
            z = torch.randn(batch, latents, generator=source, dtype=dtype)
            game.generator_loss(judge(made(z))).mean().backward()
            moving.step()
            slowing[0].step()
            if averaged is not None:
                averaged.update_parameters(made)
            done(1 + critic_steps)
    return recording.run


def _refuse_taken(out: str | Path | None, overwrite: bool) -> None:
    """Refuses a folder that holds a run, which a training from the start cannot take up."""
    if out is None or overwrite:
        return
    folder = as_path(out, "out, the folder to record into,", 'out="runs/diffusion"')
    # A folder in which no step was committed is as good as none.
    if exists(folder) and Store.open(folder).segments:
        raise StoreExists(f"{folder} already holds a recording. Choose another folder, or pass overwrite=True to "
                          "replace it; it is intact.")


def _points(x: Any, dtype: torch.dtype) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.numel():
        came = f"a tensor with shape {tuple(x.shape)}" if isinstance(x, Tensor) else what_came(x)
        raise DataError(f"The training points must be a tensor with a row for each; {came} came. Pass for "
                        "example kernelscope.generative.points(\"digits\").")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise DataError(f"dtype must be a precision of floating point; {dtype!r:.80} came. Pass dtype=torch.float32, "
                        "the usual one.")
    if not bool(x.isfinite().all()):
        raise NonFiniteError("The training points have numbers that are NaN or infinite. Leave such points out.")
    return x.detach().to("cpu", dtype)


def _denoiser(x: Tensor, network: str | nn.Module, width: int | None, seed: int) -> Any:
    if isinstance(network, nn.Module):
        return network if hasattr(network, "target") else Denoiser(network, _spread(x))
    width = None if width is None else as_count(width, "width", 1)
    if as_choice(network, "network", ("mlp", "conv")) == "mlp":
        return _seeded(seed, lambda: Denoiser(NoiseMLP(x[0].numel(), width or 128), _spread(x)))
    channels, side = _image(x)
    return _seeded(seed, lambda: Denoiser(NoiseConv(side, channels, width or 24), _spread(x)))


def _spread(x: Tensor) -> float:
    """The standard deviation of all numbers."""
    spread = float(x.std()) if x.numel() > 1 else 0.0
    if not spread:
        raise DataError("All numbers of the training points are the same, so a denoiser has nothing to learn. Pass "
                        "points that differ.")
    return spread


def _players(x: Tensor, network: str | tuple[nn.Module, nn.Module], latents: int, width: int | None,
             seed: int) -> tuple[nn.Module, nn.Module]:
    if isinstance(network, tuple):
        if len(network) != 2 or not all(isinstance(net, nn.Module) for net in network):
            came = ", ".join(type(net).__name__ for net in network) or "an empty tuple"
            raise DataError(f"network must be a word, or a generator and a critic; {came} came. Pass "
                            "network=(generator, critic).")
        return network
    size, width = x.shape[1], None if width is None else as_count(width, "width", 1)
    if as_choice(network, "network", ("mlp", "conv")) == "mlp":
        return _seeded(seed, lambda: (generator(latents, size, width or 128), critic(size, width or 128)))
    channels, side = _image(x)
    return _seeded(seed, lambda: (generator_of_images(latents, side, channels, width or 32),
                                  critic_of_images(side, channels, width or 32)))


def _seeded(seed: int, make: Callable[[], Any]) -> Any:
    """What is made under a seed, without a trace in the user's random state."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        return make()


def _image(x: Tensor) -> tuple[int, int]:
    """Channels and side of points as square images."""
    if x.ndim == 4 and x.shape[2] == x.shape[3]:
        return x.shape[1], x.shape[2]
    side = round(x[0].numel() ** 0.5)
    if x.ndim != 2 or side**2 != x.shape[1]:
        raise DataError(f"A convolutional network needs square images, and points of shape {tuple(x.shape[1:])} came. "
                        'Pass points with shape (n, side * side) or (n, channels, side, side), or network="mlp".')
    return 1, side


def _optimizer(network: nn.Module, name: str, rate: float | None, of: int,
               betas: tuple[float, float]) -> torch.optim.Optimizer:
    rate = RATES[as_choice(name, "optimizer", tuple(RATES))][of] if rate is None else as_positive(rate, "rate", "0.001")
    if name == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas)
    return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9 if name == "momentum" else 0.0)


def _falling(optimizer: torch.optim.Optimizer, course: str, steps: int) -> LambdaLR:
    part = COURSES[as_choice(course, "course", tuple(COURSES))]
    return LambdaLR(optimizer, lambda k: part(k / steps))


def _averaged(network: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise DataError(f"average must be the decay of averaged weights, from 0 on and below 1; {what_came(decay)} "
                        "came. Pass for example average=0.99.")
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
