"""Whatever a network does with its parameters, the gradient of each sample is that of the sample alone.

Some of these networks hide where their samples are, some use parameters in ways that no rule covers. The engine must be
right for all, fast where it can, and say what it could not do by factors.
"""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kernelscope.errors import ModelError
from kernelscope.features import GradientFeatures
from kernelscope.kernels import Tangent
from kernelscope.layers import Outer, Rows, merge
from kernelscope.layers.patches import patches
from tests import oracles
from tests.laws import assert_close
from tests.networks import NETWORKS, inputs, make, sequences, tokens, vectors


def assert_right(model, x, noted=()):
    """The gradients are those of a plain loop, and just the parameters in ``noted`` are noted."""
    model = model.double()
    features = GradientFeatures(model)
    assert_close(features.phi(x), oracles.jacobian(model, x))
    assert {note.split(":")[0] for note in features.notes} == set(noted)
    return features


class Network(nn.Module):
    """Linear maps a (4 to 4) and b (4 to 3), another parameter, and a function of all of them."""

    def __init__(self, function, own=None, bias=True):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4, bias=bias), nn.Linear(4, 3), function
        if own is not None:
            self.own = nn.Parameter(own)

    def forward(self, x):
        return self.function(self, x)


def fold_outer(net, x):
    return net.b(net.a(x.reshape(-1, 4)).tanh().view(len(x), -1, 4).sum(1))


def fold_inner(net, x):
    h = net.a(x.transpose(0, 1).reshape(-1, 4)).tanh()
    return net.b(h.view(x.shape[1], len(x), 4).sum(0))


def positions_first(net, x):
    return net.b(net.a(x.transpose(0, 1)).tanh().sum(0))


def samples_third(net, x):
    return net.b(net.a(x.movedim(0, 1)[None]).tanh()[0].sum(0))


def folded_second(net, x):
    h = net.a(torch.stack([x, x.sin()]).flatten(1, 2)).tanh()
    return net.b(h.view(2, len(x), -1, 4).sum((0, 2)))


LAYOUTS = [fold_outer, fold_inner, positions_first, samples_third, folded_second]


# -- where the samples are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_samples_are_found_on_any_axis(layout, n, length):
    assert_right(Network(layout), torch.randn(n, length, 4).double())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("blank", [torch.zeros_like, torch.ones_like])
def test_samples_that_are_all_the_same_do_not_hide_where_they_are(layout, blank):
    x = sequences(7)
    x[:3] = blank(x[:3])
    assert_right(Network(layout, bias=False), x)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_learned_from_one_sample_is_true_of_many(name):
    model, x = make(name), inputs(name, 6)
    features = GradientFeatures(model)
    for n in (1, 2, 6):
        part = tuple(t[:n] for t in x) if isinstance(x, tuple) else x[:n]
        assert_close(features.phi(part), oracles.jacobian(model, part))


@pytest.mark.parametrize("name", ["a transformer", "an embedding tied to its readout"])
def test_equal_sequences_of_equal_tokens(name):
    model = make(name)
    features = GradientFeatures(model)
    for x in (torch.zeros(5, 5, dtype=torch.int64), tokens(4)):
        assert_close(features.phi(x), oracles.jacobian(model, x))


def test_layers_that_start_at_zero_have_gradients():
    def function(net, x):
        h = net.a(x.transpose(0, 1).reshape(-1, 4)).view(x.shape[1], len(x), 4)
        return net.b((x.transpose(0, 1) + h).tanh().sum(0))

    model = Network(function)
    nn.init.zeros_(model.a.weight)
    nn.init.zeros_(model.a.bias)
    assert_right(model, sequences(4))


def test_numbers_of_samples_channels_and_positions_may_coincide():
    model = nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.Tanh(), nn.Conv1d(3, 3, 1),
                          nn.Flatten(), nn.Linear(9, 3))
    assert_right(model, torch.randn(3, 3, 3).double())


# -- what all samples share ------------------------------------------------------------------------------------------


def test_an_output_that_all_samples_share():
    position = nn.Embedding(5, 4)
    model = Network(lambda net, x: net.b((net.a(x) + net.position(torch.arange(5))).tanh().sum(1)))
    model.position = position
    assert_right(model, sequences(4))


@pytest.mark.parametrize("shape", [(4,), (5, 4), (1, 5, 4), (1, 1, 4), (5, 1), ()])
@pytest.mark.parametrize("times", [False, True])
def test_a_parameter_that_is_broadcast(shape, times):
    combine = torch.mul if times else torch.add
    model = Network(lambda net, x: net.b(combine(net.a(x), net.own).tanh().sum(1)), torch.randn(shape))
    assert_right(model, sequences(4))


