"""Networks drawn at random are what loops over their pixels say, and their kernels obey the laws of kernels."""

import random

import pytest
import torch

from kernelscope.kernels.infinite import (
    GELU,
    Abs,
    AvgPool,
    Conv,
    Dense,
    Elementwise,
    Erf,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    Serial,
    convolutional,
    fully_connected,
)
from tests import laws, operator_laws
from tests.infinite import golden, loops
from tests.laws import assert_close
from tests.maps import M, N


def convolution(draw, shape):
    """A convolution that fits, and the pixels after it."""
    padding = draw.choice(["same", "circular", "valid"])
    side = tuple(draw.randint(1, n if padding != "same" else 3) for n in shape)
    layer = Conv(side if draw.random() < 0.8 else min(side), draw.uniform(0.8, 1.6), draw.choice([0.0, 0.3]),
                 stride=tuple(draw.randint(1, 2) for _ in shape), padding=padding)
    return layer, layer.pixels(shape)


def network(draw, shape):
    """Some blocks of layers, the end of pixels, and a readout."""
    layers = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["conv", "conv", "dense", "residual"])
        if kind == "dense":
            layers.append(Dense(draw.uniform(0.8, 1.6), draw.choice([0.0, 0.2])))
        else:
            layer, shape = convolution(draw, shape)
            layers.append(layer)
        if kind == "residual":
            side = draw.choice([1, 3])
            layers.append(Residual(ReLU(), Conv(side, 1.2, 0.1), skip=draw.choice([(), Dense(0.7, 0.2)])))
        layers.append(ReLU())
        if draw.random() < 0.4:
            layer = AvgPool(tuple(draw.choice([d for d in (1, 2, 3) if n % d == 0]) for n in shape))
            layers.append(layer)
            shape = layer.pixels(shape)
    return Serial(*layers, draw.choice([Flatten, GlobalAvgPool])(), Dense(1.3, draw.choice([0.0, 0.1])))


@pytest.mark.parametrize("seed", range(40))
def test_a_network_drawn_at_random_is_what_loops_over_pixels_say(seed):
    draw = random.Random(seed)
    shape = draw.choice([(2, 3), (3, 2), (4, 1), (5,), (1, 1)])
    net = network(draw, shape)
    x = golden.points((3, 2, *shape), c=draw.random())
    z = golden.points((2, 2, *shape), c=draw.random())
    x[0, :, ..., :1] = 0.0
    for name, found, true in zip(("nngp", "ntk"), net.both(x, z), loops.matrices(net, x, z), strict=True):
        assert_close(found, true, 1e-12)
        assert_close(getattr(net, name)(x, z), true, 1e-12)
        assert_close(getattr(net, name).diagonal(x), getattr(net, name)(x).diagonal(), 1e-13)


# -- laws ------------------------------------------------------------------------------------------------------------


def vectors(n, dtype, device):
    return golden.points((n, 5), c=n / 100).to(device, dtype)


def images(n, dtype, device):
    return golden.points((n, 2, 4, 3), c=n / 100).to(device, dtype)


LAWFUL = {
    "rectifiers": (fully_connected(2, b_std=0.1), vectors),
    "sigmoids in the standard parameterisation": (
        Serial(Dense(1.2, 0.1, width=64), Erf(), Dense(), parameterization="standard"), vectors),
    "normalized and residual": (
        Serial(Dense(), LayerNorm(), Residual(ReLU(), Dense(1.1)), GELU(), Dense()), vectors),
    "convolutions": (convolutional(2, b_std=0.1), images),
    "pooled convolutions": (
        Serial(Conv(3, 1.3), ReLU(), AvgPool((2, 1)), Conv(2, padding="circular"), GELU(), GlobalAvgPool(), Dense()),
        images),
}


@pytest.mark.parametrize("law", laws.KERNELS + operator_laws.OPERATORS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", LAWFUL)
def test_law(name, kind, law, dtype, device):
    net, points = LAWFUL[name]
    law(getattr(net, kind), points(N, dtype, device), points(M, dtype, device))


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("net", [fully_connected(2, b_std=0.1), fully_connected(2, Erf()),
                                 Serial(Dense(), LayerNorm(), GELU(), Dense())], ids=repr)
def test_the_gradient_by_points_is_that_of_small_steps(net, kind):
    kernel, x = getattr(net, kind), golden.points((3, 4))
    # Where two points are one, the slopes on both sides of a kink take each other away.
    z = torch.cat([golden.points((2, 4), c=0.37), x[:1]])
    v = golden.points((3,), c=0.7)
    found, step = kernel.gradient(x, z, v), 1e-5
    for i in range(4):
        e = step * torch.eye(4, dtype=torch.float64)[i]
        slope = (kernel(x + e, z) @ v - kernel(x - e, z) @ v) / (2 * step)
        assert_close(found[:, i], slope, 1e-7, scale=1.0)


@pytest.mark.parametrize("net", [fully_connected(2), fully_connected(2, Erf()),
                                 fully_connected(2, Elementwise(torch.tanh)),
                                 Serial(Dense(), LayerNorm(), Residual(Abs(), Dense()), ReLU(), Dense())], ids=repr)
def test_gradients_are_finite_where_points_are_one_or_nought(net):
    x = golden.points((3, 4))
    x = torch.cat([x, x[:1], 0 * x[:1]])
    for kernel in (net.nngp, net.ntk):
        assert bool(kernel.gradient(x, x, torch.ones(5, dtype=torch.float64)).isfinite().all())
        weights = golden.points((5, 5), c=0.7)
        points = x.clone().requires_grad_()
        (kernel(points) * weights).sum().backward()
        assert bool(points.grad.isfinite().all())


def test_both_kernels_fit_into_little_memory_and_stay_the_same():
    net, x = LAWFUL["pooled convolutions"][0], images(9, torch.float64, "cpu")
    small = net.ntk
    small.memory = 200_000
    for one, other in zip(small.both(x), net.both(x), strict=True):
        assert_close(one, other, 1e-14)
