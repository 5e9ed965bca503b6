import copy

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope import plots
from kernelscope.errors import DataError, ModelError, NonFiniteError, StoreCorrupt
from kernelscope.nn import BundleReport, bundle, load_blocks, save_blocks
from tests.nn.small import digits, network, points, trained


def test_the_matrix_of_a_block_is_the_second_layer_behind_the_fit_of_the_hidden_one():
    model, x = network(), points()
    hidden = copy.deepcopy(model)
    hidden[2] = nn.Linear(24, 24, bias=False).double()
    with torch.no_grad():
        hidden[2].weight.copy_(torch.eye(24))
    one, _ = bundle(model, x, features=16, ridge=1e-3)
    psi, _ = bundle(hidden, x, features=16, ridge=1e-3)
    assert torch.allclose(one[0].weight, psi[0].weight @ model[2].weight.T, atol=1e-12)
    assert torch.allclose(one[0].skip, psi[0].skip @ model[2].weight.T, atol=1e-12)


def test_a_block_is_the_least_squares_fit_with_a_ridge_on_the_features_alone():
    model, x = network(), points()
    bundled, report = bundle(model, x, features=12, test=x)
    layer, (ridge,) = bundled[0], report.ridges
    columns = torch.cat([layer.towers((x - layer.mean) / layer.scale), (x - layer.mean) / layer.scale,
                         torch.ones(len(x), 1, dtype=torch.float64)], 1)
    penalty = torch.diag((torch.arange(18) < 12).double()) * ridge * len(x)
    theta = torch.linalg.solve(columns.T @ columns + penalty, columns.T @ model(x).detach())
    assert torch.allclose(torch.cat([layer.weight, layer.skip, layer.constant[None]]), theta, atol=1e-9)


def test_a_linear_block_is_its_skip():
    model, x = network(act=lambda: nn.LeakyReLU(1.0)), points()
    bundled, report = bundle(model, x, features=4)
    assert float((bundled(x) - model(x)).detach().abs().max()) < 1e-12
    assert report.error < 1e-12


def test_all_neurons_of_a_block_are_the_block():
    model, x = network(), points(200)
    bundled, report = bundle(model, x, features=24, tower="neurons", ridge=1e-14)
    assert float((bundled(points(50, seed=7)) - model(points(50, seed=7))).detach().abs().max()) < 1e-8
    assert report.fixed == 0


def test_neurons_that_are_kept_count_as_parameters():
    _, report = bundle(network(), points(), features=6, tower="neurons")
    assert report.after == [6 * 3 + 5 * 3 + 3 + 6 * (5 + 1)]
    assert report.parameters_after == report.after[0]
    _, other = bundle(network(), points(), features=6)
    assert other.after == [6 * 3 + 5 * 3 + 3]
    assert other.fixed == 6 * (5 + 1)
    assert other.before == [5 * 24 + 24 + 24 * 3 + 3]


@pytest.mark.parametrize("mode", ["ffn", "layerwise", "full"])
def test_a_call_leaves_everything_as_it_was(mode):
    model, x = network(), points()
    model[0].eval()
    calls = []
    model[1].register_forward_hook(lambda *given: calls.append(1))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    bundled, _ = bundle(model, x, mode=mode, features=8)
    assert len(calls) == 1  # on one batch, to see whether it changes anything
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(model[1]._forward_hooks) == 1
    with torch.no_grad():
        for p in bundled.parameters():
            p.add_(1.0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_copy_keeps_the_modes_and_frozen_parameters_of_the_model():
    model = nn.Sequential(network(c=5), nn.Dropout(0.5), nn.Linear(5, 2).double())
    model[2].requires_grad_(False)
    bundled, _ = bundle(model, points(), features=8)
    assert bundled.training
    assert bundled[1].training
    assert not bundled[2].weight.requires_grad
    assert not bundle(model.eval(), points(), features=8)[0].training


@pytest.mark.parametrize("mode", ["ffn", "layerwise", "full"])
def test_a_seed_names_one_result(mode):
    one, other, third = (bundle(network(), points(), mode=mode, features=8, seed=seed)[0] for seed in (0, 0, 1))
    x = points(seed=4)
    assert torch.equal(one(x), other(x))
    assert not torch.equal(one(x), third(x))


def test_points_kept_apart_are_not_fitted_to():
    model, x = network(), points()
    apart = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:20]
    moved = x.clone()
    moved[apart] = 3.0
    one, report = bundle(model, x, features=8)
    other, _ = bundle(model, moved, features=8)
    assert report.count == 20
    assert torch.equal(one[0].weight, other[0].weight)
    fitted, told = bundle(model, x, features=8, test=x[apart])
    assert not torch.equal(fitted[0].weight, one[0].weight)
    assert (told.measured_on, told.count) == ("test points", 20)


