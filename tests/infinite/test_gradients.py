"""Kernels of images are differentiated by their points, as differences of the kernels themselves say."""

import pytest
import torch

from kernelscope.kernels.infinite import (
    GELU,
    AvgPool,
    Conv,
    Dense,
    Elementwise,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    SelfAttention,
    Serial,
    convolutional,
)
from tests.infinite import golden
from tests.laws import assert_close

NETS = [
    convolutional(2, b_std=0.1), convolutional(2, "gap"), convolutional(1, "flatten", GELU()),
    convolutional(1, "gap", Elementwise(torch.tanh), W_std=1.0),
    Serial(Conv(3, 1.4), ReLU(), AvgPool(2), Conv(3, 1.2, 0.1), ReLU(), GlobalAvgPool(), Dense()),
    Serial(Conv(3, 1.4), ReLU(), AvgPool(2), Flatten(), Dense(), ReLU(), Dense()),
    Serial(Conv(3), Residual(LayerNorm(), ReLU(), Conv(3)), Flatten(), Dense()),
    Serial(Conv(3), ReLU(), Flatten(), Dense(), parameterization="standard"),
    Serial(Conv(3), SelfAttention(), GlobalAvgPool(), Dense()),
]


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("net", NETS, ids=str)
def test_gradients_are_limits_of_differences(net, kind):
    kernel, points = getattr(net, kind), golden.points((4, 2, 4, 4))
    x, z, step = points[:2].clone().requires_grad_(), points[2:].clone().requires_grad_(), 1e-5
    v, w, ahead = (golden.points((k, 2, *shape)) for k, shape in ((2, ()), (2, ()), (2, (2, 4, 4))))
    ahead = ahead[0]
    assert_close(kernel(x, z).detach(), kernel(x.detach(), z.detach()), 1e-9)
    for total in (lambda x, z: (v[0] * kernel(x, z)).sum(), lambda x, z: (w[0] * kernel(x)).sum()):
        by_x, by_z = torch.autograd.grad(total(x, z), (x, z), allow_unused=True)
        for gradient, one, other in ((by_x, ahead, 0 * ahead), (by_z, 0 * ahead, ahead)):
            if gradient is not None:
                high, low = (float(total(x.detach() + s * one, z.detach() + s * other)) for s in (step, -step))
                assert abs(float((gradient * ahead).sum()) - (high - low) / (2 * step)) < 1e-7


@pytest.mark.parametrize("net", NETS[:5], ids=str)
def test_gradients_at_pixels_of_nought_and_at_equal_points_are_finite(net):
    x = golden.points((3, 2, 4, 4))
    x[0, :, :3, :3] = 0
    x[1] = x[2]
    x[2, :, :, 0] = 0
    x[1] = x[2]
    x.requires_grad_()
    for call in (lambda: net.ntk(x), lambda: net.nngp(x, x.detach())):
        assert bool(torch.autograd.grad(call().sum(), x)[0].isfinite().all())


def test_nothing_is_remembered_where_nobody_asks_for_it():
    x = golden.points((2, 2, 4, 4)).requires_grad_()
    with torch.no_grad():
        assert not convolutional(1).ntk(x).requires_grad
    assert not convolutional(1).ntk(x.detach()).requires_grad
