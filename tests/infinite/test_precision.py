"""Single precision is as exact as it can be where points are near-duplicates, at which the usual recursion fails."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from kernelscope.kernels.infinite import (
    Abs,
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Residual,
    Serial,
    convolutional,
    fully_connected,
    myrtle,
)

#: The largest error of an entry, relative to itself, where layers keep what covariances lack; and of many layers, in
#: each of which a constant is rounded in the same way.
CLOSE, DEEP = 2e-6, 3e-6

ROOT = 2**0.5


def noise(shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors():
    """Points, and after them nearly the same, the same, and some of other lengths."""
    x = noise((12, 20), 0).abs()
    return torch.cat([x, x + 1e-4 * noise(x.shape, 1), x + 1e-6 * noise(x.shape, 2), x[:3], 2 * x[:2], 0 * x[:1]])


def images():
    """Images, and after them nearly the same, the same moved by a pixel, and all with a part that is nought."""
    x = noise((4, 3, 6, 6), 0).abs()
    x[:, :, :3, :3] = 0
    x = torch.cat([x, x + 1e-4 * noise(x.shape, 1), x + 1e-6 * noise(x.shape, 2), x[:2], x.roll(1, -1)[:2]])
    x[1:, :, :2, :2] = 0
    return x


def error(net, x):
    """The largest of both kernels, relative to the entries in double precision."""
    found = []
    for single, double in zip(net.both(x), net.both(x.double()), strict=True):
        assert single.dtype == torch.float32
        there = double != 0
        assert float(single[~there].abs().sum()) == 0
        found.append(float(((single.double() - double) / double)[there].abs().max()))
    return max(found)


@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.2), Abs()], ids=repr)
@pytest.mark.parametrize("depth", [3, 10, 30])
def test_fully_connected(depth, activation, bias):
    net = fully_connected(depth, activation, activation.mean**-0.5, bias)
    assert error(net, vectors()) < (DEEP if depth > 10 else CLOSE)


@pytest.mark.skipif(find_spec("numba") is None, reason="plain torch sums products in single precision")
def test_windows_of_photographs():
    from sklearn.datasets import load_sample_images

    pixels = torch.tensor(load_sample_images().images[1]) / 255.0
    pixels = pixels - pixels.mean((0, 1))
    # Long vectors of which many are nearly one color, so that sums of their products are rounded in one direction.
    x = pixels.unfold(0, 32, 25).unfold(1, 32, 25).reshape(-1, 3 * 32 * 32)
    net = fully_connected(3)
    for single, double in zip(net.both(x), net.both(x.double()), strict=True):
        assert float((single - double).abs().max() / double.max()) < 5e-7


@pytest.mark.parametrize("bias", [0.0, 0.05])
@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.2), Abs()], ids=repr)
@pytest.mark.parametrize("depth", [3, 10])
def test_flattened_convolutions(depth, activation, bias):
    net = convolutional(depth, activation=activation, W_std=activation.mean**-0.5, b_std=bias)
    assert error(net, images()) < CLOSE


def test_residual_and_normalized():
    block = lambda affine: Residual(LayerNorm(), ReLU(), affine)
    net = Serial(Dense(ROOT, 0.05), *[block(Dense(ROOT, 0.05)) for _ in range(5)], LayerNorm(), ReLU(), Dense(ROOT))
    assert error(net, vectors()[:-1]) < CLOSE
    net = Serial(Conv(3, ROOT, 0.05), *[block(Conv(3, ROOT, 0.05)) for _ in range(3)], LayerNorm(over="all"), ReLU(),
                 Flatten(), Dense(ROOT))
    assert error(net, images()) < CLOSE


@pytest.mark.parametrize("depth", [5, 7])
def test_pooled_stages_are_as_exact_for_images_that_differ(depth):
    x = F.pad(images(), (1, 1, 1, 1))
    net, x = myrtle(depth), x[[0, 1, 4, 5, 8, 9, 12, 14]]
    assert error(net, x[:2]) < CLOSE
    # Where windows of near-duplicates are taken together, what their covariances lack is lost with the last digits.
    assert error(net, x) < 1e-4


def opposite(x):
    """Points, their opposites, and what is more or less nearly opposite to them."""
    return torch.cat([x, *(-x[:3] + off * noise(x[:3].shape, k) for k, off in enumerate((0.0, 1e-4, 1e-2, 0.1, 0.3)))])


def share(net, x):
    """The largest error of both kernels, relative to the roots of the diagonal."""
    found = []
    for single, double in zip(net.both(x), net.both(x.double()), strict=True):
        root = double.diagonal().sqrt()
        found.append(float(((single - double).abs() / (root[:, None] * root)).max()))
    return max(found)


@pytest.mark.parametrize("net", [
    *(fully_connected(depth, activation, activation.mean**-0.5, 0.05) for depth in (1, 3, 10)
      for activation in (ReLU(), LeakyReLU(0.2), Abs())),
    fully_connected(1), Serial(Dense(ROOT), LayerNorm(), ReLU(), Dropout(0.8), Dense(ROOT))], ids=str)
def test_opposite_vectors(net):
    x = noise((10, 30), 0)
    assert share(net, opposite(x)) < CLOSE
    assert share(net, torch.cat([x, -x * (1 + 1e-3 * noise((10, 1), 1))])) < CLOSE


@pytest.mark.skipif(find_spec("numba") is None, reason="plain torch takes a difference to 2")
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("turn", [1.0, 0.7, 3.1])
def test_the_tangent_kernel_falls_with_the_angle_to_the_opposite(gap, turn):
    # Of one layer it is -q gap / pi, and there is nothing else of this order.
    x = turn * torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    z = -x + turn * gap * torch.stack([-x[:, 1], x[:, 0]], 1) / turn
    found = fully_connected(1).ntk(x, z).diagonal()
    assert torch.allclose(found, torch.full_like(found, -turn**2 * gap / torch.pi), rtol=2 * gap**2 + 1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("net", [
    convolutional(1), convolutional(3), convolutional(1, "gap"), myrtle(5),
    Serial(Dense(ROOT), ReLU(), Conv(3, ROOT), ReLU(), Flatten(), Dense()),
    Serial(Conv(1, ROOT), ReLU(), AvgPool(2), Conv(3), ReLU(), GlobalAvgPool(), Dense()),
    Serial(Residual(Dense(ROOT), skip=Conv(3)), LayerNorm(), ReLU(), Flatten(), Dense())], ids=str)
def test_opposite_images(net, channels):
    x = noise((4, channels, 8, 8), 0)
    assert share(net, opposite(x)) < CLOSE
    if channels == 1:
        assert share(net, x) < CLOSE


def usual(x, depth):
    """Both kernels of rectifiers by the recursion as it is usually written, in the precision of the points."""
    k = 2 * (x @ x.T) / x.shape[1]
    q = 2 * x.square().sum(1) / x.shape[1]
    t = k.clone()
    for _ in range(depth):
        size = q[:, None] * q
        root = (size - k.square()).clamp(min=0).sqrt()
        angle = torch.atan2(root, k)
        slope = 1 / 2 - angle / (2 * torch.pi)
        k = 2 * (root / (2 * torch.pi) + slope * k)
        t = k + 2 * t * slope
    return k, t


@pytest.mark.parametrize("depth", [3, 10, 30])
def test_the_usual_recursion_in_single_precision_loses_digits_on_the_same_points(depth):
    x = vectors()[:-1]
    net = fully_connected(depth)
    true = net.both(x.double())
    for found, exact in zip(usual(x.double(), depth), true, strict=True):
        # Even in double precision half of the digits of duplicates are lost.
        assert float(((found - exact) / exact).abs().max()) < 1e-6
    k, t = (float(((found.double() - exact) / exact).abs().max())
            for found, exact in zip(usual(x, depth), true, strict=True))
    assert t > 1e-4
    assert max(error(net, x), 1e-9) < t / 100
    assert k < t
