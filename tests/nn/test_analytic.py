import math

import pytest
import torch
from torch import nn

from kernelscope.features import LineSpectrum, UniversalRandomFeatures, balance, plan_layer
from kernelscope.features.directions import directions
from kernelscope.features.moments import best_rho
from kernelscope.nn import SNNKLinear, convert
from kernelscope.nn.layers.activations import ACTIVATIONS
from kernelscope.nn.layers.baselines import strength

from .test_conversion import small


def points(n, d, length, seed):
    return length * nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_balancing_keeps_products_and_gives_the_nuclear_norm():
    x, w = torch.randn(50, 5).double() * torch.tensor([9, 1, 1, 0.1, 3]).double(), torch.randn(8, 5).double()
    x = x - x.mean(0)
    layer = balance(x, w)
    thin = layer.weights
    assert torch.allclose((x @ layer.transform.T) @ thin.T, x @ w.T, atol=1e-12)
    rms = [float(part.square().sum(1).mean().sqrt()) for part in (x @ layer.transform.T, thin, x, w)]
    nuclear = float(torch.linalg.matrix_norm(x @ w.T, "nuc"))
    assert rms[0] * rms[1] == pytest.approx(nuclear / math.sqrt(50 * 8), rel=1e-12)
    assert rms[0] * rms[1] <= rms[2] * rms[3]
    assert strength(w, torch.zeros(8).double(), x) == pytest.approx(
        math.pi / (1.1 * float((x @ w.T).abs().max())) * layer.after, rel=1e-12)


@pytest.mark.parametrize(("d", "kappa_r", "wanted"), [(1, 0.5, 0.72), (4, 2, 2.88), (16, 8, 11.5), (64, 28, 41.5)])
def test_second_moments_are_those_of_the_table(d, kappa_r, wanted):
    rho = best_rho(kappa_r, d)
    found = d / 2 * math.log((1 + rho) ** 2 / (4 * rho)) + 2 * kappa_r / math.sqrt(rho)
    assert found == pytest.approx(wanted, abs=0.05 if wanted > 5 else 0.01)


def test_variances_are_those_of_many_draws():
    d, kappa, phase, rho, tau, draws = 3, 1.1, 0.4, 1.6, 0.9, 400_000
    x, w, b = points(2, d, 0.8, 1), points(2, d, 1.0, 2), torch.tensor([0.3, -0.7]).double()
    g = directions(draws, d, "independent", 0)
    a = (rho - 1) / 8
    scale = math.sqrt(1 + 4 * a)
    # The lengths for which the scale of the features is tau.
    lengths = (tau**2 / (kappa * math.sqrt(rho)), 1.0)
    wave = LineSpectrum(0.0, 0.0, (kappa,), (1.0,), (phase,))
    wanted = UniversalRandomFeatures(wave, 2, d, lengths, "parameters", a).variance(x, w, b)
    for i in range(2):
        for j in range(2):
            height = (1 + 4 * a) ** (d / 2) * torch.exp(
                -2 * a * g.square().sum(1) + kappa**2 * x[i].square().sum() / (2 * tau**2)
                + scale * tau * g @ w[j] - tau**2 * w[j].square().sum() / 2)
            values = height * torch.cos(scale * kappa / tau * g @ x[i] + kappa * b[j] + phase)
            mean = float(torch.cos(kappa * (x[i] @ w[j] + b[j]) + phase))
            assert float(values.mean()) == pytest.approx(mean, abs=4 * float(values.std()) / math.sqrt(draws))
            assert float(values.var()) == pytest.approx(float(wanted[i, j]), rel=0.05)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu", "cos"])
def test_the_error_is_what_was_predicted_before_drawing(activation):
    linear, x = small()
    predicted, found = 0.0, []
    for seed in range(4):
        _, report = convert(linear, activation, x, 8192, "analytic", seed=seed, kind="independent", held_out=x)
        predicted = report.predicted_rel
        found.append(report.rel_frob**2)
        assert report.rel_frob < report.linear_rel
    assert math.sqrt(sum(found) / 4) / predicted == pytest.approx(1.0, abs=0.25)


def test_products_of_towers_are_the_spectrum_on_average():
    linear, x = small(n=30, l=4)
    weights, bias = linear.weight.detach(), linear.bias.detach()
    plan = plan_layer(torch.tanh, 512, x, weights, bias, positive="parameters")
    wanted = plan.features.spectrum(plan.layer.inputs(x) @ plan.layer.weights.T + plan.layer.bias)
    draws = torch.stack([convert(linear, torch.tanh, x, 512, "analytic", seed=seed, kind="independent",
                                 held_out=x)[0](x).detach() for seed in range(60)])
    error = (draws.mean(0) - wanted).abs() / (draws.std(0) / math.sqrt(60))
    assert float(error.max()) < 4.5


def test_a_linear_function_is_met_without_features():
    linear, x = small()
    layer, report = convert(linear, "identity", x, 64, "analytic")
    assert layer.tower.size == 0
    assert torch.allclose(layer.skip, linear.weight, atol=1e-10)
    assert torch.allclose(layer.constant, linear.bias, atol=1e-10)
    assert report.rel_frob < 1e-10


def test_shifting_inputs_and_biases_together_changes_no_plan():
    linear, x = small()
    weights, bias = linear.weight.detach(), linear.bias.detach()
    move = torch.randn(6, dtype=torch.float64)
    plans = [plan_layer(torch.tanh, 512, x, weights, bias, positive="parameters"),
             plan_layer(torch.tanh, 512, x + move, weights, bias - weights @ move, positive="parameters")]
    assert plans[0].predicted_error == pytest.approx(plans[1].predicted_error, rel=1e-9)
    assert plans[0].features.counts == plans[1].features.counts
    assert strength(weights, bias, x) == pytest.approx(strength(weights, bias - weights @ move, x + move), rel=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "softplus", "sigmoid", "silu"])
def test_more_features_promise_less_error(activation):
    linear, x = small()
    plans = [plan_layer(ACTIVATIONS[activation], m, x, linear.weight, linear.bias, positive="parameters")
             for m in (64, 1024, 16384)]
    promised = [plans[0].linear_error, *(plan.predicted_error for plan in plans)]
    assert promised == sorted(promised, reverse=True)
    assert promised[-1] < 0.5 * promised[0]


def test_a_saved_analytic_layer_comes_back_equal(tmp_path):
    linear, x = small()
    layer, _ = convert(linear, "tanh", x, 4096, "analytic")
    assert torch.equal(SNNKLinear.load(layer.save(tmp_path / "layer.safetensors"))(x), layer(x))
