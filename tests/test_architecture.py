import copy
import json
import tracemalloc
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kernelscope.architecture import DEEPEST, LAYERS, describe, rebuild
from kernelscope.errors import UnsafeFile

ONE_OF_EACH = [
    nn.Identity(),
    nn.Linear(3, 4, bias=False),
    nn.Linear(np.int64(3), 4),
    nn.Conv1d(2, 4, 3, padding="same", padding_mode="circular"),
    nn.Conv2d(2, 4, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False),
    nn.Conv3d(2, 4, 3, padding="valid"),
    nn.ConvTranspose1d(2, 4, 3),
    nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1),
    nn.ConvTranspose3d(2, 4, 3, bias=False),
    nn.Embedding(10, 3, padding_idx=-1, max_norm=1.0),
    nn.Flatten(2),
    nn.Unflatten(1, (2, -1)),
    nn.Dropout(0.25), nn.Dropout1d(), nn.Dropout2d(inplace=True), nn.Dropout3d(), nn.AlphaDropout(),
    nn.FeatureAlphaDropout(),
    nn.BatchNorm1d(4), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm3d(4, affine=False, track_running_stats=False),
    nn.InstanceNorm1d(4), nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm3d(4, track_running_stats=True),
    nn.LayerNorm((2, 3)), nn.LayerNorm(3, bias=False), nn.LayerNorm(3, elementwise_affine=False),
    nn.RMSNorm(3), nn.RMSNorm(3, eps=1e-5, elementwise_affine=False),
    nn.GroupNorm(2, 4, affine=False),
    nn.LocalResponseNorm(2),
    nn.MaxPool1d(2), nn.MaxPool2d((2, 1), stride=1, ceil_mode=True), nn.MaxPool3d(2, padding=1),
    nn.AvgPool1d(2), nn.AvgPool2d(2, divisor_override=3), nn.AvgPool3d(2, count_include_pad=False),
    nn.AdaptiveAvgPool1d(2), nn.AdaptiveAvgPool2d((None, 2)), nn.AdaptiveAvgPool3d(1),
    nn.AdaptiveMaxPool1d(2), nn.AdaptiveMaxPool2d((1, 2)), nn.AdaptiveMaxPool3d(1),
    nn.PixelShuffle(2), nn.PixelUnshuffle(2),
    nn.ReLU(inplace=True), nn.ReLU6(), nn.SELU(), nn.SiLU(), nn.Mish(), nn.Hardsigmoid(), nn.Hardswish(),
    nn.Sigmoid(), nn.Tanh(), nn.Softsign(), nn.Tanhshrink(), nn.LogSigmoid(), nn.Softmax2d(),
    nn.Softmax(dim=1), nn.LogSoftmax(-1), nn.Softmin(1), nn.GLU(),
    nn.ELU(0.5), nn.CELU(2), nn.Hardshrink(0.1), nn.Softshrink(0.1),
    nn.GELU("tanh"), nn.LeakyReLU(0.3), nn.RReLU(), nn.Hardtanh(0, 6), nn.Threshold(0.1, 20), nn.Softplus(2.0),
    nn.PReLU(3),
]  # fmt: skip


def through_json(spec):
    return json.loads(json.dumps(spec, allow_nan=False, sort_keys=True))


def assert_alike(model, other):
    assert repr(model) == repr(other)
    for mine, theirs in zip(
        [*model.named_parameters(), *model.named_buffers()], [*other.named_parameters(), *other.named_buffers()],
        strict=True,
    ):  # fmt: skip
        assert mine[0] == theirs[0]
        assert (mine[1].shape, mine[1].dtype, mine[1].requires_grad) == (
            theirs[1].shape, theirs[1].dtype, theirs[1].requires_grad)  # fmt: skip
    assert [m.training for m in model.modules()] == [m.training for m in other.modules()]


@pytest.mark.parametrize("layer", ONE_OF_EACH, ids=repr)
def test_a_layer_is_rebuilt_from_its_description(layer):
    spec = describe(layer)
    assert spec is not None
    assert_alike(layer, rebuild(through_json(spec)))


def test_every_layer_of_the_table_is_tried():
    assert {type(layer) for layer in ONE_OF_EACH} == set(LAYERS)


