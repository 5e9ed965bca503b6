r"""Conversion by formulas alone: random features of inputs and of parameters, right on average.

An activation is written as a line spectrum, :math:`f(z) \approx c_0 + c_1 z + \sum_k a_k \cos(\kappa_k z + \varphi_k)`,
and with g from :math:`N(0, I)`, :math:`s = \sqrt{1 + 4A}` and :math:`\rho = 1 + 8A`

.. math::
   \cos(\kappa x \cdot w + q) = E_g\, (1 + 4A)^{d/2} e^{-2A|g|^2} e^{\kappa^2|x|^2 / 2\tau^2 + s\tau g \cdot w
   - \tau^2|w|^2/2} \cos(s \kappa g \cdot x / \tau + q).

How much a draw varies is known in closed form, so the error is told before anything is drawn.

References:
    | Scalable Neural Network Kernels (Sehanobish et al., 2024)
    | Chefs' Random Tables: Non-Trigonometric Random Features (Likhosherstov et al., 2022)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...features.directions import directions
from .activations import Activation
from .baselines import directions_of

#: How many frequencies a spectrum has, and by how much its period exceeds what was seen.
FREQUENCIES, BEYOND = 8, 1.1

#: Above which logarithm of its second moment a frequency is given up.
CAP = 8.0

#: Directions whose share is below this are round-off.
NOUGHT = 1e-10

#: Below which share of the largest eigenvalue columns of a spectrum are sums of each other.
SMALLEST = 1e-13

#: How often shares of features and amplitudes are found from each other.
ROUNDS = 12


@dataclass(frozen=True, eq=False)
class AnalyticPlan:
    """What an analytic conversion would do, and how good it would be, before anything is drawn.

    Attributes:
        balance: From centred inputs to balanced ones, with shape (k, d).
        mean: The mean of the inputs, with shape (d,).
        weights: The balanced weights, with shape (l, k).
        shifts: The biases at the mean, with shape (l,).
        constant: c0.
        slope: c1.
        frequencies: Those of the spectrum that are used, with shape (K,).
        amplitudes: Theirs, with shape (K,).
        phases: Theirs, with shape (K,).
        counts: How many pairs of features each gets.
        rho: 1 + 8 A of each, with shape (K,).
        tau: The scale of each, with shape (K,).
        predicted: The relative error to expect.
    """

    balance: Tensor
    mean: Tensor
    weights: Tensor
    shifts: Tensor
    constant: float
    slope: float
    frequencies: Tensor
    amplitudes: Tensor
    phases: Tensor
    counts: list[int]
    rho: Tensor
    tau: Tensor
    predicted: float


def balanced(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""The map T and the weights :math:`W T^{+}` whose inputs and weights are shortest together.

    .. math:: X W^T = U S V^T, \qquad X T^T = U S^{1/2}, \qquad W' = V S^{1/2}

    Args:
        x: Centred inputs, with shape (n, d).
        weights: Weights, with shape (l, d).

    Returns:
        T with shape (k, d) and W' with shape (l, k).

    Example:
        >>> x, w = torch.randn(50, 3).double(), torch.randn(4, 3).double()
        >>> balance, thin = balanced(x, w)
        >>> torch.allclose((x @ balance.T) @ thin.T, x @ w.T)
        True
    """
    s, v = directions_of(x, weights)
    keep = s > NOUGHT * s[:1].clamp(min=1e-300)
    root = s[keep].sqrt()
    return (v[keep] @ weights) / root[:, None], v[keep].T * root


