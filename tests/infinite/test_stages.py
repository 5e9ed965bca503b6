"""Networks that compiled code follows have the kernels that their layers have, one after the other."""

import random

import pytest
import torch

from kernelscope.kernels.infinite import (
    GELU,
    Abs,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    LeakyReLU,
    ReLU,
    Residual,
    Serial,
    myrtle,
    stages,
    vectors,
)
from kernelscope.kernels.infinite.stages import dense_layers, planned

W = 2**0.5


def images(count, *shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.3


def drawn(seed):
    """A network of stages, and the shape of its images."""
    draw = random.Random(seed)
    # Pixels of one channel are parallel or opposite, and the angle of opposite ones is half of their digits.
    channels, layers = draw.choice((2, 3)), []
    for _ in range(draw.choice((1, 2))):
        for _ in range(draw.choice((1, 2, 3))):
            layers += [draw.choice((Conv(3, W, 0.1), Conv(1, W), Conv(5, 1.2), Dense(W, 0.3))),
                       draw.choice((ReLU(), LeakyReLU(0.2), Abs()))]
        if draw.random() < 0.7:
            layers.append(AvgPool(2))
    layers += [draw.choice((Flatten(), GlobalAvgPool())), Dense(W, 0.1)]
    side = 2 ** (1 + max(1, sum(isinstance(layer, AvgPool) for layer in layers)))
    return Serial(*layers), (channels, side, side)


def by_layers(monkeypatch, net, x, z):
    """Both kernels with nothing compiled."""
    with monkeypatch.context() as patch:
        patch.setattr(stages, "compiled", lambda device: False)
        patch.setattr(vectors, "compiled", lambda device: False)
        return net.both(x, z)


@pytest.fixture(autouse=True)
def _needs_a_compiler():
    pytest.importorskip("numba")


@pytest.mark.parametrize("seed", range(12))
def test_stages_are_their_layers(monkeypatch, seed):
    net, shape = drawn(seed)
    x, z = images(4, *shape), images(3, *shape, seed=1)
    assert planned(net, x) is not None
    for points in ((x, z), (x, None)):
        for found, true in zip(net.both(*points), by_layers(monkeypatch, net, *points), strict=True):
            torch.testing.assert_close(found, true, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(net.ntk.diagonal(x), net.ntk(x).diagonal(), rtol=1e-11, atol=0)
    torch.testing.assert_close(net.nngp(x, z), net.both(x, z).nngp, rtol=1e-13, atol=0)


@pytest.mark.parametrize("layers", [[Dense(W), ReLU()], [Dense(1.5, 0.05), LeakyReLU(0.1), Dense(), Abs()]])
def test_dense_layers_in_one_pass_are_their_layers(monkeypatch, layers):
    net, x, z = Serial(*layers, Dense(W, 0.2)), images(20, 7), images(11, 7, seed=1)
    assert dense_layers(net) is not None
    for points in ((x, z), (x, None)):
        for found, true in zip(net.both(*points), by_layers(monkeypatch, net, *points), strict=True):
            torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(net.ntk(*points), net.both(*points).ntk, rtol=1e-14, atol=0)


@pytest.mark.parametrize("net", [
    Serial(Conv(3, stride=2), ReLU(), GlobalAvgPool(), Dense()), Serial(Conv(2), ReLU(), GlobalAvgPool(), Dense()),
    Serial(Conv(3, padding="valid"), ReLU(), Flatten(), Dense()), Serial(Conv(3), GELU(), Flatten(), Dense()),
    Serial(Conv(3), Residual(ReLU(), Conv(3)), ReLU(), Flatten(), Dense()),
    Serial(Conv(3), ReLU(), Flatten(), Dense(), ReLU(), Dense()),
    Serial(AvgPool(2), Conv(3), ReLU(), Flatten(), Dense()),
    Serial(Conv(3), ReLU(), AvgPool((2, 4)), Flatten(), Dense()),
    Serial(Conv(3), ReLU(), Flatten(), Dense(), parameterization="standard")])
def test_what_no_stage_can_hold_is_followed_layer_by_layer(net):
    x = images(2, 1, 4, 4)
    assert planned(net, x) is None
    assert bool(net.ntk(x).isfinite().all())


@pytest.mark.parametrize("depth", [5, 10])
def test_near_duplicates_keep_their_digits_behind_poolings(depth):
    x = images(4, 3, 8, 8).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    x = torch.cat([x, x[:2], x + 1e-6 * noise, x + 1e-4 * noise, x.roll(1, -1)])
    net = myrtle(depth)
    for found, true in zip(net.both(x), net.both(x.double()), strict=True):
        assert float(((found - true) / true).abs().max()) < 5e-7


def test_pairs_of_a_set_with_itself_are_computed_once(monkeypatch):
    counted, whole = [], stages.of_images

    def counting(stage, x, z, i, j, tangent):
        counted.append(len(i))
        return whole(stage, x, z, i, j, tangent)

    monkeypatch.setattr(stages, "of_images", counting)
    kernel = myrtle(5).nngp
    kernel(images(30, 1, 8, 8))
    assert sum(counted) == 30 * 31 // 2 + 30