layers = st.sampled_from(
    [
        lambda width: nn.Linear(width, width),
        lambda width: nn.Linear(width, width, bias=False).double(),
        lambda width: nn.BatchNorm1d(width),
        lambda width: nn.LayerNorm(width).eval(),
        lambda width: nn.Linear(width, width).requires_grad_(False),
        lambda width: nn.GroupNorm(1, width).to(torch.bfloat16),
        lambda width: nn.Dropout(0.1),
        lambda width: nn.ReLU(inplace=True),
        lambda width: nn.GELU(),
        lambda width: nn.Unflatten(1, (1, width)),
        lambda width: nn.Flatten(),
    ]
).flatmap(lambda make: st.integers(1, 8).map(make))
models = st.recursive(
    layers,
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: nn.Sequential(*copy.deepcopy(parts)).train(True)),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(model=models, evaluating=st.booleans())
def test_a_random_chain_is_rebuilt_from_its_description(model, evaluating):
    model.train(not evaluating)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert_alike(model, rebuild(through_json(describe(model)), parameters=expected))


def test_the_rebuilt_model_computes_the_same_function():
    model = nn.Sequential(
        OrderedDict(
            convolution=nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"),
            norm=nn.BatchNorm2d(4), act=nn.SiLU(), pool=nn.MaxPool2d(2), flat=nn.Flatten(),
            head=nn.Sequential(nn.Linear(64, 10), nn.LogSoftmax(1)),
        )
    )  # fmt: skip
    x = torch.rand(5, 1, 8, 8)
    model(x)
    other = rebuild(through_json(describe(model)))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))


def test_one_activation_used_twice_is_not_a_tie():
    act = nn.Tanh()
    model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act)
    assert_alike(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh()), rebuild(describe(model)))


def test_describing_and_rebuilding_leave_the_model_and_the_random_state_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    first, second = rebuild(describe(model)), rebuild(describe(model))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(module.training for module in model.modules())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def shared():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, layer)


def views_of_one_tensor():
    model, flat = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)), torch.zeros(8)
    model[0].weight, model[1].weight = nn.Parameter(flat[:4].view(2, 2)), nn.Parameter(flat[4:].view(2, 2))
    return model


def hooked():
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def overridden():
    model = nn.Linear(3, 3)
    model.forward = lambda x: x
    return model


def changed():
    model = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    model.padding = (2, 2)
    return model


def with_extra_buffer():
    model = nn.Linear(3, 3)
    model.register_buffer("scale", torch.ones(3))
    return model


def half_frozen_dtypes():
    model = nn.Linear(3, 3)
    model.bias = nn.Parameter(model.bias.double())
    return model


