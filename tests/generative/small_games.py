"""Small games with networks of one's own, recorded, and played as they are asked for."""
"""Games small enough to be gone through by hand: any optimizers, any number of critic steps."""

import warnings

import torch
from torch import nn

import kernelscope as ks
from kernelscope.generative.adversary import FAKE, PENALTY, REAL, Adversary, Judged, field_loss
from kernelscope.generative.game import GANRun


def played(generator, critic, x, z, *, kind="wasserstein", r1=0.0, steps=1, rate=0.0, critic_steps=1,
           simultaneous=False, keep="all"):
    """A game of full batches: all real points ``x`` and the latents ``z`` at every step, by plain gradient descent."""
    game, n, m = Adversary(kind, r1), len(x), len(z)
    generator, judged = generator.double(), Judged(critic).double()
    kinds = [REAL] * n + ([PENALTY] * n if r1 else []) + [FAKE] * m
    # The mean over all rows times these weights is the sum of the means of each kind.
    weights = [len(kinds) / n] * (len(kinds) - m) + [len(kinds) / m] * m
    table = torch.tensor(list(zip(kinds, weights, strict=True)), dtype=torch.float64)
    moving, judging = (torch.optim.SGD(module.parameters(), lr=rate) for module in (generator, judged))
    notes = {"generative": "gan", "kind": kind, "r1": r1, "real": n}
    seen, made = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ks.record(judged, (torch.zeros(len(table), 1), table), loss=game.critic_loss, notes=notes,
                       keep=keep) as of_critic, \
                ks.record(generator, (torch.zeros(m, 1), torch.zeros(m, 1)), loss=field_loss, notes=notes,
                          keep=keep) as of_generator:
            for _ in range(steps):
                fake = generator(z).detach()
                before = game.field(judged.score, fake)
                seen += [made] if simultaneous else []
                for _ in range(critic_steps):
                    of_critic.batch(torch.arange(len(table)))
                    judging.zero_grad()
                    rows = torch.cat([x, x, fake] if r1 else [x, fake])
                    game.critic_loss(judged(rows), table, "mean").backward()
                    judging.step()
                    made += 1
                v = before if simultaneous else game.field(judged.score, fake)
                seen += [] if simultaneous else [made]
                of_generator.deliver((z, v), list(range(m)))
                moving.zero_grad()
                field_loss(generator(z), v, "mean").backward()
                moving.step()
    return GANRun(of_generator.run, of_critic.run, game, n, torch.tensor(seen))


class Place(nn.Module):
    """The generator of a Dirac-GAN: every latent becomes the one point theta."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([float(theta)], dtype=torch.float64))

    def forward(self, z):
        return self.theta.expand(len(z), 1)


class Slope(nn.Module):
    """A critic phi s(x) of one number."""

    def __init__(self, phi, shape=lambda x: x):
        super().__init__()
        self.phi, self.shape = nn.Parameter(torch.tensor([float(phi)], dtype=torch.float64)), shape

    def forward(self, x):
        return self.phi * self.shape(x[:, 0])


class Quadratic(nn.Module):
    """The critic x'Ax."""

    def __init__(self, A):
        super().__init__()
        self.A = nn.Parameter(A.clone())

    def forward(self, x):
        return ((x @ self.A) * x).sum(1)


def linear(G):
    """The generator Gz."""
    made = nn.Linear(G.shape[1], G.shape[0], bias=False)
    made.weight = nn.Parameter(G.clone())
    return made


def with_covariance(values):
    """2d points with mean 0 and covariance diag(values), exactly."""
    d = len(values)
    rows = torch.eye(d, dtype=torch.float64) * (d * torch.as_tensor(values, dtype=torch.float64)).sqrt()
    return torch.cat([rows, -rows])
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
