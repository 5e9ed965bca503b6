import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import ConversionRefused, DataError, NonFiniteError
from kernelscope.nn import ConversionReport, ModeComparison, SNNKLinear, compare_modes, convert
from kernelscope.nn.layers.activations import ACTIVATIONS, as_activation
from kernelscope.nn.layers.baselines import least_squares, svd_floor
from kernelscope.nn.layers.selection import forward_selection, span_of
from kernelscope.progress import telling
from kernelscope.result import Result

from .digits_layers import accuracy, trained

NETWORKS = [(activation, width) for activation in ("tanh", "gelu", "relu") for width in (128, 256)]


def small(n=400, d=6, l=40, dtype=torch.float64, seed=0):
    """A layer and inputs to it."""
    draw = torch.Generator().manual_seed(seed)
    linear = nn.utils.skip_init(nn.Linear, d, l, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(l, d, generator=draw) / 2)
        linear.bias.copy_(torch.randn(l, generator=draw) / 3)
    return linear, (torch.randn(n, d, generator=draw) / 2).to(dtype)


# What must be shown: layers of networks trained on digits, on images that neither training nor the fit has seen.

@pytest.mark.parametrize(("activation", "width"), NETWORKS)
@pytest.mark.parametrize("place", [0, 2])
def test_a_trained_layer_is_met_by_32_features(activation, width, place):
    net = trained(activation, width)
    assert accuracy(net) > 0.96
    x, unseen = (net[:place](ks.data.digits(split).x) for split in ("train", "test"))
    found = {mode: SNNKLinear.from_linear(net[place], net[place + 1], x, 32, mode, held_out=unseen)[1]
             for mode in ("ridge", "cur")}
    # The floor is that of 32 features alone; the linear skip may bring a layer below it.
    assert found["cur"].rel_frob <= 1.7 * found["cur"].svd_floor
    assert found["ridge"].rel_frob <= 2.2 * found["ridge"].svd_floor
    assert all(report.rel_frob < report.linear_rel for report in found.values())
    alone = SNNKLinear.from_linear(net[place], net[place + 1], x, 32, "cur", held_out=unseen, skip=False)[1]
    assert alone.svd_floor <= alone.rel_frob <= 1.7 * alone.svd_floor


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
@pytest.mark.parametrize("tower", ["fourier", "rectified", "neurons"])
def test_every_tower_beats_the_linear_map(activation, tower):
    linear, x = small()
    _, report = convert(linear, activation, x, 32, tower=tower)
    assert report.tower == tower
    assert report.rel_frob < report.linear_rel


def test_a_network_with_a_converted_layer_answers_as_before():
    net = trained("gelu", 128)
    layer, report = SNNKLinear.from_linear(net[0], net[1], ks.data.digits("train").x, 64)
    other = nn.Sequential(layer, *net[2:])
    x = ks.data.digits("test").x
    assert float((other(x).argmax(1) == net(x).argmax(1)).double().mean()) > 0.98
    assert report.features == 64


# Laws.

@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_all_neurons_reproduce_the_layer(activation):
    linear, x = small(l=20)
    layer, report = convert(linear, activation, x, 20, "cur")
    assert report.rel_frob < 1e-8
    assert torch.allclose(layer(x), ACTIVATIONS[activation](linear(x)), atol=1e-8)


def test_kept_neurons_stay_as_they_are():
    linear, x = small()
    layer, report = convert(linear, "tanh", x, 10, "cur")
    kept = report.info["neurons"]
    assert len(set(kept)) == 10
    assert torch.allclose(layer(3 * x)[:, kept], torch.tanh(linear(3 * x))[:, kept], atol=1e-12)