def test_a_parameter_before_every_sequence():
    def function(net, x):
        h = torch.cat([net.own.expand(len(x), -1, -1), net.a(x)], 1)
        return net.b(h.cumsum(1).tanh().sum(1))

    assert_right(Network(function, torch.randn(1, 1, 4)), sequences(4))


def test_a_layer_applied_to_what_is_no_input():
    model = Network(lambda net, x: net.b((x.sum(1) + net.a(net.own)).tanh()), torch.randn(4))
    features = GradientFeatures(model.double())
    assert_close(features.phi(sequences(4)), oracles.jacobian(model, sequences(4)))


# -- how parameters are used -----------------------------------------------------------------------------------------


def test_modules_that_work_in_place():
    def function(net, x):
        h = net.a(x)
        h.mul_(2.0).add_(1.0).relu_()
        return net.b(h).tanh_()

    assert_right(Network(function), vectors(4))


@pytest.mark.parametrize("module", [
    nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Conv1d(5, 5, 1), nn.ConvTranspose1d(5, 5, 1), nn.LayerNorm(4),
    nn.RMSNorm(4), nn.GroupNorm(5, 5), nn.InstanceNorm1d(5, affine=True), nn.BatchNorm1d(5), nn.PReLU(),
], ids=str)
def test_an_output_that_is_changed_in_place(module):
    features = assert_right(nn.Sequential(nn.Linear(4, 4), module, nn.Softplus(), nn.Flatten(), nn.Linear(20, 3)),
                            sequences(4))
    changed = nn.Sequential(nn.Linear(4, 4), module, nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(20, 3))
    assert_right(changed, sequences(4))
    assert not features.notes


def test_an_input_that_is_changed_after_its_use():
    def function(net, x):
        h = x * 1.0
        y = h + net.own
        h.mul_(3.0)
        return net.b((y + h).tanh())

    assert_right(Network(function, torch.randn(4)), vectors(4))


def test_slices_of_a_parameter():
    def function(net, x):
        q, k = net.own.chunk(2)
        return net.b(torch.tanh(F.linear(x, q)) * torch.tanh(x @ k.T))

    assert_right(Network(function, torch.randn(8, 4)), vectors(4))


def test_slices_of_a_parameter_that_overlap():
    model = Network(lambda net, x: net.b(torch.tanh(F.linear(x, net.own[:4])) * F.linear(x, net.own[2:6])),
                    torch.randn(8, 4))
    assert_right(model, vectors(4), noted=["own"])


def test_columns_of_a_parameter_are_not_in_a_row():
    model = Network(lambda net, x: net.b(torch.tanh(F.linear(x, net.own[:, :4]))), torch.randn(4, 6))
    assert_right(model, vectors(4), noted=["own"])


@pytest.mark.parametrize("use", [
    lambda x, w: F.linear(x, w) + x @ w,
    lambda x, w: F.linear(x, w) + x.matmul(w.T),
    lambda x, w: torch.mm(x, w) + F.linear(x, w.t()),
    lambda x, w: torch.addmm(w[0], x, w),
    lambda x, w: (x @ w) * w[1] + w[2],
    lambda x, w: F.linear(x, w) + F.linear(x.sin(), w) + F.linear(x.cos(), w.transpose(0, 1)),
])
def test_one_matrix_used_in_many_ways(use):
    features = GradientFeatures(Network(lambda net, x: net.b(use(x, net.own).tanh()), torch.randn(4, 4)).double())
    assert_close(features.phi(vectors(4)), oracles.jacobian(features.network.module(()), vectors(4)))


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("slopes", [1, 3])
def test_learned_slopes_with_as_many_samples_as_outputs(slopes, n):
    model = nn.Sequential(nn.Linear(4, 3), nn.PReLU(slopes))
    assert_right(model, vectors(n))


def test_outputs_that_are_infinite_for_some_classes():
    mask = torch.tensor([0.0, -torch.inf, 0.0])
    assert_right(Network(lambda net, x: net.b(net.a(x).tanh()) + mask), vectors(4))


def test_a_slope_that_only_the_fallback_reaches():
    # The transformed gradient of torch is wrong here where there are as many samples as outputs.
    model = Network(lambda net, x: net.b(F.prelu(net.a(x), net.own.abs())), torch.tensor([0.3]))
    for n in (2, 3, 4):
        assert_right(model, vectors(n), noted=["own"])


