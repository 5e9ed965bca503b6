r"""Scores of training points for what a denoiser is asked: influences of its end, and closed forms.

An influence says what :math:`f_q` would gain from training on a point i more. All are of the shape

.. math:: s_{qi} = -\nabla f_q^\top (H + \lambda)^{-1} \nabla \ell_i,

with a matrix H that differs by method. The closed forms need no network: a denoiser that is a function of the weights
of the training points has :math:`s_{qi} = \partial f_q / \partial w_i`, and only its answers are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ...progress import counting
from ..denoising.closed_forms import OptimalDenoiser
from ..denoising.denoiser import Denoiser
from ..denoising.noise import NoiseLaw
from .questions import Question

__all__ = ["Features", "damped", "end_features", "optimal_influence", "optimal_weights", "pixel_distance",
           "wiener_influence"]

#: The damping of influences, as parts of the mean eigenvalue of their matrix.
DAMPING = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Features:
    r"""The gradients at the end of training that influences are made of, each row with P entries.

    Attributes:
        losses: The gradient of each training point's loss, averaged over draws of noise, with shape (n, P).
        norms: The gradient of its mean squared output instead, with shape (n, P).
        probes: Rows :math:`J^\top v` with random signs v, one for each draw, whose second moment is that of the
            Gauss-Newton matrix, with shape (n R, P).
        asked: The gradient of each number that is asked, with shape (q, P).
        norms_asked: That of the mean squared output at the noisy points of each question, with shape (q, P).
    """

    def __init__(self, losses: Tensor, norms: Tensor, probes: Tensor, asked: Tensor, norms_asked: Tensor):
        self.losses, self.norms, self.probes = losses, norms, probes
        self.asked, self.norms_asked = asked, norms_asked


def end_features(denoiser: Denoiser, x: Tensor, question: Question, *, levels: int = 32, probes: int = 8,
                 law: NoiseLaw | None = None, seed: int = 0) -> Features:
    """The gradients of a trained denoiser.

    Args:
        denoiser: The denoiser.
        x: Its training points, with shape (n, d).
        question: What is asked.
        levels: The draws of noise for each training point, one in each of as many bins of equal mass.
        probes: The draws that get a row of random signs.
        law: The law of training noise.
        seed: The seed of noise and signs.
    """
    law, source = law or NoiseLaw(), torch.Generator().manual_seed(seed)
    held = {name: value.detach() for name, value in denoiser.named_parameters()}

    def rows(value: Callable[..., Tensor], *given: Tensor) -> Tensor:
        def one(*parts: Tensor) -> Tensor:
            found = grad(lambda at: value(functional_call(denoiser, at, (parts[0], parts[1])), *parts[2:]))(held)
            return torch.cat([found[name].flatten() for name in held])

        found = []
        with counting(len(given[0]), "gradients", "row") as done:
            for part in zip(*(t.split(32) for t in given), strict=True):
                found.append(vmap(one)(*part))
                done(len(part[0]))
        return torch.cat(found)

    n, d, sigma = len(x), x.shape[1], torch.tensor(law.edges(2 * levels)[::2]).to(x)
    y = x[:, None] + sigma[:, None] * torch.randn(n, levels, d, generator=source).to(x)
    levels_of = sigma.expand(n, levels)
    goals = denoiser.target(x.repeat_interleave(levels, 0), y.flatten(0, 1), levels_of.flatten()).view_as(y)
    losses = rows(lambda o, goal: (o - goal).square().mean(), y, levels_of, goals)
    norms = rows(lambda o: o.square().mean(), y, levels_of)
    # Of all levels alike, and with the factor 2 / d of the mean square.
    some = torch.stack([torch.randperm(levels, generator=source)[:probes] for _ in range(n)])
    at = torch.arange(n)[:, None]
    signs = (torch.randint(0, 2, (n * probes, 1, d), generator=source) * 2 - 1).to(x) * (2 / d) ** 0.5
    probed = rows(lambda o, v: (o * v).sum(), y[at, some].view(-1, 1, d), levels_of[at, some].view(-1, 1), signs)
    per = len(question.y) // len(question)
    y_asked, sigma_asked = question.y.view(-1, per, d), question.sigma.view(-1, per)
    if question.kind == "loss":
        asked = rows(lambda o, goal: -(o - goal).square().mean(), y_asked, sigma_asked, question.goals.view(-1, per, d))
    else:
        asked = rows(lambda o, v: (o * v).sum(), y_asked, sigma_asked, question.goals.view(-1, per, d))
    return Features(losses, norms, probed, asked, rows(lambda o: o.square().mean(), y_asked, sigma_asked))


def damped(asked: Tensor, rows: Tensor, train: Tensor, damping: float) -> Tensor:
    r"""The scores :math:`a^\top (A^\top A / m + \lambda)^{-1} t` of rows a and t, with the m rows A, times λ.

    Args:
        asked: With shape (q, P).
        rows: A, with shape (m, P).
        train: With shape (n, P).
        damping: λ as a part of the mean eigenvalue of the m by m matrix.

    Returns:
        With shape (q, n): the product of ``asked`` and ``train`` in the limit of large λ.

    Example:
        >>> damped(torch.ones(1, 2), torch.eye(2), torch.eye(2), 1e9)
        tensor([[1., 1.]])
    """
    gram = (rows @ rows.T).double() / len(rows)
    level = damping * float(gram.diagonal().mean())
    gram.diagonal().add_(level)
    left, right = (rows @ asked.T).double() / len(rows), (rows @ train.T).double()
    # Woodbury: only as many equations as there are rows.
    solved = torch.cholesky_solve(left, torch.linalg.cholesky(gram))
    return (asked @ train.T - (solved.T @ right).to(asked)).to(asked)


def pixel_distance(x: Tensor, question: Question) -> Tensor:
    """Minus the squared distance of each training point to each point asked about, with shape (q, n)."""
    return -torch.cdist(question.x.double(), x.double()).square().to(x)


def optimal_weights(x: Tensor, question: Question, sigma: float, copies: int = 8, seed: int = 0) -> Tensor:
    """The optimal denoiser's weights at one noise level, averaged over draws of noise, with shape (q, n).

    Args:
        x: The training points, with shape (n, d).
        question: What is asked.
        sigma: The noise level.
        copies: How many draws.
        seed: Their seed.
    """
    clean = question.x.repeat_interleave(copies, 0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    weights = OptimalDenoiser(x).weights(clean + sigma * noise, clean.new_full((len(clean),), sigma))
    return weights.view(len(question), copies, -1).mean(1)


def optimal_influence(x: Tensor, denoiser: Denoiser, question: Question) -> Tensor:
    """What the optimal denoiser's answer gains from weight on each point, times n, with shape (q, n)."""
    x, y, sigma = x.double(), question.y.double(), question.sigma.double()
    w = OptimalDenoiser(x).weights(y, sigma)
    return _by_weights(w @ x, lambda: (w, x), denoiser, question)