@pytest.mark.parametrize("mode", ["ridge", "cur", "trainable"])
@pytest.mark.parametrize("skip", [True, False, 2])
def test_no_layer_is_below_the_floor(mode, skip):
    linear, x = small()
    for features in (1, 5, 12):
        layer, report = convert(linear, "tanh", x, features, mode, skip=skip, held_out=x)
        # A skip of rank r and a constant are r + 1 further features.
        rank = {True: 6, False: 0}.get(skip, skip)
        assert report.rel_frob >= svd_floor(torch.tanh(linear(x)).detach(), features + rank + 1) - 1e-12
        assert report.rel_frob >= (report.skip_floor if skip is True else 0) - 1e-12
        assert layer.tower.size == features


def test_the_floor_is_reached_by_the_best_product_and_by_no_other():
    outputs = torch.randn(30, 12, dtype=torch.float64)
    u, s, v = torch.linalg.svd(outputs, full_matrices=False)
    for m in (0, 3, 12):
        best = (u[:, :m] * s[:m]) @ v[:m]
        assert svd_floor(outputs, m) == pytest.approx(float((best - outputs).norm() / outputs.norm()), abs=1e-12)


def test_errors_are_those_of_plain_loops():
    linear, x = small(n=60, l=5)
    unseen = small(n=30, l=5, seed=1)[1]
    layer, report = convert(linear, "tanh", x, 3, held_out=unseen)
    off = total = worst = largest = 0.0
    for point in unseen:
        wanted, found = torch.tanh(linear(point)), layer(point)
        for a, b in zip(wanted.tolist(), found.tolist(), strict=True):
            off, total = off + (a - b) ** 2, total + a**2
            worst, largest = max(worst, abs(a - b)), max(largest, abs(a))
    assert report.rel_frob == pytest.approx((off / total) ** 0.5, rel=1e-10)
    assert report.rel_max == pytest.approx(worst / largest, rel=1e-10)
    wanted, found = torch.tanh(linear(unseen)), layer(unseen)
    r2 = [1 - np.var((wanted - found)[:, j].detach().numpy()) / np.var(wanted[:, j].detach().numpy()) for j in range(5)]
    mean = (wanted - found).mean(0).square() / wanted.var(0, correction=0)
    assert torch.allclose(report.r2_per_neuron, torch.tensor(r2) - mean, atol=1e-10)
    one = torch.cat((x, torch.ones(60, 1)), 1).numpy()
    theta = np.linalg.lstsq(one, torch.tanh(linear(x)).detach().numpy(), rcond=None)[0]
    said = torch.cat((unseen, torch.ones(30, 1)), 1).numpy() @ theta
    assert report.linear_rel == pytest.approx(
        np.linalg.norm(said - wanted.detach().numpy()) / np.linalg.norm(wanted.detach().numpy()), rel=1e-8)


def test_ridge_coefficients_solve_the_normal_equations():
    linear, x = small(n=100)
    layer, report = convert(linear, "tanh", x, 12, held_out=x[:10], ridge=0.01)
    phi = layer.tower(x)
    rest = layer(x) - torch.tanh(linear(x))
    # The gradient of the mean square and the penalty vanishes; free columns meet what is left at right angles.
    assert torch.allclose(phi.T @ rest / 100 + 0.01 * layer.coefficients.T, torch.zeros(12, 40).double(), atol=1e-10)
    assert torch.allclose(x.T @ rest, torch.zeros(6, 40).double(), atol=1e-9)
    assert torch.allclose(rest.sum(0), torch.zeros(40).double(), atol=1e-9)
    assert report.info["ridge"] == 0.01


def test_a_large_ridge_leaves_the_linear_map():
    linear, x = small()
    _, report = convert(linear, "tanh", x, 12, ridge=1e12)
    assert report.rel_frob == pytest.approx(report.linear_rel, rel=1e-6)


def test_a_skip_of_full_rank_is_the_full_skip_and_thin_ones_lie_between():
    linear, x = small()
    error = {skip: convert(linear, "tanh", x, 6, skip=skip, tower="fourier")[1].rel_frob
             for skip in (False, 2, 6, True)}
    assert error[6] == pytest.approx(error[True], rel=1e-6)
    assert error[True] < error[2] < error[False]