@pytest.mark.parametrize("use", [torch.exp, lambda w: w.sort().values, lambda w: w @ w.T, lambda w: w / w.norm()])
def test_an_unknown_operation_is_noted_and_right(use):
    model = Network(lambda net, x: net.b(net.a(x).tanh() @ use(net.own)), torch.randn(4, 4))
    features = assert_right(model, vectors(5), noted=["own"])
    assert features.notes == ("own: it is used by an operation without a rule",)


def test_a_parameter_without_any_use_has_no_gradient():
    features = assert_right(Network(lambda net, x: net.b(x), torch.randn(2)), vectors(3))
    assert not features.inner_by_parameter(vectors(3))["a.weight"].any()


def test_an_output_without_any_parameter_has_no_gradient():
    model = Network(lambda net, x: torch.cat([net.b(net.a(x)), x[:, :1]], 1))
    assert_right(model, vectors(3))
    assert not Tangent(model, output=3)(vectors(3)).any()


def test_detached_uses_have_no_gradient():
    assert_right(Network(lambda net, x: net.b(net.a(x).detach().tanh() + net.a(x.sin()))), vectors(4))


@pytest.mark.parametrize("module", [
    nn.BatchNorm1d(4), nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm(4, bias=False), nn.PReLU(4),
    nn.PReLU(), nn.LayerNorm(4, elementwise_affine=False), nn.BatchNorm1d(4, affine=False),
], ids=str)
def test_normalisations(module):
    assert_right(nn.Sequential(nn.Linear(4, 4), module, nn.Tanh(), nn.Linear(4, 3)), vectors(5))


@pytest.mark.parametrize("module", [
    nn.Embedding(7, 4, padding_idx=0), nn.Embedding(7, 4, padding_idx=-1), nn.EmbeddingBag(7, 4),
    nn.Embedding(7, 4, scale_grad_by_freq=False),
], ids=str)
def test_tables(module):
    readout = nn.Linear(4 if isinstance(module, nn.EmbeddingBag) else 20, 2)
    features = GradientFeatures(nn.Sequential(module, nn.Flatten(), nn.Tanh(), readout).double())
    assert_close(features.phi(tokens(5)), oracles.jacobian(features.network.module(()), tokens(5)))


@pytest.mark.parametrize("padding", [0, (1, 0), "same", "valid"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("kernel", "stride", "dilation"),
                         [(1, 1, 1), ((1, 3), 1, (1, 2)), (3, 1, 1), (2, 2, 1), (1, 2, 1)])
def test_convolutions(kernel, stride, dilation, groups, padding):
    if padding == "same" and stride != 1:
        pytest.skip("torch has no such convolution")
    model = nn.Sequential(nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups), nn.Tanh(), nn.Flatten(),
                          nn.LazyLinear(2)).double()
    x = torch.randn(3, 4, 5, 6).double()
    model(x)
    assert_right(model, x)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_by_other_values(mode):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2))
    assert_right(model, torch.randn(3, 2, 4, 4).double())


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True},
                                     {"bias": False, "batch_first": True}], ids=str)
def test_recurrent_layers(kind, options):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = kind(4, 3, **options)

        def forward(self, x):
            out, _ = self.cells(x if options.get("batch_first") else x.transpose(0, 1))
            return out.sum(1 if options.get("batch_first") else 0)

    assert_right(Recurrent(), sequences(4))


def test_images_folded_into_sequences_and_back():
    def function(net, x):
        n, t = x.shape[:2]
        h = net.conv(x.reshape(n * t, 1, 2, 2)).tanh().flatten(1)
        return net.b(h.view(n, t, 4).sum(1))

    model = Network(function)
    model.conv = nn.Conv2d(1, 1, 3, padding=1)
    assert_right(model, sequences(4))


# -- what a network must be like -------------------------------------------------------------------------------------


def test_branches_that_depend_on_the_inputs_are_taken_sample_by_sample():
    model = Network(lambda net, x: net.b(net.a(x) if x.sum() > 0 else x * net.own), torch.randn(4)).double()
    positive, negative = vectors(4).abs(), -vectors(4).abs()
    features = GradientFeatures(model)
    assert_close(features.phi(positive), oracles.jacobian(model, positive))
    assert_close(features.phi(negative), oracles.jacobian(model, negative))
    assert "samples are not where" in features.notes[-1]


@pytest.mark.parametrize("function", [
    lambda net, x: net.b(net.a(x) - net.a(x).mean(0)),
    lambda net, x: net.b(x / x.norm()),
    lambda net, x: net.b(F.dropout(net.a(x), 0.5, training=True)),
    lambda net, x: net.b(F.batch_norm(net.a(x[:, :, None].expand(-1, -1, 4)), None, None, training=True).sum(1)),
    lambda net, x: net.b(x) * torch.arange(len(x))[:, None],
], ids=["centred", "normed", "chance", "batch statistics", "numbered"])
def test_samples_that_depend_on_each_other_or_on_chance_are_refused(function):
    with pytest.raises(ModelError, match=r"depend on the samples beside it, or on chance.*eval mode"):
        Tangent(Network(function).double())(vectors(5))


