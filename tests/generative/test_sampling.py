"""The probability-flow equation, against its closed form for Gaussian points."""

from __future__ import annotations

import math

import pytest
import torch

from kernelscope.errors import DataError, NonFiniteError
from kernelscope.generative.denoising.closed_forms import OptimalDenoiser, WienerDenoiser
from kernelscope.generative.denoising.noise import schedule
from kernelscope.generative.denoising.sampling import sample


def gaussian(d=4):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    z = torch.randn(3, d, generator=generator, dtype=torch.float64)
    return mean, root @ root.T / d, z


def flowed(mean, covariance, x, start, stop):
    """The closed form of the flow from one noise level to another."""
    spread, u = torch.linalg.eigh(covariance)
    return mean + ((x - mean) @ u * ((spread + stop**2) / (spread + start**2)).sqrt()) @ u.T


def error(method, levels):
    mean, covariance, z = gaussian()
    down = sample(WienerDenoiser.from_moments(mean, covariance), z, schedule(levels, 0.1, 5.0), method)
    exact = flowed(mean, covariance, 5.0 * z, 5.0, 0.1)
    return float((down.points[-1] - exact).norm())


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("euler", 1)])
def test_the_sampler_comes_nearer_to_the_flow_of_a_gaussian_by_its_order(method, order):
    off = [error(method, levels + 1) for levels in (40, 80, 160, 320)]
    orders = [math.log2(a / b) for a, b in zip(off, off[1:], strict=False)]
    assert all(abs(found - order) <= 0.15 for found in orders), orders


def test_the_last_denoised_point_is_the_sample_and_all_stages_are_kept():
    mean, covariance, z = gaussian()
    wiener, levels = WienerDenoiser.from_moments(mean, covariance), schedule(9)
    down = sample(wiener, z, levels)
    assert down.points.shape == down.denoised.shape == (9, 3, 4)
    assert down.final is not None
    assert torch.equal(down.final, wiener(down.points[-1], levels[-1].expand(3)))
    assert torch.equal(down.points[0], z * 20.0)


def test_the_optimal_denoiser_samples_training_points():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    final = sample(OptimalDenoiser(x), z, schedule(40, 0.01, 20.0)).final
    assert float(torch.cdist(final, x).min(1).values.max()) < 1e-6


def test_samples_have_the_precision_and_the_shape_of_z():
    for dtype in (torch.float32, torch.float64):
        down = sample(lambda y, sigma: y / (1 + sigma.view(-1, 1, 1, 1) ** 2), torch.ones(2, 1, 3, 3, dtype=dtype),
                      schedule(5))
        assert down.final.dtype == down.levels.dtype == dtype
        assert down.final.shape == (2, 1, 3, 3)


def test_a_flow_of_a_float64_denoiser_is_exact_to_more_digits_than_one_of_float32():
    mean, covariance, z = gaussian()
    wiener = WienerDenoiser.from_moments(mean, covariance)
    fine = sample(wiener, z, schedule(30)).final
    coarse = sample(wiener, z.float(), schedule(30)).final
    assert 0 < float((fine - coarse).abs().max()) < 1e-4


@pytest.mark.parametrize(("levels", "said"), [
    (torch.tensor([1.0, 0.5, 0.0]), "Leave out the 0"), (torch.tensor([0.5, 1.0]), "must descend"),
    (torch.tensor([1.0, 1.0]), "must descend"), (torch.tensor([]), "at least one"), ([1.0, 0.5], "a list came"),
    (torch.tensor([math.inf, 1.0]), "finite"), (torch.tensor([[1.0]]), "shape")])
def test_bad_levels_are_refused_in_a_sentence(levels, said):
    with pytest.raises(DataError, match=said):
        sample(lambda y, sigma: y, torch.ones(1, 2), levels)


def test_a_denoiser_that_gives_something_else_is_refused_in_a_sentence():
    levels, z = schedule(4), torch.ones(2, 3)
    with pytest.raises(DataError, match="must give points of shape"):
        sample(lambda y, sigma: y[:, :2], z, levels)
    with pytest.raises(NonFiniteError, match="at noise level 20"):
        sample(lambda y, sigma: y * torch.nan, z, levels)
    with pytest.raises(DataError, match="standard normal numbers"):
        sample(lambda y, sigma: y, torch.ones(2, 3, dtype=torch.long), levels)
    with pytest.raises(NonFiniteError, match="torch.randn"):
        sample(lambda y, sigma: y, z * torch.inf, levels)
    with pytest.raises(DataError, match="denoise must be a function"):
        sample(None, z, levels)
