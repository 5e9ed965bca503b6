"""Networks of finite width tend to the kernels: their outputs by chance, the products of their gradients by width."""

import math

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.kernels.infinite import (
    GELU,
    RBF,
    AvgPool,
    Conv,
    Cos,
    Dense,
    Dropout,
    Elementwise,
    Erf,
    ExpNormalized,
    Flatten,
    Gaussian,
    GlobalAvgPool,
    GlobalSumPool,
    LayerNorm,
    LeakyReLU,
    Monomial,
    ReLU,
    Residual,
    Serial,
    Sign,
    Sin,
    convolutional,
    fully_connected,
)
from tests.infinite import golden
from tests.laws import assert_close

ROOT, WIDTH = 2**0.5, 64

#: Networks, and the shape of their points.
NETS = {
    "two kinds": (Serial(Dense(ROOT, 0.3), ReLU(), Dense(1.2, 0.2), Erf(1.2, 0.7), Dense(1.3, 0.5)), (5,)),
    "waves": (Serial(Dense(1.0, 0.3), RBF(0.5), Dense(), Sin(), Dense(), Cos(1.0, 0.5), Dense()), (5,)),
    "growing": (Serial(Dense(0.5), Monomial(2), Dense(0.6, 0.2), Gaussian(1.0, -0.5), Dense()), (5,)),
    "sign": (Serial(Dense(0.5, 0.1), Sign(), Dense(0.6, 0.2)), (5,)),
    "normalized": (Serial(Dense(1.5, 0.1), LayerNorm(), GELU(), Dense(1.2), LayerNorm(), ReLU(), Dense()), (5,)),
    "residual": (Serial(Dense(ROOT), Residual(LeakyReLU(0.2), Dense(1.1, 0.1), skip=Dense(0.5)),
                        Residual(Elementwise(torch.tanh), Dense()), ReLU(), Dense(1.2)), (5,)),
    "valid": (Serial(Conv((3, 2), ROOT, 0.1, stride=(2, 1), padding="valid"), ReLU(), Conv(2, 1.2), GELU(), Flatten(),
                     Dense(1.2)), (3, 5, 4)),
    "same with strides": (Serial(Conv(3, ROOT, 0.1, stride=2), ReLU(), Conv(2, 1.2), ReLU(), GlobalAvgPool(),
                                 Dense(1.2, 0.1)), (3, 6, 5)),
    "sum": (Serial(Conv(3, 0.5, 0.1), ReLU(), GlobalSumPool(), Dense(0.4)), (2, 3, 3)),
    "circular": (Serial(Conv((2, 3), ROOT, padding="circular"), ReLU(), AvgPool(2), Conv(2, padding="circular"), Erf(),
                        Flatten(), Dense()), (3, 4, 6)),
    "sequence": (Serial(Conv(3, ROOT, 0.1), LayerNorm(over="all"), ReLU(), Dense(1.2, 0.2), AvgPool(2), Conv(3, 1.3),
                        ReLU(), GlobalAvgPool(), Dense()), (2, 8)),
}


def points(shape, n=3):
    return golden.points((n, *shape), c=0.29)


def network(net, shape, width, seed, outputs=1):
    return net.torch(width, inputs=shape[0] if len(shape) == 1 else shape, outputs=outputs, seed=seed).double()


def mean_and_error(samples):
    """The mean over the first axis, and its standard error."""
    return samples.mean(0), samples.std(0) / len(samples) ** 0.5


def assert_near(found, true, error):
    """Within five standard errors, and what the finite width makes of a mean."""
    assert bool(((found - true).abs() < 5 * error + 3 / WIDTH * float(true.abs().max())).all()), (found, true, error)


@pytest.mark.parametrize("name", NETS)
def test_outputs_have_the_covariance_of_the_process(name):
    """With a finite width, covariances are off by its inverse, besides chance."""
    net, shape = NETS[name]
    x = points(shape)
    with torch.no_grad():
        # One number for each network: its outputs share all layers but the last.
        y = torch.stack([network(net, shape, WIDTH, seed, outputs=16)(x) for seed in range(100)])
    mean, error = mean_and_error(y.mean(2))
    assert bool((mean.abs() < 5 * error).all())
    found, error = mean_and_error(y @ y.mT / 16)
    assert_near(found, net.nngp(x), error)