def test_batch_statistics_are_those_of_evaluation():
    model = make("a residual network with BatchNorm").train()
    x = inputs("a residual network with BatchNorm", 4)
    assert_close(Tangent(model)(x), Tangent(copy.deepcopy(model).eval())(x))


def test_nothing_of_the_users_changes():
    model = make("a transformer").train()
    model.register_buffer("counter", torch.zeros(1))
    called = []
    model.head.register_forward_hook(lambda *a: called.append(a))
    model.head.weight.grad = torch.ones_like(model.head.weight)
    model.embed.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: t.clone() for name, t in model.state_dict().items()}
    places = {name: t.data_ptr() for name, t in model.state_dict().items()}
    x = inputs("a transformer", 4)
    before, chance = x.clone(), torch.get_rng_state()
    with warnings.catch_warnings():
        # Which hooks are left behind may be told; that they stay on the module is asked here.
        warnings.simplefilter("ignore")
        k = Tangent(model, outputs="full")
    k(x)
    k.matmul(x, None, torch.ones(4, 3))
    k.diagonal(x)
    k.check(x)
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.equal(x, before)
    assert all(torch.equal(t, state[name]) and t.data_ptr() == places[name] for name, t in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not called
    assert len(model.head._forward_hooks) == 1
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "head.weight")
    assert all(p.requires_grad for p in model.parameters())


def test_buffers_that_a_network_writes_are_left_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.inner(x) + 0 * self.calls

    model = Counting().double()
    features = GradientFeatures(model)
    assert_close(features.phi(vectors(4)), oracles.jacobian(model, vectors(4)))
    features.push(vectors(4), torch.ones(15))
    assert not model.calls
    assert not features.network.buffers["calls"]


def test_a_kernel_stays_at_the_parameters_it_was_made_at():
    model, x = make("a perceptron"), vectors(4)
    k = Tangent(model)
    before = k(x)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(k(x), before)


def test_grad_mode_is_the_callers():
    model, x = make("a perceptron"), vectors(4)
    k = Tangent(model)
    true = Tangent(model)(x)
    pairs = Tangent(model, outputs="full")
    blocks = torch.tensordot(pairs(x), x[:, :3], 2)
    with torch.no_grad():
        assert_close(Tangent(model)(x), true)
    with torch.inference_mode():
        assert_close(k(x), true)
        assert_close(Tangent(model)(x + 0), true)
        assert_close(k.matmul(x, None, x + 0), true @ x)
        assert_close(pairs.matmul(x + 0, None, x[:, :3] + 0), blocks)
    assert torch.is_grad_enabled()
    assert not true.requires_grad


# -- factors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_rows_of_a_factor_are_sums_of_outer_products(groups, first):
    n, c, t, da, db = 2, 3, 4, 5, 2
    a, b = torch.randn(n, groups, t, da), torch.randn(n, c, groups, t, db)
    rows = Outer(a, b, first).rows()
    for i in range(n):
        for j in range(c):
            blocks = [sum(torch.outer(b[i, j, g, s], a[i, g, s]) for s in range(t)) for g in range(groups)]
            true = torch.cat([(block.T if first else block).flatten() for block in blocks])
            assert_close(rows[i, j], true, 1e-5)


def test_uses_of_one_parameter_are_summed_before_products():
    a, b = torch.randn(2, 2, 1, 4, 5).unbind(), torch.randn(2, 2, 3, 1, 4, 2).unbind()
    outers = [Outer(*pair) for pair in zip(a, b, strict=True)]
    true = outers[0].rows() + outers[1].rows()
    assert_close(merge(outers).rows(), true, 1e-5)
    assert_close(merge([outers[0], Rows(outers[1].rows())]).rows(), true, 1e-5)


def test_patches_are_what_a_convolution_multiplies():
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 3, 2)
    cut = patches(x, (3, 2), (2, 1), [(1, 1), (0, 1)], (1, 2), groups=2)
    found = torch.einsum("ngld,ged->ngel", cut, weight.view(2, 3, -1)).flatten(1, 2)
    true = F.conv2d(F.pad(x, (0, 1, 1, 1)), weight, stride=(2, 1), dilation=(1, 2), groups=2).flatten(2)
    assert_close(found, true, 1e-5)
