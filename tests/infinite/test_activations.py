"""Means over two normal values: the formulas of activations against integrals in many digits, and their errors."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kernelscope.errors import DataError
from kernelscope.kernels.infinite import (
    GELU,
    RBF,
    Abs,
    Cos,
    Dense,
    Elementwise,
    Erf,
    Exp,
    ExpNormalized,
    Gaussian,
    HalfLines,
    Hermite,
    LayerNorm,
    LeakyReLU,
    Monomial,
    ReLU,
    Serial,
    Sign,
    Sin,
    fully_connected,
)
from tests.infinite import golden
from tests.laws import assert_close

X, Z = golden.vectors()

SMOOTH = [Erf(), Erf(1.3, 0.4, 0.2), GELU(), Sin(), Sin(0.7, 1.3, 0.4), Cos(), Cos(1.2, 0.6, 0.3), RBF(0.4),
          Exp(0.8, 0.5), Gaussian(1.4, -0.6), Gaussian(1.0, 0.05), Monomial(2), Monomial(3)]
KINKED = [ReLU(), LeakyReLU(0.3), Abs(), HalfLines(-0.4, 1.7), HalfLines(0.5, 0.5), Sign()]

#: Variances and covariances of two values.
PAIRS = [(1.0, 1.0, 0.3), (0.4, 1.6, -0.5), (0.9, 0.9, 0.9), (0.7, 0.7, -0.7), (1e-3, 2.0, 0.01)]


def grid(q1, q2, k, count=120):
    """Nodes of both values, and their weights, by a product of Gauss-Hermite rules."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    u = math.sqrt(q1) * nodes[:, None] + 0 * nodes
    v = k / math.sqrt(q1) * nodes[:, None] + math.sqrt(max(q2 - k * k / q1, 0.0)) * nodes
    return torch.from_numpy(u), torch.from_numpy(v), torch.from_numpy(weights[:, None] * weights)


def slope(phi, u):
    u = u.clone().requires_grad_()
    return torch.autograd.grad(phi(u).sum(), u)[0]


def after(activation, q1, q2, k):
    """Both kernels of an activation for two points whose covariances, and tangent kernel, are these."""
    # One weight for each point's own direction: W_std=1 and noughts elsewhere leave covariances as they are.
    points = 2**0.5 * torch.tensor([[math.sqrt(q1), 0.0], [k / math.sqrt(q1), math.sqrt(max(q2 - k * k / q1, 0.0))]],
                                   dtype=torch.float64)
    net = Serial(Dense(), activation, Dense())
    nngp, ntk = net.both(points[:1], points[1:])
    return nngp[0, 0], ntk[0, 0]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("activation", SMOOTH, ids=repr)
def test_formulas_are_the_integrals(activation, pair):
    q1, q2, k = pair
    u, v, weights = grid(*pair)
    nngp, ntk = after(activation, *pair)
    value = (weights * activation.phi(u) * activation.phi(v)).sum()
    both = (weights * slope(activation.phi, u) * slope(activation.phi, v)).sum()
    assert_close(nngp, value, 1e-10, scale=max(1.0, abs(float(value))))
    # Of the identity before, the tangent kernel is the covariance.
    assert_close(ntk, value + k * both, 1e-10, scale=max(1.0, abs(float(value))))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("activation", KINKED, ids=repr)
def test_formulas_at_kinks_are_integrals_over_the_angle(activation, pair):
    """In the plane the two values are projections on two directions, and the length integrates by itself."""
    q1, q2, k = pair
    angle = math.acos(max(-1.0, min(1.0, k / math.sqrt(q1 * q2))))
    jumps = sorted({(j * math.pi / 2 + shift) % (2 * math.pi) for j in (1, 3) for shift in (0.0, angle)})
    nodes, weights = np.polynomial.legendre.leggauss(40)
    value = both = 0.0
    for low, high in zip(jumps, [*jumps[1:], jumps[0] + 2 * math.pi], strict=True):
        t = torch.from_numpy((high - low) / 2 * nodes + (high + low) / 2)
        w = torch.from_numpy((high - low) / 2 * weights) / (2 * math.pi)
        u, v = math.sqrt(q1) * t.cos(), math.sqrt(q2) * (t - angle).cos()
        # The mean square of the length is 2; a sign does not see it.
        value += float((w * activation.phi(u) * activation.phi(v)).sum()) * (1 if isinstance(activation, Sign) else 2)
        both += float((w * slope(activation.phi, u) * slope(activation.phi, v)).sum())
    # A point with itself, and with its opposite, has an angle that single rounding errors make 1e-8.
    limit = 1e-7 if abs(k) == math.sqrt(q1 * q2) else 1e-12
    nngp, ntk = after(activation, *pair)
    assert abs(float(nngp) - value) < limit
    assert abs(float(ntk) - value - k * both) < limit