def analytic_plan(weights: Tensor, bias: Tensor, x: Tensor, activation: Activation, features: int) -> AnalyticPlan:
    """Centres, balances, fits a spectrum and shares features out, in double precision.

    Args:
        weights: The weights, with shape (l, d).
        bias: The biases, with shape (l,).
        x: Inputs, with shape (n, d).
        activation: The function.
        features: How many real features there may be.

    Returns:
        The :class:`AnalyticPlan`.
    """
    mean = x.mean(0)
    balance, thin = balanced(x - mean, weights)
    near, shifts = (x - mean) @ balance.T, bias + weights @ mean
    z = near @ thin.T + shifts
    outputs = activation(z)
    pairs, d = features // 2, max(1, thin.shape[1])
    reach = _reach(z)
    kappas = torch.arange(1, FREQUENCIES + 1, dtype=x.dtype) * math.pi / reach
    long, wide = near.square().sum(1), thin.square().sum(1)
    r = float((long.mean() * wide.mean()).sqrt())
    rho = torch.tensor([best_rho(float(kappa) * r, d) for kappa in kappas], dtype=x.dtype)
    tau = (kappas * rho.sqrt() * (long.mean() / wide.mean().clamp(min=1e-300)).sqrt()).sqrt().clamp(min=1e-150)
    moments = (d / 2) * ((1 + rho).square() / (4 * rho)).log() + _log_mean(
        kappas.square() / tau.square(), long) + _log_mean(tau.square() / rho, wide)
    usable = (moments <= CAP) if pairs else torch.zeros_like(moments, dtype=torch.bool)
    kappas, rho, tau, moments = kappas[usable], rho[usable], tau[usable], moments[usable]
    constant, slope, amplitudes, phases, shares = _spectrum(z, outputs, kappas, moments.exp(), max(1, pairs))
    counts = _counts(shares, pairs)
    used = torch.tensor([count > 0 for count in counts], dtype=torch.bool)
    kappas, rho, tau, amplitudes, phases = (part[used] for part in (kappas, rho, tau, amplitudes, phases))
    counts = [count for count in counts if count]
    fitted = constant + slope * z
    for kappa, amplitude, phase in zip(kappas, amplitudes, phases, strict=True):
        fitted = fitted + amplitude * (kappa * z + phase).cos()
    variance = torch.zeros_like(z)
    for k, count in enumerate(counts):
        variance += amplitudes[k].square() / count * variances(
            near, thin, shifts, float(kappas[k]), float(phases[k]), float(rho[k]), float(tau[k]))
    scale = outputs.square().mean().clamp(min=1e-300)
    predicted = float((((outputs - fitted).square() + variance).mean() / scale).sqrt())
    return AnalyticPlan(balance, mean, thin, shifts, constant, slope, kappas, amplitudes, phases, counts, rho, tau,
                        predicted)


def strength(weights: Tensor, bias: Tensor, x: Tensor) -> float:
    r""":math:`\kappa r`: the lowest frequency times the lengths of balanced inputs and weights, as root mean squares.

    An analytic conversion needs some :math:`e^{2 \kappa r}` features for each of the lowest frequency.
    """
    centred = x - x.mean(0)
    balance, thin = balanced(centred, weights)
    long, wide = (centred @ balance.T).square().sum(1).mean(), thin.square().sum(1).mean()
    return float((long * wide).sqrt()) * math.pi / _reach(x @ weights.T + bias)


def best_rho(kappa_r: float, d: int) -> float:
    r"""The :math:`\rho = 1 + 8A` with the least second moment, where :math:`d(\rho-1)\sqrt\rho = 2\kappa r(1+\rho)`.

    Example:
        >>> rho = best_rho(2.0, 16)
        >>> abs(16 * (rho - 1) * rho ** 0.5 - 4 * (1 + rho)) < 1e-9
        True
    """
    low, high = 1.0, 2.0
    excess = lambda rho: d * (rho - 1) * math.sqrt(rho) - 2 * kappa_r * (1 + rho)
    while excess(high) < 0:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def variances(x: Tensor, w: Tensor, b: Tensor, kappa: float, phase: float, rho: float, tau: float) -> Tensor:
    """How much one pair of features varies about the cosine it stands for, with shape (n, l).

    Args:
        x: Inputs, with shape (n, d).
        w: Weights, with shape (l, d).
        b: Biases, with shape (l,).
        kappa: The frequency.
        phase: The phase.
        rho: 1 + 8 A.
        tau: The scale.
    """
    d, a4 = x.shape[1], (rho - 1) / 2
    front = d / 2 * math.log((1 + a4) ** 2 / rho)
    long, wide = kappa**2 * x.square().sum(1)[:, None] / tau**2, tau**2 * w.square().sum(1)[None] / rho
    angle = kappa * (x @ w.T)
    turn = 4 * (1 + a4) / rho * angle + 2 * (kappa * b + phase)
    mean = (angle + kappa * b + phase).cos()
    return ((front + long + wide).exp() + (front + wide - long / rho).exp() * turn.cos()) / 2 - mean.square()


