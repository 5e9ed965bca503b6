"""Networks that look harmless for the first samples: what is told of them is right, or is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import ModelError, NonFiniteError
from tests import oracles
from tests.laws import assert_close


class Network(nn.Module):
    """Two maps a and b of the same shape, a readout, and a function of all of them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.o, self.function = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2), function

    def forward(self, x):
        return self.function(self, x)


def points(n=20, seed=3):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alone(model, x):
    """The gradients of samples that come one at a time."""
    return torch.cat([oracles.jacobian(model, x[i:i + 1]) for i in range(len(x))])


def assert_right(model, x, outputs):
    truth = oracles.products(*[alone(model, x)] * 2, outputs)
    kernel = ks.kernels.Tangent(model, outputs=outputs)
    assert_close(kernel(x), truth)
    v = torch.randn(truth.shape[truth.ndim // 2:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = torch.tensordot(truth, v, v.ndim)
    assert_close(ks.KernelOperator(kernel, x) @ v, product)
    assert_close(kernel.features.push(x, kernel.features.pull(x, v if v.ndim == 2 else v[:, None].expand(-1, 2))),
                 torch.einsum("icp,jdp,jd->ic", *[alone(model, x)] * 2, v if v.ndim == 2 else v[:, None].expand(-1, 2)))
    assert kernel.check(x).error <= 1e-10
    return kernel


def gated_without_gradient(net, x):
    with torch.no_grad():
        gate = net.a(x).sigmoid()
    return net.o(net.a(x) * gate)


def beside_a_frozen_copy(net, x):
    with torch.no_grad():
        then = net.o(net.b(x).tanh())
    return net.o(net.a(x).tanh()) - then


def fixed_point(net, x):
    h = torch.zeros(len(x), 6, dtype=x.dtype)
    with torch.no_grad():
        for _ in range(20):
            h = (0.3 * net.a(x) + 0.2 * h).tanh()
    return net.o((0.3 * net.a(x) + 0.2 * h).tanh())


def halved_on_the_way_back(net, x):
    h = net.a(x).tanh()
    if h.requires_grad:
        h.register_hook(lambda g: 0.5 * g)
    return net.o(h)


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("function", [gated_without_gradient, beside_a_frozen_copy, fixed_point,
                                      halved_on_the_way_back])
def test_products_leave_out_what_the_backward_pass_leaves_out(function, outputs):
    assert_right(Network(function).double(), points(), outputs)


def test_products_of_operations_without_a_second_derivative():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag, self.o = nn.EmbeddingBag(7, 5, mode="sum"), nn.Linear(5, 2)

        def forward(self, tokens):
            return self.o(self.bag(tokens).tanh())

    tokens = torch.randint(0, 7, (9, 4), generator=torch.Generator().manual_seed(0))
    assert_right(Bag().double(), tokens, "full")


def sorted_by_first(net, x):
    order = x[:, 0].argsort(stable=True)
    return net.o(net.a(x[order]).tanh()[order.argsort()])


def sorted_in_place_of(net, x):
    back = torch.empty_like(x[:, :2])
    order = x[:, 0].argsort(stable=True)
    back[order] = net.o(net.a(x[order]).tanh())
    return back


def routed(net, x):
    chosen, h = x[:, 0] > 0, torch.empty(len(x), 6, dtype=x.dtype)
    h[chosen], h[~chosen] = net.a(x[chosen]), net.b(x[~chosen])
    return net.o(h.tanh())


def refined_where_large(net, x):
    h, large = net.a(x).tanh(), x[:, 0] > 0
    again = h.clone()
    again[large] = net.a(h[large][:, :5]).tanh()
    return net.o(again)


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("function", [sorted_by_first, sorted_in_place_of, routed, refined_where_large])
def test_samples_are_found_wherever_the_network_puts_them(function, outputs):
    x = points()
    # The first three are in order, and go one way; the others do not.
    x[:3, 0], x[3:6, 0] = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([-0.3, -0.1, -0.2])
    assert_right(Network(function).double(), x, outputs)


def test_points_of_the_two_sides_may_go_different_ways():
    model = Network(routed).double()
    x, z = points(4).abs(), -points(6, seed=4).abs()
    truth = torch.einsum("icp,jcp->ij", alone(model, x), alone(model, z))
    assert_close(ks.kernels.Tangent(model)(x, z), truth)


def test_two_samples_that_change_places_late_in_a_batch_are_seen():
    x = points(64)
    x[:, 0] = torch.arange(64.0)
    x[[40, 41], 0] = x[[41, 40], 0]
    assert_right(Network(sorted_by_first).double(), x, "trace")


@pytest.mark.parametrize("function", [
    lambda net, x: net.o(x @ net.a.weight.T / (1 + (x.abs().max() > 3))),
    lambda net, x: net.o(net.a(x) if len(x) <= 10 else net.b(x)) if len(x) < 12 else net.o(net.a(x)) * 2,
    lambda net, x: net.o(net.a(x)) * (1 + (x[:, :1] > x[:, :1].median())),
], ids=["maximum", "number", "median"])
def test_samples_that_depend_on_those_beside_them_are_refused_whenever_they_are_seen(function):
    x = points(24)
    x[:3] = 0.1 * x[:3]
    x[9:, 0] += 7.0
    with pytest.raises(ModelError, match="depend on the samples beside it"):
        ks.kernels.Tangent(Network(function).double())(x)


def test_one_parameter_in_two_roles():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.c = nn.Parameter(torch.randn(25)), nn.Parameter(torch.randn(5))

        def forward(self, x):
            return F.linear(x, self.b.view(5, 5), self.c) + F.linear(x, self.c.view(1, 5))

    assert_right(Both().double(), points(), "full")


def test_a_network_that_transforms_functions_itself():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 2)

        def forward(self, x):
            return torch.func.vmap(lambda row: self.a(row).tanh())(x)

    assert_right(Inner().double(), points(), "full")


def test_products_that_overflow_are_refused():
    with pytest.raises(NonFiniteError, match="A product of gradients is NaN or infinite"):
        ks.kernels.Tangent(nn.Linear(500, 10).half())(20 * torch.ones(3, 500).half())


def test_tables_that_count_the_batch_are_refused():
    model = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ModelError, match="scale_grad_by_freq=True"):
        ks.kernels.Tangent(model)