@pytest.mark.parametrize("activation", [*SMOOTH, *KINKED, ExpNormalized(0.8, -0.5)], ids=repr)
def test_the_variance_is_the_covariance_of_a_point_with_itself(activation):
    net = Serial(Dense(1.1, 0.2), activation, Dense(0.9, 0.1), activation, Dense())
    for kernel in (net.nngp, net.ntk):
        assert_close(kernel(X).diagonal(), kernel.diagonal(X), 1e-14)
        nearly = kernel(X, X.clone()).diagonal()
        # At x = z the slope of a sign is infinite: to find out that points are one costs half of all digits.
        assert_close(nearly, kernel.diagonal(X), 1e-6 if isinstance(activation, Sign) else 1e-12)


def test_hermite_polynomials_take_powers_of_the_covariance():
    x, z = (t / t.norm(dim=1, keepdim=True) * 5**0.5 for t in (X, Z))
    cosine = x @ z.T / 5
    for n in (1, 2, 3, 6):
        nngp, ntk = Serial(Dense(), Hermite(n), Dense()).both(x, z)
        assert_close(nngp, cosine**n, 1e-13)
        assert_close(ntk, cosine**n + cosine * n * cosine ** (n - 1), 1e-13)
        u, v, weights = grid(1.0, 1.0, 0.3, 20)
        assert_close((weights * Hermite(n).phi(u) * Hermite(n).phi(v)).sum(), torch.tensor(0.3**n).double(), 1e-5)
        assert_close(Serial(Dense(), LayerNorm(), Hermite(n), Dense()).nngp(X, Z), cosine**n, 1e-10)


def test_a_sign_stops_learning():
    net = Serial(Dense(1.2, 0.1), Sign(), Dense(1.3, 0.4))
    assert_close(net.ntk(X, Z), net.nngp(X, Z), 1e-15)


def test_points_of_nought_are_finite():
    x = torch.cat([torch.zeros_like(X[:1]), X])
    for activation in (*SMOOTH, *KINKED, ExpNormalized(), Elementwise(torch.tanh)):
        for matrix in fully_connected(2, activation, 1.0).both(x):
            assert bool(matrix.isfinite().all()), activation
    assert float(fully_connected(2, Sign()).nngp(x)[0].abs().max()) == 0


# -- numerical integration -------------------------------------------------------------------------------------------


def through(activation, degree):
    """The same function, by integration."""
    return Elementwise(lambda u: activation.phi(u), degree)


def off(activation, degree, depth=3):
    both = activation, through(activation, degree)
    true, found = (fully_connected(depth, phi, 1.2, 0.1).both(X, Z) for phi in both)
    return max(float(((a - b) / a.abs().max()).abs().max()) for a, b in zip(true, found, strict=True))


@pytest.mark.parametrize("activation", [Erf(), GELU(), Sin(), Exp(0.5, 0.5), Gaussian(1.0, -0.3), Monomial(3)],
                         ids=repr)
def test_integration_gives_the_formula_where_the_function_is_smooth(activation):
    assert off(activation, 80) < 1e-10


def test_integration_gains_digits_with_the_degree():
    errors = [off(Erf(), degree) for degree in (20, 30, 40)]
    assert all(more < less / 20 for less, more in zip(errors[:-1], errors[1:], strict=True)), errors
    shares = [Elementwise(torch.tanh, degree).error() for degree in (25, 50, 100)]
    assert all(more < less / 20 for less, more in zip(shares[:-1], shares[1:], strict=True)), shares


def test_integration_of_a_polynomial_is_exact_with_one_term_more_than_its_degree():
    assert off(Monomial(3), 4) < 1e-13


@pytest.mark.parametrize("function", [torch.tanh, F.silu, F.softplus, torch.sigmoid, nn.Softplus(), nn.Tanh()],
                         ids=["tanh", "silu", "softplus", "sigmoid", "Softplus", "Tanh"])
def test_common_activations_are_integrated_to_four_digits_or_better(function):
    net, finer = (fully_connected(2, Elementwise(function, degree), 1.2, 0.1) for degree in (50, 120))
    for one, other in zip(net.both(X, Z), finer.both(X, Z), strict=True):
        assert_close(one, other, 1e-5)
    matrix = net.ntk(torch.cat([X, Z, X[:1]]))
    assert_close(matrix, matrix.T, 1e-15)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12


def test_activations_that_have_a_formula_are_sent_to_it():
    for function, name in ((torch.relu, "ReLU"), (F.relu, "ReLU"), (nn.ReLU(), "ReLU"), (torch.abs, "Abs"),
                           (F.gelu, "GELU"), (torch.erf, "Erf")):
        with pytest.raises(DataError, match=rf"closed form.*infinite\.{name}"):
            Elementwise(function)


def test_a_kink_is_warned_of():
    for function in (F.hardtanh, lambda u: u.relu(), F.relu6):
        with pytest.warns(UserWarning, match=r"off by .*kink"):
            Elementwise(function)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Elementwise(torch.tanh, 25)