@pytest.mark.parametrize("mode", ["ridge", "cur", "trainable"])
def test_a_conversion_depends_on_its_seed_alone_and_changes_nothing(mode):
    linear, x = small(dtype=torch.float32)
    model = nn.Sequential(linear, nn.Tanh())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one, first = convert(model[0], model[1], x, 8, mode, seed=5)
    other, second = convert(model[0], model[1], x, 8, mode, seed=5)
    assert torch.equal(one(x), other(x))
    assert first.rel_frob == second.rel_frob
    assert one.coefficients.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    third = convert(model[0], model[1], x, 8, mode, seed=6)[0]
    assert not torch.equal(third(x), one(x))


def test_inputs_may_have_several_axes_and_be_held_out_by_name():
    linear, x = small()
    same = [convert(linear, "tanh", points, 8, held_out=x[:40])[1].rel_frob for points in (x, x.reshape(20, 20, 6))]
    assert same[0] == same[1]
    _, report = convert(linear, "tanh", x, 8, held_out=0.1)
    assert (report.fitted, report.held_out) == (360, 40)


def test_a_layer_without_bias_and_a_function_of_ones_own():
    linear = nn.Linear(6, 10, bias=False)
    _, x = small(dtype=torch.float32)
    layer, report = convert(linear, lambda z: z * torch.sigmoid(2 * z), x, 16)
    assert report.activation is None
    assert report.rel_frob < report.linear_rel
    assert layer.activation_name is None


def test_a_function_with_parameters_stays_the_users(tmp_path):
    linear, x = small(dtype=torch.float32)
    act = nn.PReLU()
    layer, report = convert(linear, act, x, 16)
    assert report.rel_frob < report.linear_rel
    assert act.weight.dtype == torch.float32
    assert act.weight.requires_grad
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"coefficients", "skip", "constant"}
    loaded = SNNKLinear.load(layer.save(tmp_path / "layer.safetensors"), activation=nn.PReLU())
    assert torch.equal(loaded(x), layer(x))


def test_a_trainable_layer_learns_by_gradients():
    linear, x = small(dtype=torch.float32)
    layer, report = convert(linear, "tanh", x, 16, "trainable")
    wanted = torch.tanh(linear(x)).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (layer(x) - wanted).square().mean().backward()
        optimizer.step()
    assert float((layer(x) - wanted).detach().norm() / wanted.norm()) < 0.3 * report.rel_frob


def test_points_outside_are_told_in_the_report():
    linear, x = small()
    assert convert(linear, "tanh", x, 8)[1].outside < 0.05
    report = convert(linear, "tanh", x, 8, held_out=10 * x)[1]
    assert report.outside > 0.5
    assert [row.status for row in report.check().rows if row.name == "inputs"] == ["warn"]


# Selection.

def test_forward_selection_is_what_trying_every_column_finds():
    draw = torch.Generator().manual_seed(0)
    candidates, targets = (torch.randn(25, p, generator=draw).double() for p in (9, 4))
    free = torch.ones(25, 1).double()
    chosen = []
    for _ in range(5):
        left = []
        for j in range(9):
            columns = torch.cat((free, candidates[:, [*chosen, j]]), 1)
            fit = columns @ torch.linalg.lstsq(columns, targets).solution
            left.append(float((fit - targets).norm()) if j not in chosen else float("inf"))
        chosen.append(int(np.argmin(left)))
    assert forward_selection(candidates, targets, free, 5).tolist() == chosen


def test_columns_that_are_sums_of_others_are_not_chosen():
    candidates = torch.randn(20, 3, dtype=torch.float64)
    twice = torch.cat((candidates, candidates @ torch.randn(3, 4, dtype=torch.float64)), 1)
    assert len(forward_selection(twice, torch.randn(20, 2).double(), torch.zeros(20, 0).double(), 7)) == 3


# Results.

