"""Second moments in closed form against quadrature, and layers balanced against the nuclear norm."""

import itertools
import math

import numpy as np
import pytest
import torch

from kernelscope.errors import DataError, NonFiniteError
from kernelscope.features import balance, directions
from kernelscope.features.moments import (
    best_A,
    best_rho,
    log_absolute_moment,
    log_moment,
    log_variance_factor,
)
from tests.laws import assert_close

TILTS = [-0.05, 0.0, 0.1]


def expected(function, d, nodes=90):
    """The mean of a function over normal vectors, by Gauss-Hermite quadrature in each coordinate."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    return sum(math.prod(w[i] for i in place) * function(x[list(place)])
               for place in itertools.product(range(nodes), repeat=d))


def exponential(u, A):
    """The random exponential of a complex vector, as it is written."""
    return lambda g: (1 + 4 * A)**(len(u) / 4) * np.exp(-A * g @ g + math.sqrt(1 + 4 * A) * g @ u - u @ u / 2)


def pair(d):
    rng = np.random.default_rng(d)
    return tuple(0.5 * (rng.standard_normal(d) + 1j * rng.standard_normal(d)) for _ in range(2))


@pytest.mark.parametrize("A", TILTS)
@pytest.mark.parametrize("d", [1, 2])
def test_products_of_random_exponentials_are_the_exponential_of_a_product(A, d):
    u, v = pair(d)
    left, right = exponential(u, A), exponential(v, A)
    assert abs(expected(lambda g: left(g) * right(g), d) - np.exp(u @ v)) < 1e-10


@pytest.mark.parametrize("A", TILTS)
@pytest.mark.parametrize("d", [1, 2])
def test_second_moments_are_those_of_the_quadrature(A, d):
    u, v = pair(d)
    left, right = exponential(u, A), exponential(v, A)
    c = u + v
    found = log_absolute_moment(A, d, torch.tensor(c.real @ c.real), torch.tensor((u @ u).real),
                                torch.tensor((v @ v).real))
    true = expected(lambda g: abs(left(g) * right(g))**2, d)
    assert abs(float(found.exp()) - true) < 1e-8 * abs(true)
    found = log_moment(A, d, torch.tensor(c @ c), torch.tensor(u @ u), torch.tensor(v @ v))
    true = expected(lambda g: (left(g) * right(g))**2, d)
    assert abs(complex(found.exp()) - true) < 1e-8 * abs(true)


@pytest.mark.parametrize("d", [1, 3, 40])
@pytest.mark.parametrize("s", [0.0, 0.3, 4.0, 60.0])
def test_the_best_A_is_the_minimum(s, d):
    found = best_A(s, d)
    grid = float(found) + torch.linspace(-0.1, 5, 200_001, dtype=torch.float64)
    logs = log_absolute_moment(grid, d, torch.tensor(s), torch.tensor(0.0), torch.tensor(0.0))
    assert abs(float(found - grid[logs.argmin()])) < 3e-5
    # The formula of the paper on chefs' random tables, with its A of the other sign.
    phi = s / d
    other = (1 - 2 * phi - math.sqrt((2 * phi + 1)**2 + 8 * phi)) / 16
    assert abs(float(found) + other) < 1e-8 or s == 0


@pytest.mark.parametrize(("d", "logs"), [
    (1, (0.72, 1.75, 3.08, 4.33)), (4, (0.90, 2.88, 6.99, 11.8)), (16, (0.97, 3.59, 11.5, 26.1)),
    (64, (0.99, 3.88, 14.4, 41.5)), (768, (1.0, 3.99, 15.8, 54.1)),
])
def test_the_variance_of_one_frequency_is_that_of_the_table(d, logs):
    steep = torch.tensor([0.5, 2, 8, 28])
    found = log_variance_factor(steep, d)
    assert ((found / torch.tensor(logs) - 1).abs() < 0.01).all()
    assert_close(log_variance_factor(steep, d, adaptive=False), 2 * steep.double(), 1e-14)
    # It is the least over a grid of rho.
    rho = 1 + torch.logspace(-5, 5, 20_001, dtype=torch.float64)[:, None]
    grid = d / 2 * ((1 + rho).square() / (4 * rho)).log() + 2 * steep / rho.sqrt()
    assert ((grid.min(0).values - found).abs() < 1e-6).all()


def test_the_best_scale_is_the_root():
    steep = torch.tensor([0.0, 1e-6, 0.5, 30.0, 1e4]).double()
    rho = best_rho(steep, 7)
    gap = 7 * (rho - 1) * rho.sqrt() - 2 * steep * (1 + rho)
    assert (gap.abs() <= 1e-12 * (1 + 2 * steep * (1 + rho))).all()


def test_many_coordinates_and_few():
    """For d much above kappa r, ln V is 2 kappa r - 2 (kappa r)^2 / d."""
    assert abs(float(log_variance_factor(3.0, 10_000)) - (6 - 18 / 10_000)) < 1e-5


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_numbers_below_nought_are_refused(wrong):
    with pytest.raises(DataError, match="s must be a finite number from 0 on"):
        best_A(wrong, 3)
    with pytest.raises(DataError, match="steep must be a finite number from 0 on"):
        log_variance_factor(wrong, 3)


def test_an_infinite_moment_is_refused():
    with pytest.raises(DataError, match="A must be above -1/8.*-0.125 came"):
        log_absolute_moment(-0.125, 3, *torch.ones(3))


# -- directions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", directions.KINDS)
@pytest.mark.parametrize("d", [1, 2, 3, 5, 16])
def test_directions_are_finite_and_of_unit_variance(kind, d):
    g = directions.directions(4000, d, kind, 3)
    assert g.shape == (4000, d)
    assert g.isfinite().all()
    assert (g.square().mean(0) - 1).abs().max() < 0.15
    assert g.mean(0).abs().max() < 0.08
    assert (g.T @ g / 4000 - torch.eye(d)).abs().max() < 0.15


def test_rows_of_one_length_are_those_of_a_sphere():
    """The mean of cos(g.c) over a sphere of radius sqrt(d) is 0F1(; d/2; -d |c|^2 / 4), less than e^{-|c|^2 / 2}."""
    d, c = 64, 1.4
    series = sum((-d * c**2 / 4)**k / math.factorial(k) / math.prod(d / 2 + j for j in range(k)) for k in range(60))
    direction = torch.randn(d, dtype=torch.float64)
    direction *= c / direction.norm()
    rows = directions.directions(64 * 1000, d, "unscaled", 1)
    assert_close(rows.norm(dim=1), torch.full((len(rows),), 8.0).double(), 1e-12)
    found = (rows @ direction).cos().reshape(1000, 64).mean(1)
    chance = 4 * float(found.std()) / math.sqrt(1000)
    assert abs(float(found.mean()) - series) < chance < abs(math.exp(-c**2 / 2) - series)


# -- balancing -------------------------------------------------------------------------------------------------------


def layer(n=50, d=6, l=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((n, d), (l, d), (l,)))
    return x * torch.arange(1, d + 1) + 2, W, b


@pytest.mark.parametrize("shape", [(50, 6, 9), (50, 6, 3), (4, 6, 9), (1000, 2, 1)])
def test_a_balanced_layer_is_the_same_layer(shape):
    x, W, b = layer(*shape)
    found = balance(x, W, b)
    assert_close(found.inputs(x) @ found.weights.T + found.bias, x @ W.T + b, 1e-12)
    assert_close(found.inputs(x) @ found.weights.T, (x - x.mean(0)) @ W.T, 1e-12)


def test_its_lengths_are_the_nuclear_norm():
    x, W, b = layer()
    found = balance(x, W, b)
    rms = [float(side.square().sum(1).mean().sqrt()) for side in (found.inputs(x), found.weights)]
    nuclear = float(torch.linalg.matrix_norm((x - x.mean(0)) @ W.T, "nuc")) / math.sqrt(len(x) * len(W))
    assert abs(math.prod(rms) - nuclear) < 1e-12 * nuclear
    assert abs(found.after - nuclear) < 1e-12 * nuclear
    assert abs(found.before - float(x.norm() * W.norm()) / math.sqrt(len(x) * len(W))) < 1e-12 * found.before
    assert abs(rms[0] / rms[1] - math.sqrt(len(W) / len(x))) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_no_other_balance_is_shorter(seed):
    x, W, b = layer(seed=seed)
    found = balance(x, W, b)
    assert found.after <= found.before
    T = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = ((x - x.mean(0)) @ T.T).norm() * (W @ torch.linalg.inv(T)).norm() / math.sqrt(len(x) * len(W))
    assert found.after <= float(other)


def test_fewer_directions_are_the_best_ones():
    x, W, b = layer()
    values = torch.linalg.svdvals((x - x.mean(0)) @ W.T)
    for rank in (1, 3, 6, 60):
        found = balance(x, W, b, rank=rank)
        assert found.weights.shape == (9, min(rank, 6))
        gap = found.inputs(x) @ found.weights.T + found.bias - x @ W.T - b
        assert abs(float(gap.norm()) - float(values[rank:].norm())) < 1e-10
        again = balance(x, W, b).kept(rank)
        assert_close(again.weights, found.weights, 0)
        assert abs(found.after - float(values[:rank].sum()) / math.sqrt(50 * 9)) < 1e-12 * found.after
    assert repr(balance(x, W, b, rank=2)).startswith("Balanced(2 of 6 directions, |x||w| ")


def test_layers_that_cannot_be_balanced_are_refused():
    x, W, b = layer()
    with pytest.raises(DataError, match=r"W must be a tensor of shape \(l, 6\)"):
        balance(x, W.T, b)
    with pytest.raises(DataError, match=r"b must be a tensor of shape \(9,\).*shape \(6,\) came"):
        balance(x, W, x[0])
    with pytest.raises(NonFiniteError, match="The weights or the bias hold NaN"):
        balance(x, W * math.nan, b)
    with pytest.raises(DataError, match="the layer is a constant"):
        balance(torch.ones(4, 6), W, b)
