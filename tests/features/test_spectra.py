"""Spectra of activations against the activations themselves."""

import math

import pytest
import torch

from kernelscope.errors import DataError, NonFiniteError
from kernelscope.features import LineSpectrum, fit_spectrum
from kernelscope.features.fourier import FOURIER, gauss_legendre
from kernelscope.features.moments import log_variance_factor
from kernelscope.features.spectra import ACTIVATIONS, EXACT, relu_spectrum
from kernelscope.features.spectrum_fitting import spectrum_of
from tests.laws import assert_close

Z = torch.tensor([-4, -1.3, 0.0, 0.4, 0.7, 3], dtype=torch.float64)
RANGE = torch.linspace(-3, 3, 601, dtype=torch.float64)


@pytest.mark.parametrize("name", FOURIER)
def test_the_integral_of_waves_is_the_activation(name):
    assert_close(FOURIER[name](Z), ACTIVATIONS[name](Z), 1e-8, scale=1)


@pytest.mark.parametrize("name", FOURIER)
def test_a_quadrature_is_a_sum_of_waves(name):
    spectrum = FOURIER[name].spectrum(60)
    assert_close(spectrum(Z), ACTIVATIONS[name](Z), 1e-7, scale=1)


@pytest.mark.parametrize("name", EXACT)
def test_a_few_activations_are_a_few_waves(name):
    assert_close(EXACT[name](Z), ACTIVATIONS[name](Z), 1e-15)
    assert spectrum_of(name) is EXACT[name]


@pytest.mark.parametrize("terms", [5, 50])
def test_the_series_of_ReLU_is_off_by_its_tail(terms):
    R = 2.5
    z = torch.linspace(-R, R, 20_001, dtype=torch.float64)
    tail = 2 * R / math.pi**2 * sum(1 / k**2 for k in range(2 * terms + 1, 400_000, 2))
    assert abs(float((relu_spectrum(R, terms)(z) - z.relu()).abs().max()) - tail) < 1e-4
    assert abs(relu_spectrum(R, 10_000).mass - R / 4) < 1e-4


def test_nodes_are_those_of_numpy():
    import numpy as np

    x, w = np.polynomial.legendre.leggauss(12)
    found = gauss_legendre(12)
    assert_close(found[0], torch.tensor(x), 1e-14)
    assert_close(found[1], torch.tensor(w), 1e-13)


# -- where there is a variance ---------------------------------------------------------------------------------------


def test_features_of_tanh_have_no_variance_beyond_its_strip():
    """A pole of tanh is at i pi / 2: near it the least second moment grows without end."""
    moments = [FOURIER["tanh"].least_second_moment(r, 0.02) for r in (1.4, 1.57, math.pi / 2, 2.0)]
    assert moments[1] / moments[0] > 1e3
    assert moments[2:] == [math.inf, math.inf]


@pytest.mark.parametrize(("name", "strip"), [("sech", math.pi / 2), ("sech2", math.pi / 2), ("sigmoid", math.pi),
                                             ("softplus", math.pi), ("silu", math.pi)])
def test_the_strip_ends_where_the_function_has_a_pole(name, strip):
    edge = torch.tensor(1j * (strip - 1e-6), dtype=torch.complex128)
    functions = {"sech": lambda z: 1 / z.cosh(), "sech2": lambda z: z.cosh()**-2, "sigmoid": torch.sigmoid,
                 "softplus": lambda z: 1 / (1 + (-z).exp()), "silu": lambda z: z * torch.sigmoid(z)}
    assert abs(functions[name](edge)) > 1e5
    assert FOURIER[name].strip == strip
    integral = FOURIER[name]
    assert integral.least_second_moment(strip - 0.01, 0.02) > 2 * integral.least_second_moment(strip - 0.2, 0.02)


@pytest.mark.parametrize("gap", [1e-2, 1e-4])
def test_near_its_edge_the_second_moment_grows_as_the_square_of_what_is_left(gap):
    """Far out 2 pi / sinh(pi^2 xi) is 4 pi e^{-pi^2 xi}, whose integral times e^{2 pi xi r} is 2 / (pi / 2 - r)."""
    found = math.sqrt(FOURIER["tanh"].least_second_moment(math.pi / 2 - gap, 0.05))
    assert abs(found * gap / 2 - 1) < 2 * gap


def test_a_second_moment_is_the_square_of_the_integral():
    """sech: the integral of 2 pi sech(pi^2 xi) cosh(2 pi xi r) is 2 / cos(r), less that of e^{-2 pi xi r}."""
    x, w = gauss_legendre(200)
    xi = 2 * (x + 1)
    integral = float((2 * w * 2 * math.pi / (math.pi**2 * xi).cosh() * (2 * math.pi * xi * 0.9).exp()).sum())
    assert abs(FOURIER["sech"].least_second_moment(0.9) / integral**2 - 1) < 1e-6
    assert abs(FOURIER["gaussian"].least_second_moment(0.0) - 1) < 1e-10