def test_rows_of_sequences_and_rows_alone_are_bundled_alike():
    model, x = network(), points(90)
    one, _ = bundle(model, x, features=8, test=x)
    other, _ = bundle(model, x.view(30, 3, 5), features=8, test=x.view(30, 3, 5))
    assert torch.allclose(one(x), other(x.view(30, 3, 5)).view(90, 3), atol=1e-10)


def test_single_precision_is_fitted_in_double():
    model, x = network(), points(200)
    exact, _ = bundle(model, x, features=16, ridge=1e-6)
    rounded, _ = bundle(copy.deepcopy(model).float(), x.float(), features=16, ridge=1e-6)
    assert rounded(x.float()).dtype == torch.float32
    assert torch.allclose(rounded(x.float()).double(), exact(x), atol=1e-4)


@pytest.mark.parametrize("mode", ["ffn", "layerwise", "full"])
@pytest.mark.parametrize("tower", ["rectified", "fourier", "neurons"])
def test_what_is_bundled_stays_where_the_model_is(device, mode, tower):
    if (mode, tower) == ("full", "neurons"):
        pytest.skip("no neurons to keep")
    model, x = network().to(device), points()
    bundled, report = bundle(model, x, mode=mode, tower=tower, features=8)
    assert {value.device.type for value in bundled.state_dict().values()} == {device.type}
    assert bundled(x.to(device)).device.type == device.type
    assert report.error < 0.5


def test_later_blocks_make_up_for_earlier_ones():
    train, test = digits("train"), digits("test")
    model = trained(nn.GELU, (128, 128, 128))
    apart, one_by_one = (bundle(model, train.x, train.y, mode=mode, features=32, test=(test.x, test.y))[1]
                         for mode in ("ffn", "layerwise"))
    assert float(apart.errors[0]) == float(one_by_one.errors[0])
    assert float(one_by_one.accumulated[1]) < 0.95 * float(apart.accumulated[1])
    assert float(one_by_one.errors[1]) == pytest.approx(float(one_by_one.accumulated[1]), rel=1e-3)
    assert one_by_one.agreement >= 0.97


def test_own_neurons_are_nearer_than_random_features():
    train, test = digits("train"), digits("test")
    drawn, kept = (bundle(trained(nn.GELU, (128, 128, 128)), train.x, features=32, tower=tower, test=test.x)[1]
                   for tower in ("rectified", "neurons"))
    assert bool((kept.errors < drawn.errors).all())
    assert bool((drawn.errors < drawn.linear).all())


def test_what_is_said_is_what_two_networks_answer():
    train, test = digits("train"), digits("test")
    model = trained()
    bundled, report = bundle(model, train.x, train.y, features=32, test=(test.x, test.y))
    with torch.no_grad():
        f, g = model(test.x).double(), bundled(test.x).double()
    assert report.agreement == pytest.approx(float((f.argmax(1) == g.argmax(1)).double().mean()))
    assert report.score_before == pytest.approx(float((f.argmax(1) == test.y).double().mean()))
    assert report.score_after == pytest.approx(float((g.argmax(1) == test.y).double().mean()))
    assert report.error == pytest.approx(float((f - g).norm() / (f - f.mean(0)).norm()), rel=1e-6)
    p = f.softmax(1)
    assert report.divergence == pytest.approx(float((p * (f.log_softmax(1) - g.log_softmax(1))).sum(1).mean()),
                                              rel=1e-6)
    assert report.parameters_after == sum(parameter.numel() for parameter in bundled.parameters())


