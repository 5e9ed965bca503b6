"""Networks have names and words: kernels of infinite width are kept with their machines, and made again."""

import json

import pytest
import torch
import torch.nn.functional as F

import kernelscope as ks
from kernelscope.errors import StoreCorrupt
from kernelscope.kernels import infinite
from kernelscope.kernels.infinite import (
    AvgPool,
    Conv,
    Dense,
    Dropout,
    Elementwise,
    Flatten,
    GlobalAvgPool,
    HalfLines,
    LayerNorm,
    ReLU,
    Residual,
    Serial,
    convolutional,
    fully_connected,
    myrtle,
    named,
)
from kernelscope.kernels.infinite.named import ACTIVATIONS
from kernelscope.machine.describing import described, rebuilt, same
from kernelscope.machine.describing_networks import FUNCTIONS, LAYERS, network_from, network_in_words
from tests.infinite import golden
from tests.laws import assert_close

X = golden.points((9, 5))
IMAGES = golden.points((4, 2, 4, 4))

NESTED = Serial(
    Conv((3, 1), 1.5, 0.1, padding="circular", stride=2),
    Residual(HalfLines(-0.1, 1.0), Residual(Conv(1), ReLU(), Conv(3)), Conv(1), skip=(Dense(0.5), Conv(1))),
    LayerNorm(over="all"), Elementwise(F.silu, 30), AvgPool((2, 1)), Dropout(0.9), GlobalAvgPool(), Dense(width=64),
    parameterization="standard")


def again(kernel):
    return rebuilt(json.loads(json.dumps(described(kernel))), "a file")


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "net"), [
    ("fc3", fully_connected(3)), ("fc12-gelu", fully_connected(12, infinite.GELU())),
    ("fc2-tanh", fully_connected(2, Elementwise(torch.tanh))), ("cnn3", convolutional(3)),
    ("cnn3-flatten", convolutional(3)), ("cnn4-gap", convolutional(4, "gap")),
    ("cnn4-gap-erf", convolutional(4, "gap", infinite.Erf())),
    ("cnn1-abs", convolutional(1, activation=infinite.Abs())),
    ("myrtle5", myrtle(5)), ("myrtle7", myrtle(7)), ("myrtle10-gelu", myrtle(10, infinite.GELU())),
])
def test_a_name_is_a_network(name, net):
    assert repr(named(name)) == repr(net)


@pytest.mark.parametrize("word", ACTIVATIONS)
def test_every_activation_that_has_a_word_makes_a_network(word):
    matrix = named(f"fc2-{word}").ntk(X)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12 * float(matrix.diagonal().max())


@pytest.mark.parametrize(("depth", "convolutions"), [(5, 4), (7, 6), (10, 9)])
def test_the_depth_of_a_network_of_myrtle_counts_its_weights(depth, convolutions):
    layers = myrtle(depth).layers
    assert sum(type(layer) is Conv for layer in layers) == convolutions
    assert sum(isinstance(layer, Dense) for layer in layers) == depth
    assert sum(isinstance(layer, AvgPool | GlobalAvgPool) for layer in layers) == 3


def test_networks_stand_where_kernels_do():
    assert ks.kernels.infinite.Serial is Serial
    assert set(infinite.__all__) <= set(dir(infinite))


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("net", [fully_connected(2, b_std=0.1), myrtle(5), NESTED, Serial(Flatten(), Dense())],
                         ids=["fc", "myrtle5", "nested", "flat"])
def test_a_kernel_is_made_again_from_its_words(net, kind):
    kernel = getattr(net, kind)
    other = again(kernel)
    assert repr(other) == repr(kernel)
    assert described(other) == described(kernel)
    assert same(kernel, other)
    assert torch.equal(other(IMAGES), kernel(IMAGES))
    assert not same(net.nngp, net.ntk)


def test_kernels_are_told_apart_by_their_numbers_and_not_by_their_memory():
    kernel, other = fully_connected(2).ntk, fully_connected(2).ntk
    other.memory = 12345
    assert same(kernel, other)
    assert again(other).memory == 12345
    for different in (fully_connected(3), fully_connected(2, b_std=0.1), fully_connected(2, infinite.Abs()),
                      Serial(*fully_connected(2).layers, parameterization="standard")):
        assert not same(kernel, different.ntk)
    assert same(again(2 * kernel + other), 2 * kernel + other)


