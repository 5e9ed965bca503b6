"""What a bundle must not do in silence: networks that are more than their copies, blocks and targets."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, ModelError
from kernelscope.nn import BundleReport, bundle, inject, load_blocks, save_blocks
from tests.nn.small import digits, network, points


def deep(act=nn.Tanh, after=nn.ReLU):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 24), act(), nn.Linear(24, 5), after(), nn.Linear(5, 3)).double()


@pytest.mark.parametrize("mode", ["ffn", "layerwise", "full"])
def test_adapters_are_not_dropped_in_silence(mode):
    injected = inject(deep(), ["2", "4"], features=4)
    with pytest.raises(ModelError, match="hook of '2' applies an adapter.*injected.remove"):
        bundle(injected.model, points(), mode=mode, features=8)
    bundle(injected.remove(), points(), mode=mode, features=8)
    teacher = inject(deep(), "2", features=4).model
    with pytest.raises(ModelError, match="applies an adapter"):
        bundle(deep(), points(), mode="full", targets=teacher, features=8)


def test_hooks_that_change_the_outputs_are_refused_and_others_are_not():
    model = deep()
    handle = model[3].register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(ModelError, match="Hooks on 3 change what the network gives"):
        bundle(model, points(), features=8)
    handle.remove()
    handle = model[2].register_forward_pre_hook(lambda module, args, kwargs: ((args[0] + 1,), kwargs), with_kwargs=True)
    with pytest.raises(ModelError, match="Hooks on 2 change"):
        bundle(model, points(), features=8)
    handle.remove()
    seen = []
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    bundle(model, points(), features=8)
    assert seen == [(64, 24)]


def test_weights_that_a_hook_makes_are_refused():
    model = deep()
    nn.utils.spectral_norm(model[4])
    with torch.no_grad():
        model(points())
    with pytest.raises(ModelError, match="torch.nn.utils makes a weight of '4' anew"):
        bundle(model, points(), features=8)


class Shared(nn.Module):
    """A block whose hidden layer is used again."""

    def __init__(self, join):
        super().__init__()
        self.up, self.act, self.down, self.join = nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 5), join

    def forward(self, x):
        hidden = self.act(self.up(x))
        return self.join(self.down(hidden), hidden)


class Borrowing(nn.Module):
    """A weight is used beside the block that it belongs to."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3))

    def forward(self, x):
        return self.block(x) + (x @ self.block[0].weight.T).sum(-1, keepdim=True)


@pytest.mark.parametrize("model", [
    Shared(lambda y, hidden: y + hidden.mean(-1, keepdim=True)), Shared(lambda y, hidden: torch.cat([y, hidden], -1)),
    Borrowing(),
])
def test_blocks_of_which_a_part_is_used_elsewhere_are_refused(model):
    with pytest.raises(DataError, match="uses its inner layers for something else too"):
        bundle(model, points().float(), features=8)


def test_a_module_around_such_a_block_is_taken_as_a_whole(tmp_path):
    model, x = nn.Sequential(Shared(lambda y, h: y + h.mean(-1, keepdim=True)), nn.Linear(5, 3)), points(200).float()
    bundled, report = bundle(model, x, features=32, test=x)
    assert report.blocks == ["0"]
    assert not report.left
    assert report.check().ok
    assert report.error < 1.5 * float(report.errors)
    with torch.no_grad():
        gap = (bundled(x) - model(x)).norm() / (model(x) - model(x).mean(0)).norm()
    assert report.error == pytest.approx(float(gap), rel=1e-4)
    again = load_blocks(model, save_blocks(bundled, tmp_path / "blocks"))
    assert torch.equal(again(x), bundled(x))


def test_one_bad_block_does_not_spoil_the_others():
    model = nn.Sequential(network(5, 24, 5), nn.LayerNorm(5).double(), Borrowing().double())
    report = bundle(model, points(), features=8)[1]
    assert report.blocks == ["0.0-2"]
    assert list(report.left) == ["2.block.0-2"]


def test_a_block_that_is_followed_by_what_writes_to_it_is_a_block():
    plain, written = deep(), deep(after=lambda: nn.ReLU(inplace=True))
    x = points()
    given = x.clone()
    one, other = (bundle(model, x, features=8) for model in (plain, written))
    assert torch.equal(x, given)
    assert other[1].blocks == ["0-2"]
    assert torch.equal(one[0](x), other[0](x))
    assert one[1].error == other[1].error


