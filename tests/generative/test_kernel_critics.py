"""Critics that are kernel machines: their closed forms, and that they are what networks do whose kernel stays."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kernelscope.errors import DataError
from kernelscope.generative.games.kernel_critics import kernel_critic, slope
from kernelscope.generative.games.spectra import vector_field
from kernelscope.kernels import Gaussian, Tangent

from .small_games import Place, played

f64 = torch.float64


def normal(mean, spread, count=80):
    """Points and weights that integrate a normal law (Gauss and Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return mean + spread * torch.tensor(nodes)[:, None], torch.tensor(weights / weights.sum())


@pytest.mark.parametrize(("g", "t"), [(1.0, 1.0), (0.8, 2.5), (1.5, 0.3)])
def test_the_witness_of_two_normal_laws_is_a_difference_of_bumps(g, t):
    (x, u), (y, v) = normal(0.7, 0.6), normal(-0.4, 0.9)
    critic = kernel_critic(Gaussian(g), x, y, time=t, weights=(u, v))
    at = torch.linspace(-3, 3, 25, dtype=f64)[:, None]

    def bump(mean, spread):
        total = g**2 + spread**2
        value = g / math.sqrt(total) * torch.exp(-((at - mean) ** 2) / (2 * total))
        return value, -(at - mean) / total * value

    (one, up), (other, down) = bump(0.7, 0.6), bump(-0.4, 0.9)
    assert torch.allclose(critic(at), t * (one - other)[:, 0], atol=1e-10)
    assert torch.allclose(slope(critic, at), t * (up - down), atol=1e-10)


def test_a_least_squares_critic_follows_the_matrix_exponential():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 2, generator=generator, dtype=f64) for _ in range(2))
    both, n = torch.cat([x, y]), 12
    K, target = Gaussian(1.0)(both), torch.cat([torch.ones(6), -torch.ones(6)]).double()
    for t in (0.01, 1.0, 30.0):
        # n points in all: each side's mean is over n / 2 of them, so the rate is 4 / n.
        expected = target - torch.matrix_exp(-4 * K * t / n) @ target
        assert torch.allclose(kernel_critic(Gaussian(1.0), x, y, t, "lsgan")(both), expected, atol=1e-10)


def test_gradient_descent_meets_the_least_squares_critic_at_first_order():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(count, 2, generator=generator, dtype=f64) for count in (5, 8))
    both = torch.cat([x, y])
    K, target = Gaussian(1.0)(both), torch.cat([torch.ones(5), -torch.ones(8)]).double()
    w = torch.cat([torch.full((5,), 1 / 5), torch.full((8,), 1 / 8)]).double()
    exact = kernel_critic(Gaussian(1.0), x, y, 2.0, "lsgan")(both)

    def off(steps):
        f = torch.zeros(13, dtype=f64)
        for _ in range(steps):
            f = f - 2.0 / steps * 2 * K @ (w * (f - target))
        return float((f - exact).abs().max())

    errors = [off(steps) for steps in (200, 400, 800)]
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(abs(order - 1) < 0.02 for order in orders)


def test_a_kernel_with_directions_of_nought_grows_straight_there():
    # The same point is real and generated: its value cannot be moved, and nothing is divided by nought.
    x = torch.zeros(3, 1, dtype=f64)
    critic = kernel_critic(Gaussian(1.0), x, x, 5.0, "lsgan")
    assert float(critic(x).abs().max()) < 1e-12
    assert bool(critic.coefficients.isfinite().all())


def test_a_linear_critic_is_the_machine_of_its_kernel():
    generator = torch.Generator().manual_seed(2)
    x, z = (torch.randn(count, 3, generator=generator, dtype=f64) for count in (9, 5))
    h, steps = 0.05, 30
    critic = nn.Linear(3, 1).double()
    nn.init.zeros_(critic.weight), nn.init.zeros_(critic.bias)

    class Given(Place):
        def forward(self, z):
            return z + 0 * self.theta

    run = played(Given(0.0), critic, x, z, steps=steps, rate=h)
    machine = kernel_critic(Tangent(nn.Linear(3, 1).double()), x, z, time=h * steps)
    at = torch.randn(7, 3, generator=generator, dtype=f64)
    assert torch.allclose(run.score(at), machine(at), atol=1e-13)
    motion = vector_field(run, x, z)(torch.zeros(5, dtype=f64))
    assert torch.allclose(motion[1:4], x.mean(0) - z.mean(0), atol=1e-14)


def test_points_and_weights_that_do_not_go_together_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(DataError, match="alike"):
        kernel_critic(Gaussian(1.0), x, torch.zeros(3, 1))
    with pytest.raises(DataError, match="real must be points"):
        kernel_critic(Gaussian(1.0), [1.0], x)
    with pytest.raises(DataError, match="weights"):
        kernel_critic(Gaussian(1.0), x, x, weights=(torch.ones(3), torch.ones(2)))
    with pytest.raises(DataError, match="time"):
        kernel_critic(Gaussian(1.0), x, x, time=-1.0)