def test_numbers_are_scored_by_the_share_of_variance():
    model, x = network(c=1), points(120)
    y = model(x).detach() + 0.1 * points(120, 1, seed=9)
    bundled, report = bundle(model, x, y, features=16, test=(x, y))
    assert report.score == "R²"
    assert report.agreement is None
    left = (bundled(x) - y).detach().square().sum() / (y - y.mean()).square().sum()
    assert report.score_after == pytest.approx(1 - float(left))


def test_a_whole_network_learns_from_itself_labels_or_a_teacher():
    train, test = digits("train"), digits("test")
    model = trained()
    own, labels, teacher, outputs = (
        bundle(model, train.x, train.y, mode="full", features=256, targets=targets, test=(test.x, test.y))
        for targets in ("self", None, trained(nn.Tanh), trained(nn.Tanh)(train.x)))
    assert own[1].agreement >= 0.95
    assert own[1].error < float(own[1].linear)
    assert own[0].layer.skip is not None
    assert labels[0].layer.skip is None
    assert labels[1].error is None
    assert torch.equal(labels[0].targets.sum(1), torch.ones(len(train), dtype=torch.float64))
    assert torch.allclose(teacher[0](test.x), outputs[0](test.x), atol=1e-4)


def test_without_test_points_a_whole_network_is_measured_on_what_is_left_out():
    train = digits("train")
    bundled, report = bundle(trained(), train.x, train.y, mode="full", features=128)
    told = float((bundled.leave_one_out().argmax(1) == train.y).double().mean())
    assert report.score_after == pytest.approx(told)
    assert "samples left out in turn" in repr(report)


@pytest.mark.parametrize("options", [{}, {"tower": "fourier"}, {"skip": False}, {"tower": "neurons"},
                                     {"mode": "layerwise"}])
def test_blocks_that_are_kept_answer_bit_for_bit(tmp_path, options):
    model, x = network(), points()
    bundled, _ = bundle(model, x, features=8, **options)
    again = load_blocks(model, save_blocks(bundled, tmp_path / "blocks"))
    assert torch.equal(again(x), bundled(x))
    assert torch.equal(bundle(model, x, features=8, **options)[0].state_dict()["0.weight"], again[0].weight)


def test_blocks_of_another_network_are_refused(tmp_path):
    bundled, _ = bundle(network(), points(), features=8)
    folder = save_blocks(bundled, tmp_path / "blocks")
    with pytest.raises(DataError, match="holds a layer for '0', and this network has no block there"):
        load_blocks(nn.Linear(5, 3), folder)
    with pytest.raises(DataError, match="There is no bundled block in this network"):
        save_blocks(network(), tmp_path / "none")
    with ks.storage.Store.create(tmp_path / "odd", kind="blocks", meta={"layers": {"0": {}}, "passed": []}) as store:
        store.append({"a": torch.zeros(1)})
    with pytest.raises(StoreCorrupt, match="lacks a part of bundled blocks"):
        load_blocks(network(), tmp_path / "odd")