def examples():
    """One of each layer, with numbers that are not those it has by itself."""
    return {"AvgPool": AvgPool((2, 1)), "Conv": Conv((3, 2), 1.5, 0.1, 2, "valid", 7), "Dense": Dense(1.5, 0.1, 7),
            "Dropout": Dropout(0.9), "LayerNorm": LayerNorm(1e-5, "all"), "Elementwise": Elementwise(torch.tanh, 31),
            "Residual": Residual(ReLU(), Dense(), skip=Dense(0.5)), "Serial": Serial(Dense(), ReLU()),
            "Cos": infinite.Cos(1.2, 0.7, 0.1), "Sin": infinite.Sin(1.2, 0.7, 0.1), "Erf": infinite.Erf(1.2, 0.7, 0.1),
            "Exp": infinite.Exp(1.2, 0.7), "Gaussian": infinite.Gaussian(1.2, -0.7), "RBF": infinite.RBF(0.7),
            "ExpNormalized": infinite.ExpNormalized(0.7, -0.5), "HalfLines": HalfLines(0.1, 0.9),
            "Hermite": infinite.Hermite(3), "Monomial": infinite.Monomial(3), "LeakyReLU": infinite.LeakyReLU(0.3)}


@pytest.mark.parametrize("name", examples())
def test_every_layer_keeps_its_numbers_in_words(name):
    layer = examples()[name]
    words = json.loads(json.dumps(network_in_words(layer)))
    other = network_from(words)
    assert type(other) is LAYERS[name] is type(layer)
    assert repr(other) == repr(layer)
    assert network_in_words(other) == words


@pytest.mark.filterwarnings("ignore:Elementwise.softsign.*off by")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_with_a_name_can_be_integrated_and_made_again(name):
    layer = Elementwise(FUNCTIONS[name], 100)
    assert network_from(network_in_words(layer)).function is FUNCTIONS[name]


def test_a_function_of_ones_own_has_no_words():
    net = Serial(Dense(), Residual(Elementwise(lambda u: u * u.tanh()), Dense()), Dense())
    assert described(net.ntk) is None
    assert not same(net.ntk, net.ntk)


@pytest.mark.parametrize("net", [
    3, [1], {}, {"layer": "Dense"}, {"layer": ["Serial"]}, {"layer": "Serial", "layers": 3},
    {"layer": "Serial", "layers": [{"layer": "open"}]},
    {"layer": "Serial", "layers": [{"layer": "Dense", "W_std": -1.0}]},
    {"layer": "Serial", "layers": [{"layer": "Dense", "depth": 2}]}, {"layer": "Serial", "layers": ["Dense"]},
    {"layer": "Serial", "layers": [{"layer": "Dense"}, {"layer": "ReLU"}]},
    {"layer": "Serial", "layers": [{"layer": "Elementwise", "function": {"function": "system"}}, {"layer": "Dense"}]},
    {"layer": "Serial", "layers": [{"layer": "Dense", "W_std": {"function": "tanh"}}]},
], ids=str)
def test_words_that_no_network_has_are_refused(net):
    with pytest.raises(StoreCorrupt, match="names a kernel that is not known"):
        rebuilt({"kernel": "Network", "which": "ntk", "net": net, "memory": 1000}, "a file")


@pytest.mark.parametrize("change", [{"which": "torch"}, {"which": 1}, {"memory": "much"}, {"memory": -1}, {"more": 1}],
                         ids=str)
def test_a_changed_description_is_refused(change):
    words = described(fully_connected(1).ntk) | change
    with pytest.raises(StoreCorrupt, match="names a kernel that is not known"):
        rebuilt(words, "a file")


@pytest.mark.parametrize(("net", "x"), [(fully_connected(2, b_std=0.1), X), (convolutional(1, "gap"), IMAGES)],
                         ids=["fc", "gap"])
def test_a_machine_is_kept_with_its_kernel(net, x, tmp_path):
    y = x.flatten(1).sum(1)
    machine = ks.fit(net.ntk, x, y, ridge=1e-3)
    machine.save(tmp_path / "machine")
    other = ks.KernelMachine.load(tmp_path / "machine")
    assert same(other.kernel, net.ntk)
    assert_close(other(x), machine(x), 1e-14)
