"""Shares of training noise in what was learned at a noise level, against the closed form of a linear denoiser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kernelscope as ks
from kernelscope.generative.denoising.reading import DiffusionRun
from kernelscope.generative.stages.localisation import noise_localisation
from kernelscope.generative.stages.noise_kernels import chosen_points
from tests.generative.denoisers import RATE, SPREAD, LinearCore, at, draws, mlp, points, recorded


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_shares_and_channels_add_up_to_one(optimizer):
    found = noise_localisation(recorded(mlp(), points(), optimizer), points=7, bins=4, progress=False)
    assert float((found.pooled.sum(-1) + found.others - 1).abs().max()) <= 1e-11
    assert torch.allclose(found.shuffled.sum(-1), found.pooled.sum(-1)[:, None].expand(-1, 8, -1), atol=1e-12)
    assert found.check().ok


def test_shares_of_a_linear_denoiser_are_sums_over_its_draws():
    run = recorded(LinearCore(3), points(), "sgd", steps=20)
    found = noise_localisation(run, points=6, bins=3, seed=9, progress=False)
    source = torch.Generator().manual_seed(9)
    some, _ = chosen_points(DiffusionRun(run), None, None, 6, source)
    members = torch.randperm(6, generator=source).tensor_split(5)
    noise = torch.randn(some.shape, generator=source, dtype=torch.float64)
    scale = lambda sigma: (sigma**2 + SPREAD**2).rsqrt()
    shares, normal = torch.zeros(2, 6, 3, 3, dtype=torch.float64)
    for p in range(6):
        for s, level in enumerate(found.levels):
            y = some[p] + level * noise[p]
            change = at(run, len(run), y, level) - at(run, 0, y, level)
            for k, _, point, sigma, target, count in draws(run):
                error = 2 / 3 * (at(run, k, point, sigma) - target)
                product = scale(sigma) * scale(level) * (point @ y)
                share = -RATE / count * product * (error @ change) / (change @ change)
                bin_ = int((sigma > found.edges).sum())
                shares[p, s, bin_] += share
                normal[p, s, bin_] += share / (scale(sigma) * error.norm() * point.norm())
    # Pools of two points and of one count alike, so that they are compared one by one.
    for i, member in enumerate(members):
        assert torch.allclose(found.pooled[i], shares[member].mean(0), atol=1e-11)
        mine, truth = found.normalised[i], normal[member].mean(0)
        assert torch.allclose(mine / mine.sum(-1, keepdim=True), truth / truth.sum(-1, keepdim=True), atol=1e-8)


def test_pools_of_classes_give_the_mean_over_their_points():
    run = recorded(mlp(), points(), "adam")
    words = ["a", "a", "b"] * 4
    found = noise_localisation(run, points=12, bins=3, labels=words, progress=False)
    source = torch.Generator().manual_seed(0)
    some, chosen = chosen_points(DiffusionRun(run), None, words, 12, source)
    noise = torch.randn(some.shape, generator=source, dtype=torch.float64)
    for pool, word in enumerate(found.pools):
        for s, level in enumerate(found.levels):
            own, shares = [], []
            for p in [i for i, w in enumerate(chosen) if w == word]:
                y = some[p] + level * noise[p]
                change = at(run, len(run), y, level) - at(run, 0, y, level)
                ledger = ks.decompose(run, (y[None], level[None]), groups=words, progress=False)
                shares.append(float(ledger.contributions[0].sum(-1) @ change / (change @ change)))
                own.append(float(ledger.group_steps[0, :, ["a", "b"].index(word)].sum(-1) @ change
                                 / (change @ change)))
            assert float(found.pooled[pool, s].sum()) == pytest.approx(sum(shares) / len(shares), abs=1e-10)
            assert float(found.own[pool, s]) == pytest.approx(sum(own) / len(own), abs=1e-10)


def test_planted_shares_have_the_index_they_should():
    found = noise_localisation(recorded(mlp(), points(), "adam"), points=6, bins=4, progress=False)
    own = torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    local = replace(found, pooled=own)
    one, even = torch.ones(4, dtype=torch.float64), torch.ones(5, 4, 4, dtype=torch.float64) / 4
    assert torch.equal(local.index, one)
    assert torch.equal(local.near, one)
    assert torch.allclose(replace(found, pooled=even).index, 0 * one, atol=1e-12)
    assert bool((replace(found, pooled=own.flip(-1)).index < 0.3).all())
    # Centred rows are 3/4 at the own bin and -1/4 at the three others: by sizes half of the mass is elsewhere.
    assert torch.allclose(local.index_of_sizes, (1 - (2 / 3) ** 0.5) * one, atol=1e-12)
    assert torch.allclose(local.near_uniform, torch.tensor([0.5, 0.75, 0.75, 0.5], dtype=torch.float64))


def test_a_pooled_row_is_the_sum_of_single_rows():
    from kernelscope.decomposition.exact import booked

    run = recorded(mlp(), points(), "adam")
    y, sigma = points(6), torch.full((6,), 0.4, dtype=torch.float64)
    single = ks.decompose(run, (y, sigma), progress=False)
    pooled, _ = booked(run, (y, sigma), None, None, pools=3, progress=False)
    by_pool = lambda values: values.unflatten(0, (3, 2)).sum(1)
    assert torch.allclose(pooled.contributions, by_pool(single.contributions), atol=1e-12)
    assert pooled.residual.abs().max() < 1e-13
    for name, channel in single.channels.items():
        assert torch.allclose(pooled.channels[name], by_pool(channel), atol=1e-12)


@pytest.mark.parametrize("bins", [3, 8, 12, 30])
def test_words_below_the_map_stand_apart(bins):
    plt = pytest.importorskip("matplotlib.pyplot")
    found = noise_localisation(recorded(mlp(), points(), "sgd"), points=6, bins=bins, progress=False)
    # Words of three digits after the point are the longest.
    found = replace(found, centers=torch.linspace(0.011, 0.099, bins))
    ax = found.plot()
    figure = ax.figure
    figure.canvas.draw()
    boxes = [word.get_window_extent() for word in ax.get_xticklabels()]
    assert len(boxes) > 1
    gaps = [later.x0 - box.x1 for box, later in zip(boxes, boxes[1:], strict=False)]
    # A space of these letters is about three pixels wide.
    assert min(gaps) >= 3
    plt.close(figure)