@pytest.mark.parametrize("name", NETS)
def test_the_tangent_kernel_of_a_network_is_that_of_infinite_width_on_average(name):
    net, shape = NETS[name]
    x = points(shape)
    found, error = mean_and_error(torch.stack([ks.kernels.Tangent(network(net, shape, WIDTH, seed))(x)
                                               for seed in range(12)]))
    assert_near(found, net.ntk(x), error)


@pytest.mark.parametrize("name", ["two kinds", "same with strides"])
def test_the_standard_parameterization_depends_on_widths(name):
    layers, shape = NETS[name]
    net = Serial(*layers.layers, parameterization="standard")
    net = Serial(*[type(layer)(**layer.arguments() | {"width": WIDTH}) if isinstance(layer, Dense) else layer
                   for layer in net.layers], parameterization="standard")
    x = points(shape)
    models = [network(net, shape, None, seed) for seed in range(12)]
    assert {len(p) for p in models[0].parameters()} == {WIDTH, 1}
    found, error = mean_and_error(torch.stack([ks.kernels.Tangent(model)(x) for model in models]))
    assert_near(found, net.ntk(x), error)
    assert_close(net.nngp(x), layers.nngp(x), 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(("net", "shape"), [(fully_connected(2, b_std=0.1), (16,)),
                                            (convolutional(1, "gap", b_std=0.1), (3, 6, 6))], ids=["fc2", "cnn1-gap"])
def test_the_distance_to_the_limit_falls_with_the_root_of_the_width(net, shape):
    x = points(shape, 4)
    true = net.ntk(x)
    widths, errors = [32, 128, 512], []
    for width in widths:
        found = torch.stack([ks.kernels.Tangent(network(net, shape, width, seed))(x) for seed in range(48)])
        errors.append(float((found - true).square().sum((1, 2)).mean().sqrt() / true.norm()))
    order = math.log(errors[0] / errors[-1]) / math.log(widths[-1] / widths[0])
    assert 0.4 < order < 0.7, (errors, order)


@pytest.mark.slow
def test_outputs_of_a_wide_network_have_the_covariance_of_the_process_closely():
    net, shape = NETS["same with strides"]
    x = points(shape)
    with torch.no_grad():
        y = torch.cat([network(net, shape, 512, seed, outputs=256)(x).T for seed in range(40)])
    true = net.nngp(x)
    assert_close(y.T @ y / len(y), true, 0.05)


# -- as a module -----------------------------------------------------------------------------------------------------


def test_a_module_is_drawn_from_its_seed_and_nothing_else():
    net = fully_connected(2, b_std=0.1)
    state = torch.random.get_rng_state()
    one, other, third = (net.torch(8, inputs=5, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)
    drawn = net.torch(8, inputs=5, seed=torch.Generator().manual_seed(3)).state_dict()
    assert all(torch.equal(one[name], drawn[name]) for name in one)


def test_parameters_are_normal_with_variance_one_or_small_from_the_start():
    layers = fully_connected(1, W_std=1.5, b_std=0.7).layers
    net, standard = Serial(*layers), Serial(*layers, parameterization="standard")
    for parameters, weight, bias in ((net.torch(4000, inputs=50).state_dict(), 1.0, 1.0),
                                     (standard.torch(4000, inputs=50).state_dict(), 1.5 / 50**0.5, 0.7)):
        assert abs(float(parameters["0.weight"].std()) / weight - 1) < 0.01
        assert abs(float(parameters["0.bias"].std()) / bias - 1) < 0.05
    assert [name for name, _ in fully_connected(1).torch(4, inputs=3).named_parameters()] == ["0.weight", "2.weight"]


def test_both_parameterizations_are_the_same_network():
    layers = (Conv(3, 1.5, 0.7), ReLU(), Flatten(), Dense(1.2, 0.4))
    one, other = (Serial(*layers, parameterization=kind).torch(6, inputs=(2, 4, 4), outputs=3)
                  for kind in ("ntk", "standard"))
    x = points((2, 4, 4)).float()
    assert one(x).shape == (3, 3)
    assert_close(one(x), other(x), 1e-6)


def test_one_layer_is_the_product_that_it_says():
    model = Serial(Dense(1.5, 0.3)).torch(inputs=4, outputs=2).double()
    x, layer = points((4,)), model[0]
    assert_close(model(x), 1.5 * x @ layer.weight.T / 2 + 0.3 * layer.bias, 1e-14)


def test_widths_are_those_of_layers_or_one_for_all():
    net = Serial(Dense(width=7), ReLU(), Dense(width=9), ReLU(), Dense(width=11))
    assert [tuple(p.shape) for p in net.torch(inputs=3, outputs=2).parameters()] == [(7, 3), (9, 7), (2, 9)]
    assert [tuple(p.shape) for p in net.torch(5, inputs=3).parameters()] == [(5, 3), (5, 5), (1, 5)]


def test_points_of_any_shape_go_in_where_no_layer_looks_at_pixels():
    x = points((3, 4, 2)).float()
    assert fully_connected(1).torch(8, inputs=(3, 4, 2))(x).shape == (3, 1)
    assert Serial(Flatten(), Dense()).torch(8, inputs=(3, 4, 2))(x).shape == (3, 1)
    assert Serial(Conv(1), GlobalAvgPool()).torch(8, inputs=(3, 4, 2), outputs=5)(x).shape == (3, 5)


def test_dropout_is_that_of_torch_and_leaves_outputs_alone_in_eval_mode():
    model = Serial(Dense(), ReLU(), Dropout(0.8), Dense()).torch(8, inputs=3)
    (dropout,) = [module for module in model if isinstance(module, nn.Dropout)]
    assert abs(dropout.p - 0.2) < 1e-12


def test_outputs_with_dropout_have_the_variance_of_the_process():
    net, x = Serial(Dense(1.2, 0.1), ReLU(), Dropout(0.5), Dense(1.3)), points((5,))
    with torch.no_grad():
        y = torch.cat([network(net, (5,), 200, seed)(x).T for seed in range(700)])
    found, error = mean_and_error(y[:, :, None] * y[:, None])
    assert bool(((found - net.nngp(x)).abs() < 5 * error).all())
    plain = Serial(*[layer for layer in net.layers if not isinstance(layer, Dropout)]).nngp(x)
    assert bool(((found - plain).diagonal() > 5 * error.diagonal()).all())


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Serial(Dense(), ExpNormalized(), Dense()).torch(8, inputs=3)(torch.ones(1, 3)), "kernel of kernels"),
    (lambda: Serial(ReLU(), Dense()).torch(8, inputs=3), "normal"),
    (lambda: Serial(Dense(), ReLU()).torch(8, inputs=3), "Add Dense"),
    (lambda: Serial(Dense(), Residual(ReLU(), Dense())).torch(8, inputs=3), "layers after it"),
    (lambda: Serial(Dense(), Residual(ReLU(), Dense(width=3)), Dense()).torch(inputs=3), "adds values of as many"),
    (lambda: Serial(Conv(3), Flatten(), Dense()).torch(8, inputs=3), r"inputs=\(3, 32, 32\)"),
    (lambda: Serial(Conv(3), Dense()).torch(8, inputs=(3, 4, 4)), "leaves .* of them"),
    (lambda: Serial(Conv(5, padding="valid"), Flatten(), Dense()).torch(8, inputs=(3, 4, 4)), "does not fit"),
    (lambda: fully_connected(1).torch(0, inputs=3), "width"),
    (lambda: fully_connected(1).torch(8, inputs=0), "inputs"),
    (lambda: fully_connected(1).torch(8, inputs="3"), "inputs"),
    (lambda: fully_connected(1).torch(8, inputs=(3, 2.5)), "inputs"),
    (lambda: fully_connected(1).torch(8, inputs=3, outputs=2.5), "outputs"),
    (lambda: fully_connected(1).torch(8, inputs=3, seed=-1), "seed"),
])
def test_what_makes_no_module_is_refused(make, words):
    with pytest.raises(DataError, match=words):
        make()


def test_a_network_without_a_shape_is_made_at_its_first_call():
    net, x = Serial(Conv(3), ReLU(), GlobalAvgPool(), Dense()), torch.ones(2, 3, 5, 5, dtype=torch.float64)
    waiting, there = net.torch(8, seed=3), net.torch(8, x, seed=3)
    assert "made at its first call" in repr(waiting)
    torch.testing.assert_close(waiting(x), there.double()(x))
    assert len(list(waiting.parameters())) == len(list(there.parameters()))
    torch.testing.assert_close(waiting(2 * x), there(2 * x))