# -- fitted waves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("tanh", 1e-4), ("gelu", 1e-3), ("silu", 1e-3), ("softplus", 1e-3),
                                            ("sigmoid", 1e-5), ("erf", 1e-4), ("sech", 1e-4), ("gaussian", 1e-4),
                                            ("sech2", 1e-3), ("relu", 0.05)])
def test_a_few_fitted_waves_are_near_on_their_range(name, most):
    spectrum = fit_spectrum(name, RANGE, terms=8)
    gap = (spectrum(RANGE) - ACTIVATIONS[name](RANGE)).square().mean().sqrt()
    assert gap < most
    assert spectrum.name == name


def test_a_learned_activation_is_fitted_as_any():
    net = torch.nn.PReLU(init=0.1).double()
    spectrum = fit_spectrum(lambda z: net(z).detach(), RANGE, terms=6)
    assert spectrum.name is None
    assert (spectrum(RANGE) - net(RANGE)).square().mean().sqrt() < 0.03


def test_a_line_needs_no_waves():
    spectrum = fit_spectrum(lambda z: 2 - 3 * z, RANGE, 4, log_variances=lambda k: k, features=100)
    assert abs(spectrum.constant - 2) < 1e-10
    assert abs(spectrum.slope + 3) < 1e-10
    assert spectrum.mass < 1e-10


def objective(spectrum, name, logs, features):
    """What the penalised fit minimises."""
    kappa = torch.tensor(spectrum.frequencies, dtype=torch.float64)
    roots = (logs(kappa) / 2).exp()
    variance = float((torch.tensor(spectrum.amplitudes).double().abs() * roots).sum())**2 / (2 * features)
    return float((spectrum(RANGE) - ACTIVATIONS[name](RANGE)).square().mean()) + variance


@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
@pytest.mark.parametrize("features", [10, 1000])
def test_the_penalised_fit_is_the_minimum(name, features):
    logs = lambda kappa: log_variance_factor(kappa * 1.2, 5)
    best = fit_spectrum(name, RANGE, 5, log_variances=logs, features=features)
    least = objective(best, name, logs, features)
    assert least < objective(fit_spectrum(name, RANGE, 5), name, logs, features)
    line = fit_spectrum(name, RANGE, 1, log_variances=lambda k: k + 300, features=1)
    assert least < objective(line, name, logs, features)
    draw = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(10):
            shake = lambda part, size=size: tuple((torch.tensor(part).double() * (
                1 + size * torch.randn(len(part), generator=draw, dtype=torch.float64))).tolist())
            other = LineSpectrum(best.constant, best.slope * (1 + size * float(torch.randn(1, generator=draw))),
                             best.frequencies, shake(best.amplitudes), shake(best.phases))
            assert least <= objective(other, name, logs, features) * (1 + 1e-6)


def test_more_features_afford_more_waves():
    logs = lambda kappa: log_variance_factor(kappa * 1.2, 5)
    masses = [fit_spectrum("tanh", RANGE, 6, log_variances=logs, features=m).mass for m in (10, 1000, 100_000)]
    assert masses[0] < masses[1] < masses[2]


@pytest.mark.parametrize(("make", "match"), [
    (lambda: LineSpectrum(frequencies=(1.0,)), "1 frequencies, 0 amplitudes and 0 phases came"),
    (lambda: LineSpectrum(0, 0, (-1.0,), (1.0,), (0.0,)), "Frequencies must be positive; -1 came"),
    (lambda: LineSpectrum(math.nan), "Each of constant must be a finite number"),
    (lambda: LineSpectrum(0, 0, "1", "2", "3"), "frequencies must be a list of numbers"),
    (lambda: spectrum_of("tanh"), "Pass radius="),
    (lambda: spectrum_of("swish", 1.0), 'name must be "cos"'),
    (lambda: fit_spectrum("tanh", [1.0]), "z must be a tensor"),
    (lambda: fit_spectrum("tanh", torch.zeros(3)), "All z are 0"),
    (lambda: fit_spectrum("tanh", RANGE, features=3), "takes both log_variances and features"),
    (lambda: fit_spectrum("tanh", RANGE, 0), "terms must be a whole number from 1 on"),
])
def test_what_is_no_spectrum_is_refused(make, match):
    with pytest.raises(DataError, match=match):
        make()


def test_numbers_that_are_none_are_refused():
    with pytest.raises(NonFiniteError, match="z holds NaN"):
        fit_spectrum("tanh", torch.tensor([1.0, math.nan]))
    with pytest.raises(NonFiniteError, match="one finite number for each z"):
        fit_spectrum(torch.log, RANGE)


def test_spectra_say_what_they_are():
    assert repr(LineSpectrum(1.0, 2.0)) == "LineSpectrum(no waves, constant 1, slope 2)"
    assert repr(EXACT["cos"]) == "LineSpectrum(cos: 1 frequency up to 1, constant 0, slope 0)"
