"""Measured orders, and expected outputs held against ensembles over learning rates."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope import plots


def test_an_order_is_the_slope_of_logarithms():
    sizes = [0.4, 0.1, 0.2]
    found = ks.orders(sizes, {"square": [3 * h**2 for h in sizes], "cube": [h**3 for h in sizes]},
                      claimed={"square": 2, "cube": 2})
    assert found.sizes.tolist() == pytest.approx([0.1, 0.2, 0.4])
    assert found.order("square") == pytest.approx(2)
    assert found.order("cube") == pytest.approx(3)
    assert [row.status for row in found.check().rows] == ["pass", "fail"]
    assert found.to_frame()["cube"].tolist()[-1] == pytest.approx(3)
    assert "1 of 2" in plots.title(found)


def test_errors_of_nought_are_left_out_of_an_order(tmp_path):
    found = ks.orders([0.1, 0.2, 0.4], {"one": [0.0, 0.2, 0.4]})
    assert found.order("one") == pytest.approx(1)
    assert found.check().ok
    assert type(found).load(found.save(tmp_path / "orders")).order("one") == found.order("one")


@pytest.mark.parametrize(("sizes", "errors", "claimed", "said"), [
    ([0.1], {"e": [1.0]}, None, "two or more"), ([0.1, -1.0], {"e": [1.0, 1.0]}, None, "two or more"),
    ([0.1, 0.2], {}, None, "dictionary"), ([0.1, 0.2], {"e": [1.0]}, None, "for each of the 2"),
    ([0.1, 0.2], {"e": [1.0, float("nan")]}, None, "no number"), ([0.1, 0.2], {"e": [1.0, 2.0]}, {"f": 1}, "'f'")])
def test_what_has_no_order_is_refused(sizes, errors, claimed, said):
    with pytest.raises(ks.errors.DataError, match=said):
        ks.orders(sizes, errors, claimed=claimed)


def expected(lr, seeds, seed=0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    y = x.prod(1, keepdim=True)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    optimizer, draw = torch.optim.SGD(model.parameters(), lr=lr), torch.Generator().manual_seed(seed)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(round(0.6 / lr)):
            ids = torch.randint(12, (3,), generator=draw)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return ks.expected(recording.run, x[:3], data=(x, y), sampling="replacement", seeds=seeds)


@pytest.fixture(scope="module")
def agreement():
    return ks.agreement({0.1: expected(0.1, 40), 0.05: [expected(0.05, 40), expected(0.05, None, seed=1)]})


def test_numbers_are_those_of_the_ensembles(agreement, tmp_path):
    one = expected(0.1, 40)
    assert agreement.rates.tolist() == [0.05, 0.1]
    assert float(agreement.covered["path"][1]) == one.ensemble.covered("path")
    assert float(agreement.controlled["noise"][1]) == one.ensemble.covered("noise", True)
    assert float(agreement.variance["carried"][1]) == pytest.approx(
        float(one.variance.sum() / one.ensemble.std.square().sum()))
    assert float(agreement.guesses["final"][1]) == pytest.approx(
        float((one.final - one.ensemble.mean).square().mean().sqrt()))
    assert agreement.seeds == 40
    assert agreement.pairs == 3
    assert len(agreement.to_frame()) == 2
    assert torch.equal(type(agreement).load(agreement.save(tmp_path / "agreement")).spread, agreement.spread)


@pytest.mark.parametrize("show", ["covered", "variance", "guesses"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_comparison_is_drawn_and_says_what_it_shows(agreement, show, theme):
    ax = agreement.plot(show=show, theme=theme)
    assert "rate" in ax.get_title(loc="left")
    assert len(ax.lines) >= 2


def test_a_page_shows_all_of_them(agreement):
    one = expected(0.1, 10)
    page = ks.Report("Noise", [agreement, one, one.ensemble, ks.orders([0.1, 0.2], {"e": [1.0, 2.0]})]).html()
    assert page.count("<svg") == 6
    assert "expected output" in page


def test_what_has_no_ensemble_is_refused():
    with pytest.raises(ks.errors.DataError, match="none came"):
        ks.agreement({})
    with pytest.raises(ks.errors.DataError, match="no ensemble"):
        ks.agreement({0.1: expected(0.1, None)})
