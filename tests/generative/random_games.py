"""Games small enough to be gone through by hand: any optimizers, any number of critic steps."""

import warnings

import torch
from torch import nn

import kernelscope as ks
from kernelscope.generative.games.adversary import FAKE, PENALTY, REAL, Adversary, Judged, field_loss
from kernelscope.generative.games.game import GANRun

RULES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.5, 0.9)),
    "adam without momentum": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.9)),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.5, 0.9), weight_decay=0.1),
}


def small_game(kind="non-saturating", rule="adam", r1=0.0, critic_steps=1, steps=6, made=None, judge=None, real=7,
               size=2, batch=4, seed=0, of_generator=None):
    """A recorded game in float64 on ``real`` normal points."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(real, size, generator=source, dtype=torch.float64) + 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = made or nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, size))
        judge = judge or nn.Sequential(nn.Linear(size, 4), nn.Tanh(), nn.Linear(4, 1))
    made, judged, game = made.double(), Judged(judge).double(), Adversary(kind, r1)
    judging, moving = RULES[rule](judged.parameters()), RULES[of_generator or rule](made.parameters())
    counts = [(REAL, real), (PENALTY, real if r1 else 0), (FAKE, batch)]
    what = torch.cat([torch.full((count,), kind_) for kind_, count in counts]).double()
    table = torch.stack([what, torch.full_like(what, 3.0 if r1 else 2.0)], 1)
    fakes, seen = torch.arange(batch) + (2 * real if r1 else real), []
    made_steps = 0
    with (warnings.catch_warnings(),
          ks.record(judged, (torch.zeros(len(table), 1), table), loss=game.critic_loss) as of_critic,
          ks.record(made, (torch.zeros(batch, 2), torch.zeros(batch, 1)), loss=field_loss) as of_made):
        warnings.simplefilter("ignore")
        for k in range(steps * critic_steps):
            ids = torch.randint(real, (batch,), generator=source)
            with torch.no_grad():
                fake = made(torch.randn(batch, 2, generator=source, dtype=torch.float64))
            rows = [x[ids], x[ids], fake] if r1 else [x[ids], fake]
            places = torch.cat([ids, ids + real, fakes] if r1 else [ids, fakes])
            of_critic.batch(places)
            judging.zero_grad()
            game.critic_loss(judged(torch.cat(rows)), table[places], "mean").backward()
            judging.step()
            made_steps += 1
            if (k + 1) % critic_steps:
                continue
            z = torch.randn(batch, 2, generator=source, dtype=torch.float64)
            v = game.field(judged.score, made(z).detach())
            of_made.deliver((z, v), list(range(batch)))
            moving.zero_grad()
            field_loss(made(z), v, "mean").backward()
            moving.step()
            seen.append(made_steps)
    return GANRun(of_made.run, of_critic.run, game, real, torch.tensor(seen))


def latents(count=3, seed=9):
    """Latents to ask about."""
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