def itself():
    model = nn.Sequential()
    model.add_module("again", model)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: Doubled(3, 3), tied, shared, views_of_one_tensor, hooked, overridden, changed, with_extra_buffer,
        half_frozen_dtypes, itself,
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3)),
        lambda: nn.ModuleList([nn.Linear(3, 3)]),
        lambda: nn.LazyLinear(3),
        lambda: nn.MaxPool1d(2, return_indices=True),
        lambda: nn.Hardtanh(0.0, float("inf")),
        lambda: nn.Dropout(torch.tensor(0.5)),
        lambda: type("Sequential", (nn.Sequential,), {})(nn.Linear(3, 3)),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_said_has_no_description(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make()
    assert describe(model) is None


LINEAR = {"module": "Linear", "training": True, "dtype": "float32", "frozen": [],
          "arguments": {"in_features": 3, "out_features": 2, "bias": True}}  # fmt: skip


def linear(**arguments):
    return {**LINEAR, "arguments": {**LINEAR["arguments"], **arguments}}


def chain(*children, **entries):
    return {"module": "Sequential", "training": True, "children": list(children), **entries}


def nested(depth):
    spec = LINEAR
    for _ in range(depth):
        spec = chain(["0", spec])
    return spec


HOSTILE = {
    "nothing": None,
    "a list": [],
    "a string": "Linear",
    "an empty object": {},
    "an unknown layer": {**LINEAR, "module": "os.system"},
    "a layer by its path": {**LINEAR, "module": "torch.nn.Linear"},
    "a dunder": {**LINEAR, "module": "__class__"},
    "a layer that is no name": {**LINEAR, "module": ["Linear"]},
    "a missing entry": {key: value for key, value in LINEAR.items() if key != "frozen"},
    "an extra entry": {**LINEAR, "forward": "eval"},
    "an extra argument": linear(device="cuda"),
    "a missing argument": {**LINEAR, "arguments": {"in_features": 3}},
    "arguments in a list": {**LINEAR, "arguments": [3, 2, True]},
    "a text for a size": linear(in_features="3"),
    "a flag for a size": linear(in_features=True),
    "a fraction for a size": linear(in_features=3.5),
    "a size for a flag": linear(bias=1),
    "a negative size": linear(in_features=-1),
    "a size beyond all bounds": linear(in_features=10**30),
    "a huge layer": linear(in_features=2**31, out_features=2**31),
    "a large layer": linear(in_features=2**16, out_features=2**16),
    "many large layers": chain(*([str(i), linear(in_features=2**13, out_features=2**13)] for i in range(50))),
    "huge buffers": {"module": "BatchNorm1d", "training": True, "dtype": "float32", "frozen": [], "arguments": {
        "num_features": 2**31, "eps": 1e-5, "momentum": 0.1, "affine": False, "track_running_stats": True}},
    "groups that do not divide": {"module": "GroupNorm", "training": True, "dtype": "float32", "frozen": [],
                                  "arguments": {"num_groups": 3, "num_channels": 4, "eps": 1e-5, "affine": True}},
    "division by zero": {"module": "GroupNorm", "training": True, "dtype": "float32", "frozen": [],
                         "arguments": {"num_groups": 0, "num_channels": 4, "eps": 1e-5, "affine": True}},
    "a probability above one": {"module": "Dropout", "training": True, "dtype": None, "frozen": [],
                                "arguments": {"p": 2.0, "inplace": False}},
    "not a number": {"module": "Dropout", "training": True, "dtype": None, "frozen": [],
                     "arguments": {"p": float("nan"), "inplace": False}},
    "a wrong choice": {"module": "GELU", "training": True, "dtype": None, "frozen": [],
                       "arguments": {"approximate": "__import__('os')"}},
    "too many dimensions": {"module": "LayerNorm", "training": True, "dtype": "float32", "frozen": [], "arguments": {
        "normalized_shape": [1] * 10**5, "eps": 1e-5, "elementwise_affine": True, "bias": True}},
    "no dimensions": {"module": "LayerNorm", "training": True, "dtype": "float32", "frozen": [], "arguments": {
        "normalized_shape": [], "eps": 1e-5, "elementwise_affine": True, "bias": True}},
    "an index out of range": {"module": "Embedding", "training": True, "dtype": "float32", "frozen": [], "arguments": {
        "num_embeddings": 3, "embedding_dim": 2, "padding_idx": 7, "max_norm": None, "norm_type": 2.0,
        "scale_grad_by_freq": False, "sparse": False}},
    "an unknown dtype": {**LINEAR, "dtype": "int8"},
    "a dtype that is no text": {**LINEAR, "dtype": {}},
    "a mode that is no flag": {**LINEAR, "training": "yes"},
    "a frozen stranger": {**LINEAR, "frozen": ["../../weight"]},
    "frozen that is no list": {**LINEAR, "frozen": "weight"},
    "children that are no list": chain(children={"0": LINEAR}),
    "a child without a name": chain(LINEAR),
    "a child with a number": chain([0, LINEAR]),
    "a child with an empty name": chain(["", LINEAR]),
    "a child with a path": chain(["a.b", LINEAR]),
    "a child called forward": chain(["forward", LINEAR]),
    "a child called twice": chain(["0", LINEAR], ["0", LINEAR]),
    "a child with an endless name": chain(["x" * 10**6, LINEAR]),
    "a deep nest": nested(DEEPEST + 1),
    "a very deep nest": nested(5000),
    "too many modules": chain(*([str(i), {**LINEAR, "module": "Identity", "arguments": {}}] for i in range(10_001))),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused_and_takes_no_memory(name):
    tracemalloc.start()
    try:
        with pytest.raises(UnsafeFile) as caught:
            rebuild(HOSTILE[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.endswith("open the run.")
    assert len(message) < 1000
    assert peak < 30_000_000


@pytest.mark.parametrize(
    "expected",
    [{}, {"weight": (2, 3)}, {"weight": (2, 3), "bias": (3,)}, {"weight": (2, 3), "bias": (2,), "scale": (1,)}],
)
def test_a_description_with_other_parameters_than_expected_is_refused(expected):
    with pytest.raises(UnsafeFile, match="not those expected"):
        rebuild(LINEAR, parameters=expected)


def test_a_description_with_the_parameters_and_buffers_expected_is_accepted():
    rebuild(LINEAR, parameters={"weight": [2, 3], "bias": [2]}, buffers={})


def test_expected_parameters_replace_the_cap_but_not_the_look():
    large = linear(in_features=2**20, out_features=2**20)
    with pytest.raises(UnsafeFile, match="not those expected"):
        rebuild(large, parameters={"weight": (2, 3), "bias": (2,)})


def test_a_deep_chain_within_the_limit_is_rebuilt():
    model = nn.Linear(2, 2)
    for _ in range(DEEPEST):
        model = nn.Sequential(model)
    assert_alike(model, rebuild(describe(model)))
    assert describe(nn.Sequential(model)) is None