def test_a_report_says_itself_draws_itself_and_is_kept(tmp_path):
    linear, x = small()
    _, report = convert(linear, nn.Tanh(), x, 8)
    assert re.search(r"8 features of 6 -> 40: relative error 0\.\d+ on 100 held-out inputs", repr(report))
    assert "multiplications instead of 240" in repr(report)
    assert report.to_frame()["relative error"].tolist()[0] == report.rel_frob
    ax = report.plot()
    assert f"{report.rel_frob:.3g}" in ax.get_title(loc="left")
    assert len(ax.patches) == 4
    again = Result.load(report.save(tmp_path / "report"))
    assert isinstance(again, ConversionReport)
    assert repr(again) == repr(report)
    assert torch.equal(again.r2_per_neuron, report.r2_per_neuron)
    assert report.check().ok
    assert {row.name for row in report.check().rows} >= {"linear", "floor", "neurons", "size", "inputs"}
    assert "table" in report._repr_html_()


def test_modes_are_compared_on_the_same_inputs(tmp_path):
    linear, x = small()
    found = compare_modes(linear, "tanh", x, features=[4, 16], modes=["ridge", "cur", "analytic"])
    table = found.to_frame().set_index("mode")
    assert table.loc["cur", "m=16"] == convert(linear, "tanh", x, 16, "cur")[1].rel_frob
    assert table.loc["floor", "m=4"] > table.loc["floor", "m=16"]
    assert bool(found.errors[2].isnan().all())
    assert "refused: analytic" in repr(found)
    assert "a linear map" in found.refused["analytic"]
    assert {row.name: row.status for row in found.check().rows}["ridge"] == "pass"
    ax = found.plot()
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= {"ridge", "cur", "linear map", "floor"}
    again = Result.load(found.save(tmp_path / "modes"))
    assert isinstance(again, ModeComparison)
    assert repr(again) == repr(found)


def test_a_page_shows_conversions(tmp_path):
    linear, x = small()
    page = ks.Report("Layers", [convert(linear, "tanh", x, 8)[1], compare_modes(linear, "tanh", x, [4, 8])])
    text = page.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A layer as a sum of features" in text
    assert "Ways to convert a layer" in text
    assert "What no layer of so many features can go below" in text


# What is refused.

@pytest.mark.parametrize(("change", "words"), [
    ({"features": 3}, "features must be a list"), ({"features": []}, "features must be a list"),
    ({"modes": "ridge"}, "modes must be a list"), ({"modes": ["magic"]}, "modes must be")])
def test_what_cannot_be_compared_is_refused(change, words):
    with pytest.raises(DataError, match=words):
        compare_modes(small()[0], "tanh", small()[1], **change)


@pytest.mark.parametrize(("change", "words"), [
    ({"linear": 3}, "linear must have weight"), ({"x": [1.0]}, "x_calibration must be inputs"),
    ({"x": torch.zeros(5, 7)}, r"shape \(\*, 6\)"), ({"x": torch.zeros(0, 6)}, "has no inputs"),
    ({"x": torch.zeros(2, 6)}, "Pass more"), ({"mode": "magic"}, "mode must be"), ({"features": 0}, "features must be"),
    ({"held_out": 1.5}, "held_out must be"), ({"ridge": -1.0}, "ridge must be"), ({"tower": "universal"}, "tower must"),
    ({"skip": 7}, "at most 6"), ({"activation": "swash"}, "activation must be"),
    ({"activation": lambda z: z.sum(1)}, "a function of each number"), ({"seed": -1}, "seed must be"),
    ({"x": torch.randn(8, 6)}, "do not tell")])
def test_what_cannot_be_converted_is_refused(change, words):
    linear, x = small()
    given = {"linear": linear, "activation": "tanh", "x": x} | change
    options = {key: value for key, value in given.items() if key not in ("linear", "activation", "x")}
    with pytest.raises(DataError, match=words):
        convert(given["linear"], given["activation"], given["x"], **options)


def test_numbers_that_are_not_finite_are_refused():
    linear, x = small()
    with pytest.raises(NonFiniteError, match="x_calibration"):
        convert(linear, "tanh", torch.where(torch.arange(400)[:, None] == 3, torch.nan, x))
    with pytest.raises(NonFiniteError, match="outputs"):
        convert(linear, lambda z: z.log(), x)


