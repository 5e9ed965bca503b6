"""The coupling of noise levels is that of explicit Jacobians, and its index knows local from spread."""

from __future__ import annotations

import pytest
import torch

from kernelscope.generative.denoising.noise import NoiseLaw
from kernelscope.generative.measures import localisation_index
from kernelscope.generative.stages import noise_kernels
from kernelscope.generative.stages.noise_kernels import half_widths, law_weights, noise_kernel
from tests.generative.denoisers import LinearCore, at, gradient, mlp, points, recorded

LEVELS = torch.tensor([0.05, 0.3, 1.0, 6.0], dtype=torch.float64)


def features(run, y, sigma, k):
    """The Jacobian of one point as one vector."""
    return torch.cat([gradient(run, k, lambda p, c=c: at(run, k, y, sigma, p)[c], run.parameters(k))
                      for c in range(len(y))])


@pytest.mark.parametrize("paired", [True, False])
def test_cosines_are_those_of_explicit_jacobians(paired):
    run = recorded(mlp(), points(), "adam")
    found = noise_kernel(run, levels=LEVELS, points=5, paired=paired, seed=4)
    # The same draws, in the order in which they are made.
    source = torch.Generator().manual_seed(4)
    clean = run.samples.batch(torch.arange(1))[0][0]
    seen = run.samples.seen.nonzero().flatten()
    (y, sigma), target = run.samples.batch(seen)
    module = run.network.module(())
    a, b = module.coefficients(sigma)
    x = (a[:, None] * y + b[:, None] * target)[torch.randperm(len(seen), generator=source)[:5]]
    noise = torch.randn(*((5,) if paired else (4, 5)), 3, generator=source, dtype=torch.float64)
    rows = torch.stack([torch.stack([features(run, x[p] + level * (noise[p] if paired else noise[a, p]), level, 6)
                                     for p in range(len(x))]) for a, level in enumerate(LEVELS)])
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for a in range(4):
        for b in range(4):
            for p in range(len(x)):
                for q in range(len(x)):
                    if (p == q) == paired:
                        expected[a, b] += rows[a, p] @ rows[b, q]
    length = expected.diagonal().sqrt()
    assert clean.shape == (1, 3)
    assert torch.allclose(found.cosine, expected / length[:, None] / length, atol=1e-10)


def test_a_core_that_does_not_look_at_the_noise_couples_all_of_it():
    run = recorded(LinearCore(3), points())
    found = noise_kernel(run, levels=torch.tensor([5.0, 6.0, 7.0, 8.0]), points=6)
    # Far above the data the core sees the noise alone, brought to one length at all levels.
    assert float(found.cosine.min()) > 0.95
    assert float(found.index.abs().max()) < 0.05


def test_a_diagonal_kernel_has_the_index_one_and_a_constant_one_nought():
    law = NoiseLaw()
    p = law_weights(law, LEVELS)
    assert torch.allclose(p.sum(), torch.tensor(1.0).double())
    one = localisation_index(torch.eye(4, dtype=torch.float64) * p, LEVELS, LEVELS, p)
    assert torch.equal(one, torch.ones(4, dtype=torch.float64))
    nought = localisation_index(torch.ones(4, 4, dtype=torch.float64) * p, LEVELS, LEVELS, p)
    assert torch.allclose(nought, torch.zeros(4, dtype=torch.float64), atol=1e-15)
    opposite = localisation_index(torch.eye(4, dtype=torch.float64).flip(0), LEVELS, LEVELS, p)
    assert bool((opposite[[0, 3]] < 0).all())
    assert half_widths(torch.eye(4), LEVELS).tolist() == [0.0] * 4
    whole = float((LEVELS[-1] / LEVELS[0]).log())
    assert torch.allclose(half_widths(torch.ones(4, 4), LEVELS), torch.full((4,), whole, dtype=torch.float64))


def test_weights_of_a_fine_grid_are_the_law():
    law = NoiseLaw(-1.0, 0.5)
    at_ = torch.linspace(-5, 3, 801, dtype=torch.float64).exp()
    p = law_weights(law, at_)
    mean = float(p @ at_.log())
    assert mean == pytest.approx(-1.0, abs=1e-6)
    assert float(p @ (at_.log() + 1) ** 2) == pytest.approx(0.25, abs=1e-6)


def test_probes_estimate_the_trace_within_their_errors(monkeypatch):
    run = recorded(mlp(), points(), "adam")
    exact = noise_kernel(run, levels=LEVELS, points=5)
    monkeypatch.setattr(noise_kernels, "EXACT", 1)
    found = noise_kernel(run, levels=LEVELS, points=5, probes=64)
    assert not bool(exact.error.any())
    assert found.info["probes"] == 64
    off = ~torch.eye(4, dtype=torch.bool)
    # The probes differ only in sign pairs, so that five standard errors are beyond chance.
    assert bool(((found.cosine - exact.cosine).abs()[off] <= 5 * found.error[off] + 1e-12).all())
    assert float(found.error[off].max()) > 1e-4


def test_nulls_are_given_as_asked():
    run = recorded(mlp(), points(), "adam")
    assert noise_kernel(run, levels=4, points=4, null="none").index_untrained is None
    both = noise_kernel(run, levels=4, points=4, labels=["a", "b"] * 6)
    assert both.untrained.shape == (4, 4)
    assert both.shuffled.shape == (2, 4)
    assert both.classes.shape == (4,)
    # Levels in another order are no more local than chance allows, on average.
    assert float(both.shuffled[0].mean()) < float(both.index.mean()) + 3 * float(both.shuffled[1].mean())
    assert not torch.allclose(both.untrained, both.cosine, atol=1e-6)
