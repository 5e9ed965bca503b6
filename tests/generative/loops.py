"""Small generative training loops as a user would write them, which know nothing of being recorded."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kernelscope.generative import Denoiser, NoiseLaw, record_diffusion, record_gan
from kernelscope.generative.denoising.denoiser import along
from kernelscope.generative.networks import NoiseMLP

N, SIZE, LATENTS, BATCH = 12, 4, 3, 4

#: The critic's loss of a generated point (its score negated for a real one), and the generator's.
GAMES = {
    "non-saturating": (F.softplus, lambda s: F.softplus(-s)),
    "wasserstein": (lambda s: s, lambda s: -s),
    "hinge": (lambda s: F.relu(1 + s), lambda s: -s),
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9)),
}


def points():
    return torch.randn(N, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loader_of(x, size=BATCH):
    return DataLoader(TensorDataset(x), batch_size=size, shuffle=True, generator=torch.Generator().manual_seed(2))


def denoiser():
    torch.manual_seed(0)
    return Denoiser(NoiseMLP(SIZE, width=6), spread=0.75).to(torch.float64)


def diffuse(loader, network, optimizer, epochs=2, average=None, scale=lambda x: x):
    """The user's own loop of a denoiser."""
    law = NoiseLaw()
    for _ in range(epochs):
        for x, *_ in loader:
            x = scale(x)
            sigma = law.draw(len(x)).double()
            y = x + along(sigma, x) * torch.randn_like(x)
            optimizer.zero_grad()
            F.mse_loss(network(y, sigma), network.target(x, y, sigma)).backward()
            optimizer.step()
            if average is not None:
                average.update_parameters(network)


def diffusion(optimizer="sgd", recorded=True, average=None, epochs=2, **options):
    """A run of a denoiser (``None`` if not recorded), and the parameters at the end."""
    network, loader = denoiser(), loader_of(points())
    average = None if average is None else average(network)
    made = OPTIMIZERS[optimizer](network.parameters())
    recording = record_diffusion(network, loader, average=average, **options) if recorded else nullcontext()
    torch.manual_seed(5)
    with recording:
        diffuse(loader, network, made, epochs, average)
    return recording.run if recorded else None, [p.detach().clone() for p in network.parameters()]


def players():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(LATENTS, 6), nn.SiLU(), nn.Linear(6, SIZE)).double()
    critic = nn.Sequential(nn.Linear(SIZE, 8), nn.SiLU(), nn.Linear(8, 1)).double()
    return made, critic


def latents(count=BATCH):
    return torch.randn(count, LATENTS, dtype=torch.float64)


def play(loader, made, critic, moving, judging, kind="non-saturating", r1=0.0, epochs=2, critic_steps=1, way="apart",
         lazy=1, average=None, penalty=None, stop=None):
    """The user's own loop of a game.

    Args:
        loader: Gives real points.
        made: The generator.
        critic: The critic.
        moving: The generator's optimizer.
        judging: The critic's.
        kind: The game.
        r1: The weight of the penalty.
        epochs: How often the loader is read.
        critic_steps: The critic's steps for each of the generator.
        way: ``"apart"``, two passes of the critic; ``"together"``, one of both; ``"graph-free"``, generated points
            made without a graph; ``"attached"``, with one; ``"slopes apart"``, a pass of its own for the penalty;
            ``"at once"``, both networks move after both gradients were taken; ``"scaled"``, real points are scaled.
        lazy: At which steps the penalty is taken, and by what it is multiplied.
        average: Averaged weights of the generator.
        penalty: Another penalty, of real and generated points.
        stop: The number of the iteration at which an error ends the loop.
    """
    against, mine = GAMES[kind]
    count = 0
    for _ in range(epochs):
        for x, *_ in loader:
            if stop == count:
                raise KeyboardInterrupt
            if way == "scaled":
                x = 2 * x
            for _ in range(critic_steps):
                if way == "graph-free":
                    with torch.no_grad():
                        fake = made(latents())
                else:
                    fake = made(latents()) if way == "attached" else made(latents()).detach()
                judging.zero_grad()
                take = r1 and count % lazy == 0
                own = way in ("together", "slopes apart")
                at = x.detach().clone().requires_grad_(bool(take) and not own) if take and not own else x
                if way == "together":
                    real, judged = critic(torch.cat([x, fake])).split(len(x))
                else:
                    real, judged = critic(at), critic(fake)
                loss = against(-real).mean() + against(judged).mean()
                if take:
                    if own:
                        at = x.clone().requires_grad_()
                    slope, = torch.autograd.grad((critic(at) if own else real).sum(), at, create_graph=True)
                    loss = loss + lazy * r1 / 2 * slope.square().sum(1).mean()
                if penalty is not None:
                    loss = loss + penalty(critic, x, fake)
                loss.backward()
                if way != "at once":
                    judging.step()
            moving.zero_grad()
            if way == "at once":
                critic.requires_grad_(False)
            mine(critic(made(latents()))).mean().backward()
            if way == "at once":
                critic.requires_grad_(True)
                judging.step()
            moving.step()
            if average is not None:
                average.update_parameters(made)
            count += 1


def game(optimizer="sgd", kind="non-saturating", r1=0.0, recorded=True, average=None, options=None, **loop):
    """A recorded game (``None`` if not recorded), and the parameters of both networks at the end."""
    made, critic = players()
    loader = loader_of(points())
    average = None if average is None else average(made)
    moving, judging = (OPTIMIZERS[optimizer](network.parameters()) for network in (made, critic))
    recording = record_gan(made, critic, loader, loss=kind, r1=r1, average=average, lazy=loop.get("lazy", 1),
                           **(options or {})) if recorded else nullcontext()
    torch.manual_seed(5)
    with recording:
        play(loader, made, critic, moving, judging, kind, r1, average=average, **loop)
    return recording.run if recorded else None, [p.detach().clone() for p in (*made.parameters(),
                                                                              *critic.parameters())]
