"""Small games with networks of one's own, recorded, and played as they are asked for."""

import warnings

import torch
from torch import nn

import kernelscope as ks
from kernelscope.generative.games.adversary import FAKE, PENALTY, REAL, Adversary, Judged, field_loss
from kernelscope.generative.games.game import GANRun


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
