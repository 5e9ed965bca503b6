r"""How local a model's corrections are: in noise, in training time, in space.

A row of weights :math:`W_{tt'}` says what goes with place t. It is local if what it goes with is near,

.. math:: \mathrm{NLI}(t) = 1 - \frac{\sqrt{\sum_{t'} W_{tt'} (t' - t)^2 / \sum_{t'} W_{tt'}}}
                                     {\sqrt{\frac1T \sum_{t'} (t' - t)^2}},

0 if weights are spread as the places are and 1 if they are all at t. With :math:`W = \max(0, \cos)` of kernels at
noise levels that are quantiles of the training law this is the kernel form of the noise-localisation index, on
:math:`\ln\sigma`; with kernels at steps of training it is its analogue in time, which a GAN has too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from ...measures import centred, cosine
from ...pictures import picture_shape
from ..denoising.closed_forms import WienerDenoiser
from ..denoising.denoiser import along
from ..measures import locality
from .readings import SHUFFLED, UNIFORM, UNTRAINED, WIENER, Reading, Setting
from .sides import LEVELS, MAIN, DiffusionSide, GANSide, Side, function_of, tangent

__all__ = ["localities", "radius"]

#: How many noise levels, at quantiles of the training law, and how many steps of training are compared.
STAGES, TIMES = 12, 8

#: How many shuffles a null is made of, and how many of them it is beyond to be called local.
SHUFFLES, BEYOND, BEYOND_WORD = 200, 0.95, "shuffled, 95 %"

#: How many points the kernels at all noise levels are averaged over, and Jacobians are.
FEW = 16


def localities(side: Side, setting: Setting) -> list[Reading]:
    """Locality in noise, where a model has noise levels, in training time, and in space."""
    found = _in_noise(side, setting) if isinstance(side, DiffusionSide) else []
    return found + _in_time(side, setting) + _in_space(side, setting)


def _in_noise(side: DiffusionSide, setting: Setting) -> list[Reading]:
    """The index of each third of the noise law, from cosines of kernels at the same points with the same noise."""
    law = side.reading.law
    at = (torch.arange(STAGES, dtype=torch.float64) + 0.5) / STAGES
    logs = law.mean + law.deviation * math.sqrt(2) * torch.erfinv(2 * at - 1)
    x = setting.train[setting.drawn(FEW, 4)]
    noise = torch.randn(x.shape, generator=setting.source(5), dtype=torch.float64)
    found = {}
    for k in (None, 0):
        weights = _cosines(side, x, noise, logs.exp(), k).clamp(min=0)
        found[k] = (locality(weights, logs), _shuffled(weights, logs, setting.source(6)))
    values, shuffled = found[None]
    readings, third = [], STAGES // 3
    for name, rows in (("low noise", slice(0, third)), ("middle noise", slice(third, 2 * third)),
                       ("high noise", slice(2 * third, STAGES))):
        span = logs[rows].exp()
        readings.append(Reading(
            "noise_locality", name, f"the denoiser’s kernel, σ from {span[0]:.2g} to {span[-1]:.2g}",
            float(values[rows].mean()),
            _nulls(shuffled[:, rows]) | {UNTRAINED: float(found[0][0][rows].mean())}))
    return readings


def _cosines(side: DiffusionSide, x: Tensor, noise: Tensor, sigma: Tensor, k: int | None) -> Tensor:
    """The mean cosine over points of the kernel at two noise levels, with shape (t, t)."""
    t, m = len(sigma), len(x)
    levels = sigma.repeat_interleave(m)
    y = x.repeat(t, *[1] * (x.ndim - 1))
    y = y + along(levels, y) * noise.repeat(t, *[1] * (x.ndim - 1))
    gram = tangent(side.run, k)((y, levels))
    size = gram.diagonal().clamp(min=0).sqrt()
    cosines = (gram / (size * size[:, None])).nan_to_num(0.0).reshape(t, m, t, m)
    return torch.diagonal(cosines, dim1=1, dim2=3).mean(-1)


def _in_time(side: Side, setting: Setting) -> list[Reading]:
    """How local kernels are in training time, from their centred cosines at some steps."""
    steps = len(side.runs[0])
    places = torch.linspace(0, steps, min(TIMES, steps + 1), dtype=torch.float64).round().unique()
    x = setting.train[setting.drawn(2 * FEW, 7)]
    noise = torch.randn(x.shape, generator=setting.source(8), dtype=torch.float64)
    z = side.latents(2 * FEW, setting.source(9))
    grams: dict[tuple[str, str], list[Tensor]] = {}
    for k in places.long().tolist():
        for view in side.views(x, noise, z, k):
            grams.setdefault((view.slot, view.where), []).append(centred(view.gram))
    readings = []
    for (slot, where), found in grams.items():
        weights = torch.tensor([[cosine(a, b) for b in found] for a in found], dtype=torch.float64).clamp(min=0)
        readings.append(Reading("time_locality", slot, where, float(locality(weights, places).mean()),
                                _nulls(_shuffled(weights, places, setting.source(10)))))
    return readings


def _shuffled(weights: Tensor, places: Tensor, source: torch.Generator) -> Tensor:
    """The index of each place where the kernels have lost their places, with shape (shuffles, t)."""
    orders = [torch.randperm(len(places), generator=source) for _ in range(SHUFFLES)]
    return torch.stack([locality(weights[order][:, order], places) for order in orders])


def _nulls(shuffled: Tensor) -> dict[str, float]:
    """The mean over shuffles, and what 95 % of them stay below."""
    each = shuffled.mean(1)
    return {SHUFFLED: float(each.mean()), BEYOND_WORD: float(each.quantile(BEYOND))}


def radius(matrices: Tensor, shape: Any) -> float:
    r"""The mean distance in pixels of what a matrix of pixels by pixels joins, by its squared entries.

    .. math:: R = \frac{\sum_{pq} |J_{pq}|^2\, \mathrm{dist}(p, q)}{\sum_{pq} |J_{pq}|^2}

    Args:
        matrices: J, with shape (*, d, d), over which the mean is taken.
        shape: The shape of a point, which must be that of a picture.

    Example:
        >>> radius(torch.eye(64), (64,)), round(radius(torch.ones(64, 64), (64,)), 2)
        (0.0, 4.14)
    """
    picture = picture_shape(shape)
    if picture is None:
        return math.nan
    channels, height, width = picture
    places = torch.cartesian_prod(torch.arange(channels), torch.arange(height), torch.arange(width))[:, 1:].double()
    square = matrices.double().square().reshape(-1, len(places), len(places)).sum(0)
    return float((square * torch.cdist(places, places)).sum() / square.sum())


def _in_space(side: Side, setting: Setting) -> list[Reading]:
    """How far pixels reach each other: through the denoiser, through the generator, and in the critic's bend."""
    shape = setting.train.shape[1:]
    if picture_shape(shape) is None:
        return []
    d = setting.train[0].numel()
    anyhow = {UNIFORM: radius(torch.ones(d, d), shape)}
    if isinstance(side, DiffusionSide):
        return _of_denoiser(side, setting, anyhow)
    return _of_game(side, setting, anyhow)