@pytest.mark.parametrize(("options", "words"), [
    ({"mode": "all"}, 'mode must be "ffn" or "layerwise" or "full"'),
    ({"tower": "relu"}, 'tower must be "rectified" or "fourier" or "neurons"'),
    ({"features": 0}, "features must be a whole number from 1 on"),
    ({"features": []}, "features is empty"),
    ({"features": [4, 4]}, "features is one number, or one for each of the 1 blocks 0-2; 2 came"),
    ({"features": 7, "tower": "fourier"}, "even; 7 were asked for"),
    ({"features": 25, "tower": "neurons"}, "has 24 neurons, and 25 were asked for"),
    ({"tower": "neurons", "mode": "full"}, "no layer of neurons to keep"),
    ({"ridge": 0.0}, "ridge must be a number above 0"),
    ({"ridge": True}, "ridge must be a number above 0"),
    ({"held_out": 1.0}, "held_out must be a number between 0 and 1"),
    ({"y": torch.zeros(3)}, "80 points and 3 targets came"),
    ({"test": (points(4), torch.zeros(3))}, "4 points and 3 targets came"),
    ({"targets": "labels"}, 'Blocks are fitted to their own outputs'),
    ({"targets": "labels", "mode": "full"}, 'targets="labels" needs labels'),
    ({"targets": torch.zeros(3), "mode": "full"}, "for n = 80 points and the c = 3 outputs .*; shape .3,. came"),
    ({"y": torch.tensor([-1] * 80), "mode": "full"}, "Classes are counted from 0; -1 came"),
    ({"rows": "haar"}, "rows must be"),
    ({"seed": -1}, "seed must be a whole number"),
])
def test_what_cannot_be_is_refused_with_a_reason(options, words):
    with pytest.raises(DataError, match=words):
        bundle(network(), points(), **({"features": 8} | options))


def test_too_few_rows_for_the_skip_are_refused():
    with pytest.raises(DataError, match="3 rows are too few for 6 columns that are not penalised"):
        bundle(network(), points(4), features=8)
    with pytest.raises(DataError, match="1 point cannot be fitted to and measured on as well"):
        bundle(network(), points(1), features=8)


def test_a_network_that_gives_infinite_values_is_refused():
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
    for mode in ("ffn", "full"):
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            bundle(model, points(), mode=mode, features=8)


class Wrapped(nn.Module):
    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x):
        return self.wrap(self.model(x))


@pytest.mark.parametrize("wrap", [lambda y: {"loss": None, "logits": y}, lambda y: (y, None), lambda y: y])
def test_outputs_may_come_with_others(wrap):
    bundled, report = bundle(Wrapped(network(), wrap), points(), features=8)
    assert report.agreement > 0.8
    whole, _ = bundle(Wrapped(network(), wrap), points(), mode="full", features=8)
    assert whole(points()).shape == (80, 3)


def test_what_is_in_no_tensor_is_refused():
    with pytest.raises(DataError, match="gives a tensor, or logits by name; a list came"):
        bundle(Wrapped(network(), lambda y: [y]), points(), features=8)


def test_what_is_no_module_is_refused():
    with pytest.raises(ModelError, match="a torch.nn.Module; a function came"):
        bundle(lambda x: x, points())


def test_words_cannot_be_bundled_as_a_whole():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(DataError, match='one tensor of real numbers.*Pass mode="ffn"'):
        bundle(model, torch.randint(0, 9, (20, 3)), mode="full")


def test_a_report_is_kept_told_and_drawn(tmp_path):
    _, report = bundle(network(), points(), features=8)
    again = BundleReport.load(report.save(tmp_path / "report"))
    assert repr(again) == repr(report)
    assert torch.equal(again.errors, report.errors)
    assert list(report.to_frame()["block"]) == ["0-2"]
    assert [row.name for row in report.check().rows] == ["fewer", "features of 0-2", "outputs", "agreement"]
    assert plots.title(report).startswith("219 parameters became 42 beside 48 fixed numbers; ")
    page = ks.Report("A page", [report]).html()
    assert "A network, bundled" in page
    assert "accumulated error" in page


def test_a_report_on_labels_draws_scores():
    train = digits("train")
    _, report = bundle(trained(), train.x, train.y, mode="full", features=64)
    ax = report.plot()
    assert ax.get_xlabel() == "accuracy on samples left out in turn"
    assert [row.name for row in report.check().rows] == ["fewer", "agreement", "score"]