class Writing(nn.Module):
    """Each call changes what it is given."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return self.body(x.mul_(2))


def test_points_stay_as_they_were_when_a_network_writes_to_them():
    x = points()
    given = x.clone()
    bundled, report = bundle(Writing(), x, features=8, test=x)
    assert torch.equal(x, given)
    other, told = bundle(network(), 2 * x, features=8, test=2 * x)
    assert torch.equal(bundled.body[0].weight, other[0].weight)
    assert report.error == told.error


def signs(shift=0.0):
    """A network of one logit that is right for the sign of the first input."""
    model = network(c=1)
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[:, 0] = 1.0
        model[0].bias.zero_()
        model[2].weight.fill_(1.0)
        model[2].bias.fill_(shift)
    return model


@pytest.mark.parametrize("mode", ["ffn", "layerwise", "full"])
@pytest.mark.parametrize("kind", [torch.long, torch.bool])
def test_one_logit_tells_two_classes(mode, kind):
    x = points(200)
    y = (x[:, 0] > 0).to(kind)
    bundled, report = bundle(signs(), x, y, mode=mode, features=24, test=(x, y))
    assert report.score == "accuracy"
    assert report.score_before == 1.0
    least = 0.5 if mode == "full" else 0.0
    told = float(((bundled(x)[:, 0] > least) == (y > 0)).double().mean())
    assert report.score_after == pytest.approx(told)
    assert report.agreement == pytest.approx(told)


def test_one_probability_is_cut_at_a_half():
    x = points(200)
    y = (x[:, 0] > 0).long()
    _, report = bundle(nn.Sequential(*signs(), nn.Sigmoid()), x, y, features=24)
    assert report.score_before == 1.0
    assert report.divergence is None
    _, logits = bundle(signs(), x, y, features=24, test=(x, y))
    assert logits.divergence is not None


def test_the_divergence_of_one_logit_is_that_of_two_classes():
    x = points(100)
    y = (x[:, 0] > 0).long()
    model = signs()
    bundled, report = bundle(model, x, y, features=24, test=(x, y))
    f, g = model(x).detach(), bundled(x).detach()
    p, q = torch.sigmoid(f), torch.sigmoid(g)
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert report.divergence == pytest.approx(float(kl), rel=1e-6)


@pytest.mark.parametrize("mode", ["ffn", "full"])
@pytest.mark.parametrize(("c", "shape"), [(1, (80,)), (1, (80, 1)), (3, (80, 3))])
def test_whole_numbers_like_the_outputs_are_numbers(mode, c, shape):
    model, x = network(c=c), points()
    y = torch.arange(80 * c).view(shape)
    _, report = bundle(model, x, y, mode=mode, features=8, test=(x, y))
    assert report.score == "R²"
    z = y.double().view(80, c)
    left = (model(x).detach() - z).square().sum() / (z - z.mean(0)).square().sum()
    assert report.score_before == pytest.approx(1 - float(left), rel=1e-9)


@pytest.mark.parametrize("mode", ["ffn", "full"])
def test_targets_of_a_data_set_are_its_targets(mode):
    train, test = digits("train"), digits("test")
    x, y = train.x[:400], train.y[:400]
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    _, told = bundle(model, x, y, mode=mode, features=32, test=(test.x, test.y))
    data, apart = TensorDataset(x, y), TensorDataset(test.x, test.y)
    for given in (data, DataLoader(data, 50), [(x[i], int(y[i])) for i in range(400)]):
        _, report = bundle(model, given, mode=mode, features=32, test=apart)
        assert report.score_after == told.score_after
    assert bundle(model, TensorDataset(x), mode=mode, features=32)[1].score_after is None


def test_labels_of_a_whole_network_from_a_data_set_are_what_is_fitted_to():
    train = digits("train")
    bundled, _ = bundle(nn.Linear(64, 10), TensorDataset(train.x, train.y), mode="full", features=32)
    assert torch.equal(bundled.targets, nn.functional.one_hot(train.y, 10).double())


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x, z):
        return self.body(x + z)


def test_two_tensors_are_the_points_of_a_network_of_two_inputs():
    one, other = points(), points(seed=1)
    fresh = points(20, seed=2), points(20, seed=3)
    y = torch.arange(20) % 3
    assert bundle(Pair(), (one, other), features=8, test=fresh)[1].count == 20
    assert bundle(Pair(), (one, other), features=8, test=(fresh, y))[1].score == "accuracy"


@pytest.mark.parametrize("mode", ["ffn", "full"])
@pytest.mark.parametrize(("y", "words"), [
    (torch.arange(80) % 5, "Classes are counted from 0; 4 came, and the network has 3 outputs"),
    (torch.zeros(80), r"numbers like the outputs, with shape \(3,\) for each point; torch.float32 of shape \(\) came"),
    (torch.zeros(80, 2, dtype=torch.long), "a class for each row of outputs"),
])
def test_targets_that_do_not_fit_are_refused(mode, y, words):
    with pytest.raises(DataError, match=words):
        bundle(network(), points(), y, mode=mode, features=8)
    with pytest.raises(DataError, match=words):
        bundle(network(), points(), mode=mode, features=8, test=(points(), y))


def test_a_teacher_of_other_outputs_is_refused():
    with pytest.raises(DataError, match=r"c = 3 outputs of the network; shape \(80, 5\) came"):
        bundle(network(), points(), mode="full", targets=network(c=5), features=8)


@pytest.mark.parametrize("mode", ["ffn", "full"])
def test_points_in_another_precision_are_refused_in_words(mode):
    with pytest.raises(ModelError, match="cannot be called with torch.float32 of shape .(20|64), 5.*in its precision"):
        bundle(network(), points().float(), mode=mode, features=8)


@pytest.mark.parametrize(("other", "words"), [
    (lambda: deep(act=nn.GELU), "Tanh.*where this network has .*GELU"),
    (lambda: deep(act=lambda: nn.LeakyReLU(0.5)), "Tanh.*where this network has .*LeakyReLU"),
    (lambda: deep(after=nn.Tanh), "What surrounds the blocks"),
    (lambda: deep().float(), "What surrounds the blocks"),
    (lambda: nn.Sequential(*deep()[:4], nn.Linear(5, 4).double()), "What surrounds the blocks"),
    (lambda: nn.Sequential(*network(c=7), nn.ReLU(), nn.Linear(7, 3).double()), "out_features=5.*out_features=7"),
])
def test_blocks_are_not_put_into_another_network(tmp_path, other, words):
    model = deep()
    bundled, _ = bundle(model, points(), features=8)
    folder = save_blocks(bundled, tmp_path / "blocks")
    assert torch.equal(load_blocks(copy.deepcopy(model).train(), folder)(points()), bundled(points()))
    with pytest.raises(DataError, match=words):
        load_blocks(other(), folder)


def test_blocks_are_not_put_into_a_network_that_was_trained_on(tmp_path):
    model = deep()
    bundled, _ = bundle(model, points(), features=8)
    folder = save_blocks(bundled, tmp_path / "blocks")
    with torch.no_grad():
        model[4].bias[0] += 1e-6
    with pytest.raises(DataError, match="with its parameters as they were"):
        load_blocks(model, folder)


def test_without_targets_a_report_does_not_hide_the_error():
    _, report = bundle(network(), points(), features=8)
    assert f"outputs are off by {report.error:.2g} of their spread on points kept apart" in repr(report)
    assert f"read as logits, {report.agreement:.1%} give the same class" in repr(report)
    _, told = bundle(network(), points(), torch.arange(80) % 3, features=8)
    assert "points kept apart get the same class" in repr(told)
    assert "read as" not in repr(told)


def test_a_report_counts_what_is_fixed_and_one_block():
    _, report = bundle(network(), points(), features=8)
    assert "BundleReport(ffn, 1 block, " in repr(report)
    assert "parameters became 42 beside 48 fixed numbers; " in repr(report)
    assert "fixed" not in repr(bundle(network(), points(), features=8, tower="neurons")[1])


def a_report(**changed):
    nothing = torch.zeros(1)
    values = {
        "mode": "ffn", "tower": "rectified", "blocks": ["0-2"], "features": [8], "ridges": [1.0],
        "errors": nothing + 0.1, "linear": nothing + 0.2, "accumulated": nothing + 0.1, "before": [10], "after": [5],
        "parameters_before": 10, "parameters_after": 5, "fixed": 0, "error": 0.1, "agreement": None,
        "divergence": None, "score_before": 0.9, "score_after": 0.9, "score_linear": None, "score": "accuracy",
        "measured_on": "test points", "count": 5,
    }
    return BundleReport(**(values | changed))


def test_nought_has_no_sign():
    assert "changed by +0.0000." in repr(a_report().check())
    assert "changed by +0.0000." in repr(a_report(score_after=0.89999).check())
    assert "changed by −0.1000." in repr(a_report(score_after=0.8).check())


def test_outputs_that_are_far_off_where_blocks_are_near_fail():
    assert a_report().check().ok
    assert a_report(error=0.45).check().ok
    assert a_report(error=0.9, accumulated=torch.tensor([0.3])).check().ok
    assert not a_report(error=1.01, accumulated=torch.tensor([0.119])).check().ok


def test_a_drawing_of_scores_ends_at_one():
    train = digits("train")
    _, report = bundle(nn.Linear(64, 10), train.x, train.y, mode="full", features=64)
    assert max(report.plot().get_xticks()) == 1.0
    assert ks.Report("A page", [report]).html()
    assert min(a_report(mode="full", errors=torch.tensor([torch.nan]), score="R²", score_after=-2.0).plot().get_xlim()
               ) < -2.0