def _of_denoiser(side: DiffusionSide, setting: Setting, anyhow: dict[str, float]) -> list[Reading]:
    shape, wiener = setting.train.shape[1:], WienerDenoiser(setting.train)
    x = setting.train[setting.drawn(FEW, 11)]
    noise = torch.randn(x.shape, generator=setting.source(12), dtype=torch.float64)
    readings = []
    for level in LEVELS:
        sigma = torch.full((len(x),), level, dtype=torch.float64)
        y = x + along(sigma, x) * noise
        of = {k: radius(_jacobians(side, y, sigma, k), shape) for k in (None, 0)}
        nulls = anyhow | {WIENER: radius(wiener.jacobian(y, sigma), shape), UNTRAINED: of[0]}
        readings.append(Reading("space_radius", "main" if level == MAIN else f"σ = {level:g}",
                                f"the denoiser’s Jacobian at σ = {level:g}", of[None], nulls))
    return readings


def _jacobians(side: DiffusionSide, y: Tensor, sigma: Tensor, k: int | None) -> Tensor:
    network, d = function_of(side.run, k), y[0].numel()

    def denoised(point: Tensor, level: Tensor) -> Tensor:
        a, b = side.reading.coefficients(level[None])
        y = point[None]
        return (along(a, y) * y + along(b, y) * network(y, level[None])).flatten()

    return vmap(jacrev(denoised))(y, sigma).reshape(len(y), d, d).detach()


def _of_game(side: GANSide, setting: Setting, anyhow: dict[str, float]) -> list[Reading]:
    shape, d = setting.train.shape[1:], setting.train[0].numel()
    z = side.latents(FEW, setting.source(11))
    made = side.generate(z)
    bends, maps = {}, {}
    for k in (None, 0):
        score = function_of(side.gan.critic, k, "network")
        bend = vmap(jacrev(jacrev(lambda point, f=score: f(point[None]).squeeze())))(made)
        generated = function_of(side.gan.generator, k)
        j = vmap(jacrev(lambda point, f=generated: f(point[None]).flatten()))(z).reshape(FEW, d, -1)
        bends[k], maps[k] = radius(bend.detach().reshape(-1, d, d), shape), radius((j @ j.mT).detach(), shape)
    flat = setting.train.flatten(1)
    spread = {"data covariance": radius((flat - flat.mean(0)).T @ (flat - flat.mean(0)), shape)}
    return [Reading("space_radius", "main", "the bend of the critic’s score at generated points", bends[None],
                    anyhow | {UNTRAINED: bends[0]}),
            Reading("space_radius", "generator", "the generator’s Jacobian times itself", maps[None],
                    anyhow | spread | {UNTRAINED: maps[0]})]