@pytest.mark.parametrize(("given", "name"), [
    (nn.Tanh(), "tanh"), (nn.GELU(), "gelu"), (nn.GELU(approximate="tanh"), "gelu_tanh"), (nn.SiLU(), "silu"),
    (nn.functional.relu, "relu"), (nn.Softplus(), "softplus"), (nn.Softplus(beta=2), None), (nn.ELU(), None)])
def test_activations_are_known_by_what_they_are(given, name):
    found, function = as_activation(given)
    z = torch.linspace(-3, 3, 13)
    assert found == name
    assert torch.equal(function(z), given(z))


def test_a_refusal_names_the_numbers_and_the_way_out():
    linear, x = small()
    with pytest.raises(ConversionRefused, match=r'would be off by .* a linear map is off by .*mode="ridge"'):
        convert(linear, "tanh", 20 * x, 64, "analytic")


# Inputs in sequences, few inputs, many inputs.

@pytest.mark.parametrize("mode", ["ridge", "cur"])
def test_whole_sequences_are_held_out(mode):
    linear, x = small(n=60)
    # Of a sequence that says the same three times, none is fitted while another is held out.
    times = x[:, None].expand(60, 3, 6)
    one, three = (convert(linear, "tanh", points, 8, mode, ridge=0.01)[1] for points in (x, times))
    assert (three.fitted, three.held_out) == (3 * one.fitted, 3 * one.held_out) == (135, 45)
    assert three.linear_rel == pytest.approx(one.linear_rel, rel=1e-8)
    assert three.rel_frob == pytest.approx(one.rel_frob, rel=1e-6)


def test_one_sequence_cannot_be_split():
    linear, x = small(n=60)
    with pytest.raises(DataError, match="has 1 sequences, of which 0 would be held out. Pass more, or further inputs"):
        convert(linear, "tanh", x[None], 8)