def wiener_influence(x: Tensor, denoiser: Denoiser, question: Question) -> Tensor:
    r"""What the answer of the Wiener denoiser of the points gains from weight on each of them, with shape (q, n).

    The denoiser of the mean μ and the covariance C moves with the weight of a point by

    .. math:: dD = \sigma^2 M (\tilde x + (\tilde x \tilde x^\top - C) M (y - \mu)), \qquad
              M = (C + \sigma^2)^{-1}, \quad \tilde x = x_i - \mu.

    Args:
        x: The training points, with shape (n, d).
        denoiser: The network, whose coefficients make outputs of denoised points.
        question: What is asked.
    """
    x, y = x.double(), question.y.double()
    sigma, (a, b) = question.sigma.double(), denoiser.coefficients(question.sigma.double())
    off = x - x.mean(0)
    values, vectors = torch.linalg.eigh(off.T @ off / len(x))
    part = values.clamp_min(0)
    turned, at = off @ vectors, (y - x.mean(0)) @ vectors
    inverse = 1 / (part + sigma[:, None]**2)
    d = x.mean(0) + (part * inverse * at) @ vectors.T
    pull = _pull((d - a[:, None] * y) / b[:, None], question) / b[:, None] @ vectors
    # With p the pull and e = M (y - mu): the gain is p' s^2 M (t + t (t' e) - C e).
    left, e = pull * sigma[:, None]**2 * inverse, inverse * at
    gain = left @ turned.T * (1 + e @ turned.T) - (left * part * e).sum(1, keepdim=True)
    return gain.view(len(question), -1, len(x)).sum(1).float()


def _pull(outputs: Tensor, question: Question) -> Tensor:
    """The gradient of the number asked by the output at each noisy point."""
    if question.kind == "output":
        return question.goals.double()
    return -2 * (outputs - question.goals.double()) / (outputs.shape[1] * (len(question.y) // len(question)))


def _by_weights(d: Tensor, made: Callable[[], tuple[Tensor, Tensor]], denoiser: Denoiser, question: Question) -> Tensor:
    """The gain of an answer from weights w of a mean D = sum w x: w_i <x_i - D, pull>."""
    a, b = (c[:, None] for c in denoiser.coefficients(question.sigma.double()))
    w, x = made()
    pull = _pull((d - a * question.y.double()) / b, question) / b
    gain = w * (pull @ x.T - (pull * d).sum(1, keepdim=True))
    return gain.view(len(question), -1, len(x)).sum(1).float()