def mean_squares(function, variance):
    """Those of a function and of its derivative, by a sum over very many nodes."""
    nodes = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weights = torch.softmax(-nodes.square() / 2, 0)
    u = math.sqrt(variance) * nodes
    return (float((weights * part.square()).sum()) for part in (function(u), slope(function, u)))


@pytest.mark.parametrize("variance", [0.01, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4])
@pytest.mark.parametrize("function", [torch.tanh, F.silu, torch.sigmoid, lambda u: torch.sin(3 * u)],
                         ids=["tanh", "silu", "sigmoid", "sin"])
def test_at_every_variance_integration_is_right_or_says_that_it_is_not(function, variance):
    value, squared = mean_squares(function, variance)
    net = Serial(Dense(), Elementwise(function), Dense())
    point = torch.tensor([[variance]], dtype=torch.float64).sqrt()
    if net.layers[1].error(variance) > 0.1:
        assert variance >= 10
        with pytest.raises(DataError, match=rf"off by .* variance {re.escape(f'{variance:.4g}')}:"):
            net.ntk(point)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        off = abs(float(net.ntk(point)) / (value + variance * squared) - 1)
    assert len(said) <= 1
    assert off < (0.1 if said else 1e-3)


def test_a_wave_too_fast_for_the_terms_is_refused_and_not_taken_for_another():
    for rate in (20, 50, 100, 300, 1000, 3000):
        with pytest.warns(UserWarning, match="off by"):
            layer = Elementwise(lambda u, rate=rate: torch.sin(rate * u))
        with pytest.raises(DataError, match="off by .* variance 1:"):
            Serial(Dense(), layer, Dense()).ntk(X / X.norm(dim=1, keepdim=True) * 5**0.5)


def test_what_grows_beyond_the_grid_is_refused():
    layer = Elementwise(lambda u: u.exp())
    true = Serial(Dense(), Exp(), Dense()).ntk(X)
    assert_close(Serial(Dense(), layer, Dense()).ntk(X), true, 1e-10, scale=float(true.max()))
    with pytest.raises(DataError, match="off by"):
        Serial(Dense(), layer, Dense()).nngp(torch.full((1, 1), 10.0, dtype=torch.float64))


def test_more_terms_are_right_at_larger_variances():
    value, squared = mean_squares(torch.tanh, 10.0)
    found = Serial(Dense(), Elementwise(torch.tanh, 400), Dense()).ntk(torch.full((1, 1), 10.0**0.5).double())
    assert abs(float(found) / (value + 10 * squared) - 1) < 1e-6


def test_a_layer_says_once_what_it_leaves_out():
    net = Serial(Dense(2.5), Elementwise(torch.tanh), Dense())
    with pytest.warns(UserWarning, match="off by") as said:
        net.ntk(torch.ones(600, 1))
    assert len(said) == 1
    # Any other warning would be an error.
    net.ntk(torch.ones(600, 1))


@pytest.mark.parametrize(("function", "words"), [(3, "a function of a tensor"), (lambda u: u.sum(), "shape"),
                                                 (lambda u: 1.0, "1.0 came")], ids=["number", "sum", "float"])
def test_what_is_no_elementwise_function_is_refused(function, words):
    with pytest.raises(DataError, match=words):
        Elementwise(function)


@pytest.mark.parametrize("degree", [1, 501, 2.5, True])
def test_a_degree_that_cannot_be_is_refused(degree):
    with pytest.raises(DataError, match="degree"):
        Elementwise(torch.tanh, degree)


# -- what does not exist ---------------------------------------------------------------------------------------------


def test_a_bell_the_wrong_way_up_has_no_mean_square_for_large_variances():
    net = Serial(Dense(2.0), Gaussian(1.0, 0.3), Dense())
    assert bool(net.nngp(0.2 * X).isfinite().all())
    with pytest.raises(DataError, match=r"infinite for a variance from 0\.8333 on"):
        net.nngp(10 * X)


def test_hermite_polynomials_ask_for_variance_one():
    with pytest.raises(DataError, match="variance 1.*LayerNorm"):
        Serial(Dense(), Hermite(3), Dense()).nngp(X)


@pytest.mark.parametrize("make", [
    lambda: Erf(math.nan), lambda: Sin(b="fast"), lambda: RBF(0), lambda: RBF(-1.0), lambda: Monomial(4),
    lambda: Monomial(1), lambda: Hermite(0), lambda: Exp(b=math.inf), lambda: ExpNormalized(gamma=-1),
    lambda: LeakyReLU(True), lambda: HalfLines(None, 1.0), lambda: LayerNorm(eps=0.0),
    lambda: LayerNorm(over="pixels")])
def test_numbers_that_make_no_activation_are_refused(make):
    with pytest.raises(DataError, match="came"):
        make()
