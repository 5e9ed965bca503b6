"""Kernels are those that another implementation gives, to 1e-12 of each entry."""

import pytest

from kernelscope.kernels.infinite import (
    GELU,
    RBF,
    AvgPool,
    Conv,
    Dense,
    Erf,
    ExpNormalized,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    Serial,
    Sin,
    fully_connected,
    myrtle,
    named,
)
from tests.infinite import golden

#: How far an entry may be off, relative to itself; and products of a point with itself, where the other one is off.
CLOSE, SELF = 1e-12, 1e-7

ROOT = 2**0.5
ACTIVATIONS = {"relu": ReLU(), "erf": Erf(), "gelu": GELU(), "sin": Sin(), "rbf": RBF(), "expn": ExpNormalized()}


def dense():
    return Dense(1.5, 0.05)


def conv():
    return Conv(3, ROOT, 0.1)


def deep(activation, depth):
    return fully_connected(depth, activation, W_std=1.5, b_std=0.05)


VECTORS = {f"fc_{name}_L{depth}_ntk": deep(activation, depth)
           for name, activation in ACTIVATIONS.items() for depth in (1, 3)} | {
    "fc_relu_L2_standard512": Serial(*deep(ReLU(), 2).layers, parameterization="standard"),
    "fc_relu_L2_layernorm": Serial(dense(), LayerNorm(), ReLU(), dense(), LayerNorm(), ReLU(), dense()),
    "fc_relu_preact_residual2": Serial(dense(), Residual(ReLU(), dense()), Residual(ReLU(), dense()), ReLU(), dense()),
}
IMAGES = {
    "conv2_flatten_relu": Serial(conv(), ReLU(), conv(), ReLU(), Flatten(), Dense(ROOT, 0.1)),
    "conv2_gap_relu": Serial(conv(), ReLU(), conv(), ReLU(), GlobalAvgPool(), Dense(ROOT, 0.1)),
    "conv2_pool_gap_gelu": Serial(conv(), GELU(), AvgPool(2), conv(), GELU(), GlobalAvgPool(), Dense(ROOT, 0.1)),
    **{f"myrtle{depth}_8x8": myrtle(depth) for depth in (5, 7, 10)},
}


def assert_entries(found, true, limit=CLOSE):
    assert found.shape == true.shape
    assert float(((found - true) / true).abs().max()) < limit


def check(net, name, x, z):
    found = net.both(x, z)
    for kind in ("nngp", "ntk"):
        true = golden.matrix(name, kind)
        assert_entries(getattr(found, kind), true)
        assert_entries(getattr(net, kind)(x, z), true)


@pytest.mark.parametrize("name", VECTORS)
def test_kernels_of_vectors_are_those_of_another_implementation(name):
    check(VECTORS[name], name, *golden.vectors())


@pytest.mark.parametrize("name", IMAGES)
def test_kernels_of_images_are_those_of_another_implementation(name):
    check(IMAGES[name], name, *golden.images())


def test_the_kernel_of_points_with_themselves_is_that_of_another_implementation():
    x, name = golden.vectors()[0], "fc_relu_L2_self"
    net = deep(ReLU(), 2)
    assert_entries(net.nngp(x), golden.matrix(name, "nngp"))
    true = golden.matrix(name, "ntk")
    assert_entries(net.ntk(x).triu(1)[true.triu(1) != 0], true.triu(1)[true.triu(1) != 0])
    assert_entries(net.ntk(x).diagonal(), true.diagonal(), SELF)
    assert_entries(net.ntk.diagonal(x), true.diagonal(), SELF)


def test_pooling_all_that_is_left_is_pooling_by_twos_to_the_last_pixel():
    x, z = golden.images()
    layers = myrtle(5).layers
    by_twos = Serial(*layers[:-2], AvgPool(2), Flatten(), layers[-1])
    for one, other in zip(by_twos.both(x, z), named("myrtle5").both(x, z), strict=True):
        assert_entries(one, other)
