"""Small, honest reference training: a denoiser and a GAN on points that are vectors or images, recorded.

(The recording in here is provisional; record_diffusion and record_gan take its place.)
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..run.recorder import record
from ..run.run import Run
from .adversary import FAKE, PENALTY, REAL, Adversary, Judged, field_loss
from .denoiser import Denoiser, along
from .game import GANRun
from .networks import NoiseConv, NoiseMLP, critic, generator
from .noise import NoiseLaw

__all__ = ["train_diffusion", "train_gan"]


def train_diffusion(x: Tensor, *, network: str = "mlp", width: int | None = None, steps: int = 1000, batch: int = 64,
                    rate: float | None = None, optimizer: str = "adam", law: NoiseLaw | None = None, seed: int = 0,
                    out: Any = None, keep: Any = "all", dtype: torch.dtype = torch.float32) -> Run:
    """Trains a denoiser on points with shape (n, d) and records it."""
    law = law or NoiseLaw()
    generator_ = torch.Generator().manual_seed(seed)
    x = x.to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        side = round(x[0].numel() ** 0.5)
        core = NoiseMLP(x[0].numel(), width or 128) if network == "mlp" else NoiseConv(side, width=width or 24)
        denoiser = Denoiser(core, float(x.std())).to(dtype)
    made = (torch.optim.Adam(denoiser.parameters(), lr=rate or 2e-3) if optimizer == "adam" else
            torch.optim.SGD(denoiser.parameters(), lr=rate or 0.05, momentum=0.9))
    notes = {"generative": "diffusion", "law": [law.mean, law.deviation]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with record(denoiser, (x, x), loss=F.mse_loss, out=out, keep=keep, notes=notes) as recording:
            for _ in range(steps):
                ids = torch.randint(len(x), (batch,), generator=generator_)
                sigma = law.draw(batch, generator_).to(dtype)
                y = x[ids] + along(sigma, x[ids]) * torch.randn(x[ids].shape, generator=generator_, dtype=dtype)
                target = denoiser.target(x[ids], y, sigma)
                recording.deliver((y, target), ids.tolist())
                made.zero_grad()
                F.mse_loss(denoiser(y, sigma), target).backward()
                made.step()
    return recording.run


def train_gan(x: Tensor, *, kind: str = "non-saturating", r1: float = 0.1, latents: int = 16, width: int = 128,
              steps: int = 1000, batch: int = 64, rate: float = 1e-3, optimizer: str = "adam", seed: int = 0,
              out: Any = None, keep: Any = "all", dtype: torch.dtype = torch.float32) -> GANRun:
    """Trains a GAN on points with shape (n, d) and records both networks."""
    game, n = Adversary(kind, r1), len(x)
    source = torch.Generator().manual_seed(seed)
    x = x.to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made, judged = generator(latents, x[0].numel(), width).to(dtype), Judged(critic(x[0].numel(), width)).to(dtype)

    def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
        if optimizer == "adam":
            return torch.optim.Adam(module.parameters(), lr=rate, betas=(0.5, 0.9))
        return torch.optim.SGD(module.parameters(), lr=rate)

    moving, judging = optimizer_of(made), optimizer_of(judged)
    parts = [(REAL, n), (PENALTY, n if r1 else 0), (FAKE, batch)]
    kinds = torch.cat([torch.full((count,), what) for what, count in parts]).to(dtype)
    terms = 3.0 if r1 else 2.0
    table = torch.stack([kinds, torch.full_like(kinds, terms)], 1)
    notes = {"generative": "gan", "kind": kind, "r1": r1, "real": n}
    seen: list[int] = []
    fakes = torch.arange(batch) + (2 * n if r1 else n)
    slots = list(range(batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with record(judged, (torch.zeros(len(table), 1), table), loss=game.critic_loss, notes=notes, keep=keep,
                    out=None if out is None else f"{out}/critic") as of_critic, \
                record(made, (torch.zeros(batch, latents), torch.zeros(batch, 1)), loss=field_loss, notes=notes,
                       keep=keep, out=None if out is None else f"{out}/generator") as of_generator:
            for _ in range(steps):
                ids = torch.randint(n, (batch,), generator=source)
                z = torch.randn(batch, latents, generator=source, dtype=dtype)
                with torch.no_grad():
                    fake = made(z)
                rows = torch.cat([x[ids], x[ids], fake]) if r1 else torch.cat([x[ids], fake])
                places = torch.cat([ids, ids + n, fakes]) if r1 else torch.cat([ids, fakes])
                of_critic.batch(places)
                judging.zero_grad()
                game.critic_loss(judged(rows), table[places], "mean").backward()
                judging.step()
                z = torch.randn(batch, latents, generator=source, dtype=dtype)
                with torch.no_grad():
                    at = made(z)
                v = game.field(judged.score, at)
                of_generator.deliver((z, v), slots)
                moving.zero_grad()
                field_loss(made(z), v, "mean").backward()
                moving.step()
                seen.append(len(seen) + 1)
    return GANRun(of_generator.run, of_critic.run, game, n, torch.tensor(seen))
