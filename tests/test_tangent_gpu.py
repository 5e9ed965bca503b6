"""Tangent kernels computed on a GPU are those of a processor."""

import pytest
import torch

import kernelscope as ks
from tests import oracles
from tests.laws import assert_close
from tests.networks import NETWORKS, inputs, make

pytestmark = pytest.mark.gpu

N = 6


def moved(x, device, dtype=None):
    if isinstance(x, tuple):
        return tuple(moved(t, device, dtype) for t in x)
    return x.to(device, dtype if x.is_floating_point() else None)


def error(found, truth):
    return float((found.double().cpu() - truth.double()).abs().max() / truth.double().abs().max())


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_product_of_jacobians(device, name, outputs):
    x = inputs(name, N)
    jacobian = oracles.jacobian(make(name), x)
    truth = oracles.products(jacobian, jacobian, outputs)
    for dtype, most in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        given = moved(x, device, dtype)
        kernel = ks.kernels.Tangent(make(name).to(device, dtype), outputs=outputs)
        block = kernel(given)
        assert block.device.type == device.type
        assert error(block, truth) <= most
        v = torch.randn(block.shape[block.ndim // 2:], dtype=dtype, device=device)
        found = ks.KernelOperator(kernel, given) @ v
        assert error(found, torch.tensordot(block.double().cpu(), v.double().cpu(), v.ndim)) <= most


@pytest.mark.parametrize(("precision", "most"), [("tf32", 3e-3), ("bf16", 3e-2)])
def test_rounded_products_are_off_by_what_is_stated(device, precision, most):
    for name in ("a perceptron", "convolutions with stride, padding, dilation and groups", "a transformer"):
        x = moved(inputs(name, 24), device, torch.float32)
        kernel = ks.kernels.Tangent(make(name).to(device, torch.float32), precision=precision)
        assert kernel.check(x).error <= most
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_memory_of_the_gpu_is_bounded_by_the_budget(device):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(32 * 256, 10)).to(device)
    x = torch.randn(1024, 3, 16, 16, device=device)
    kernel = ks.kernels.Tangent(model, memory="1GB")
    kernel(x[:8])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kernel(x)
    assert torch.cuda.max_memory_allocated() - before <= 1e9


def test_points_may_stay_on_the_processor(device):
    name = "a perceptron"
    x = inputs(name, N)
    kernel = ks.kernels.Tangent(make(name).to(device))
    assert_close(kernel(x).cpu(), kernel(x.to(device)).cpu())