@pytest.mark.parametrize("seeds", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_few_inputs_are_never_worse_than_a_linear_map(seeds):
    without = 0
    for seed in range(seeds):
        linear, x = small(n=540, d=12, l=20, seed=seed)
        layer, report = convert(linear, "tanh", 2 * x[:40], 32, held_out=2 * x[40:], seed=seed)
        assert report.rel_frob <= report.linear_rel * (1 + 1e-9)
        if report.info.get("too few inputs"):
            without += 1
            assert layer.tower.size == 0
            assert "32 features asked for and none kept, since inputs are too few" in repr(report)
            assert "a linear map does as well" in repr(report)
    assert 0 < without < 2 / 3 * seeds


def test_a_sentence_says_when_simpler_layers_do_as_well():
    linear, x = small()
    assert "does" not in repr(convert(linear, "tanh", x, 5, "cur")[1])
    # Of rank 6 the weights are the layer itself.
    assert "(low rank does better)" in repr(convert(linear, "tanh", x, 8)[1])
    # A layer that is not fitted is worse than all.
    bad = convert(linear, "tanh", x, 5, "trainable")[1]
    assert min(bad.linear_rel, bad.low_rank_rel) < 0.9 * bad.rel_frob
    assert "(a linear map does better, low rank does better)" in repr(bad)


@pytest.mark.parametrize("mode", ["ridge", "cur"])
def test_neurons_are_chosen_on_inputs_drawn_at_random(mode):
    linear, x = small(n=2000)
    unseen = small(n=300, seed=1)[1]
    # The first ones are all alike and say nothing of what to choose.
    x[:500] = 0.01 * x[:500]
    found = {most: convert(linear, "tanh", x, 8, mode, held_out=unseen, chosen_from=most)[1].rel_frob
             for most in (500, 2000)}
    assert found[500] != found[2000]
    assert found[500] < 1.2 * found[2000]
    again = convert(linear, "tanh", x, 8, mode, held_out=unseen, chosen_from=500)[1].rel_frob
    assert again == found[500]
    with pytest.raises(DataError, match="chosen_from must be"):
        convert(linear, "tanh", x, 8, chosen_from=1)


def test_a_conversion_tells_how_far_it_is(capsys):
    linear, x = small()
    with telling(True):
        convert(linear, "tanh", x, 8, "cur")
    said = capsys.readouterr().err
    assert "selection" in said
    assert "baselines" in said


@pytest.mark.parametrize("rows", [30, 4])
def test_least_squares_and_spans_are_those_of_the_pseudoinverse(rows):
    draw = torch.Generator().manual_seed(0)
    full, y = (torch.randn(rows, k, generator=draw, dtype=torch.float64) for k in (6, 3))
    lean = torch.cat((full[:, :3], full[:, :3] @ torch.ones(3, 2).double()), 1)
    for columns in (full, lean):
        assert torch.allclose(least_squares(columns, y), torch.linalg.pinv(columns) @ y, atol=1e-10)
        basis = span_of(columns)
        assert torch.allclose(basis @ basis.T, columns @ torch.linalg.pinv(columns), atol=1e-10)


# Functions that are none of each number.

@pytest.mark.parametrize("activation", [
    nn.Softmax(-1), nn.LayerNorm(40), nn.PReLU(40), lambda z: z.softmax(0), lambda z: z / z.norm(),
    lambda z: z - z.mean(-1, keepdim=True), lambda z: z.cumsum(1)])
@pytest.mark.parametrize("mode", ["ridge", "cur"])
def test_functions_across_neurons_are_refused(activation, mode):
    linear, x = small()
    with pytest.raises(DataError, match="activation must be a function of each number alone"):
        convert(linear, activation, x, 8, mode)


def test_a_function_with_dropout_stays_as_it_is_in_evaluation():
    linear, x = small()
    act = nn.Sequential(nn.ELU(), nn.Dropout(0.5)).train()
    layer, report = convert(linear, act, x, 16, "cur")
    assert report.rel_frob < report.linear_rel
    wanted = layer.eval()(x)
    assert torch.equal(layer.train()(x), wanted)
    assert layer.training
    assert act[1].training


@pytest.mark.parametrize("activation", [lambda z: nn.functional.dropout(z, 0.5), lambda z: z + torch.randn_like(z)])
def test_a_function_that_draws_is_refused_and_nobodys_numbers_are_used(activation):
    linear, x = small()
    before = torch.get_rng_state()
    with pytest.raises(DataError, match="draws random numbers"):
        convert(linear, activation, x, 8)
    assert torch.equal(torch.get_rng_state(), before)


# Messages.

def test_inputs_that_are_all_alike_are_named_as_the_reason():
    linear, x = small()
    with pytest.raises(ConversionRefused, match="the same for all inputs"):
        convert(linear, "tanh", torch.ones_like(x), 64, "analytic")
    with pytest.raises(ConversionRefused, match="pairs of features, and 1 was"):
        convert(linear, "tanh", x, 1, "analytic")


@pytest.mark.parametrize(("mode", "option"), [
    ("analytic", {"ridge": 0.1}), ("analytic", {"skip": False}), ("analytic", {"tower": "fourier"}),
    ("cur", {"tower": "fourier"}), ("trainable", {"ridge": 0.1})])
def test_what_a_mode_does_not_look_at_is_refused(mode, option):
    linear, x = small()
    name = next(iter(option))
    with pytest.raises(DataError, match=f'{name} is not looked at with mode="{mode}"'):
        convert(linear, "tanh", x, 8, mode, **option)


def test_what_is_compared_is_taken_once_and_gets_its_own_options():
    linear, x = small()
    found = compare_modes(linear, "tanh", x, [8, 8], ["ridge", "cur", "ridge", "analytic"], skip=2, tower="fourier")
    assert (found.features, found.modes) == ([8], ["ridge", "cur", "analytic"])
    assert float(found.errors[0, 0]) == convert(linear, "tanh", x, 8, skip=2, tower="fourier")[1].rel_frob
    assert float(found.errors[1, 0]) == convert(linear, "tanh", x, 8, "cur", skip=2)[1].rel_frob