def towers(plan: AnalyticPlan, kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws the features of a plan.

    Returns:
        The rows of the tower of inputs with shape (p, k), their rates and logarithmic heights with shape (p,), and the
        coefficients with shape (l, 2p).
    """
    draw = torch.Generator().manual_seed(seed)
    k = plan.weights.shape[1]
    rows, rates, bases, cosines, sines = [], [], [], [], []
    for i, count in enumerate(plan.counts):
        g = directions(count, k, kind, draw).to(plan.weights)
        kappa, tau, a = float(plan.frequencies[i]), float(plan.tau[i]), (float(plan.rho[i]) - 1) / 8
        scale = math.sqrt(1 + 4 * a)
        base = k / 4 * math.log(1 + 4 * a) - a * g.square().sum(1)
        heights = (base + scale * tau * plan.weights @ g.T - tau**2 / 2 * plan.weights.square().sum(1)[:, None]).exp()
        angle = (kappa * plan.shifts + plan.phases[i])[:, None]
        rows.append(scale * kappa / tau * g)
        rates.append(torch.full((count,), kappa**2 / (2 * tau**2), dtype=g.dtype))
        bases.append(base)
        cosines.append(plan.amplitudes[i] / count * heights * angle.cos())
        sines.append(plan.amplitudes[i] / count * heights * angle.sin())
    if not rows:
        none = plan.weights.new_zeros(0)
        return none.reshape(0, k), none, none, plan.weights.new_zeros(len(plan.weights), 0)
    return torch.cat(rows), torch.cat(rates), torch.cat(bases), torch.cat(cosines + sines, 1)


def _spectrum(z: Tensor, outputs: Tensor, kappas: Tensor, moments: Tensor,
              pairs: int) -> tuple[float, float, Tensor, Tensor, Tensor]:
    """Constant, slope, amplitudes, phases and shares of features: least squares, penalised by what features vary."""
    flat, f = z.flatten(), outputs.flatten()
    columns = [torch.ones_like(flat), flat] + [part for kappa in kappas
                                               for part in ((kappa * flat).cos(), -(kappa * flat).sin())]
    basis = torch.stack(columns, 1)
    gram, cross = basis.T @ basis / len(flat), basis.T @ f / len(flat)
    shares = torch.full_like(kappas, 1 / max(1, len(kappas)))
    found, sizes = cross, kappas
    for _ in range(ROUNDS):
        each = moments / (2 * (pairs * shares).clamp(min=1e-12))
        system = gram + torch.cat((gram.new_zeros(2), each.repeat_interleave(2))).diag()
        # Penalties differ by many powers of ten: with a diagonal of ones none of them hides the constant.
        size = system.diagonal().sqrt().clamp(min=1e-150)
        found = torch.linalg.pinv(system / size[:, None] / size, hermitian=True, rtol=SMALLEST) @ (cross / size) / size
        sizes = torch.hypot(found[2::2], found[3::2])
        wanted = sizes * moments.sqrt()
        if not len(kappas) or float(wanted.sum()) <= NOUGHT:
            # What is left is round-off: a linear function needs no features.
            shares = torch.zeros_like(shares)
            break
        shares = wanted / wanted.sum()
    phases = torch.atan2(found[3::2], found[2::2])
    return float(found[0]), float(found[1]), sizes, phases, shares


def _reach(z: Tensor) -> float:
    """Half the period of a spectrum for what was seen."""
    return BEYOND * float(z.abs().max().clamp(min=1e-6))


def _counts(shares: Tensor, pairs: int) -> list[int]:
    """So many pairs for each share, the largest remainders first."""
    exact = (shares * pairs).tolist()
    counts = [int(number) for number in exact]
    left = round(sum(exact)) - sum(counts)
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])[:left]:
        counts[i] += 1
    return counts


def _log_mean(rate: Tensor, squares: Tensor) -> Tensor:
    """The logarithm of the mean of e to the power of a rate times squared lengths, for each rate."""
    return torch.logsumexp(rate[:, None] * squares[None], 1) - math.log(len(squares))
