import torch
from torch import nn

from kernelscope.nn import bundle
from kernelscope.nn.bundles.choosing import Spread
from tests.nn.small import network, points


def test_a_spread_is_the_mean_and_the_mean_variance_of_all_rows():
    x, spread = points(100, 4) * 3 + 7, Spread(4)
    for rows in x.split(25):
        spread.add(rows, rows)
    mean, scale = spread.centre(x)
    assert torch.allclose(mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(scale, ((x - x.mean(0)) ** 2).mean().sqrt(), rtol=1e-10)
    assert len(spread.rows()[0]) == 100


def test_some_rows_of_each_batch_are_held():
    spread = Spread(40)
    for i in range(40):
        rows = torch.full((500, 1), float(i))
        spread.add(rows, rows)
    held = spread.rows()[0][:, 0]
    assert len(held) == 40 * 52
    assert sorted(set(held.tolist())) == [float(i) for i in range(40)]


def test_constant_inputs_have_the_scale_one():
    spread = Spread(1)
    spread.add(torch.ones(9, 2), torch.ones(9, 1))
    assert float(spread.centre(torch.ones(1, 2))[1]) == 1.0


def test_a_wide_function_gets_a_wide_bandwidth():
    x = points(400, 3)
    lengths = {}
    for name, pace in (("slow", 0.3), ("fast", 3.0)):
        model = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 1)).double()
        with torch.no_grad():
            model[0].weight.copy_(pace * points(40, 3, seed=2))
        bundled, _ = bundle(model, x, features=64, tower="fourier")
        lengths[name] = float(bundled[0].towers[0].rows.norm(dim=1).mean())
    assert lengths["slow"] < lengths["fast"]


def test_towers_behind_fourier_features_see_their_scale():
    x = points(300)
    one, report = bundle(network(), x, mode="full", features=[64, 64], tower="fourier")
    assert report.error < 0.3
    angles = one.layer.towers[0]((x - one.layer.mean) / one.layer.scale) @ one.layer.towers[1].rows.T
    # Features of length 1 are stretched so that the next ones vary.
    assert 0.1 < float(angles.std()) < 3.0


def test_neurons_that_a_linear_map_gives_are_not_kept():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[100.0, 0.0], [0.0, 100.0], [1.0, 0.0], [0.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([1e4, 1e4, 0.0, 0.0]))
        model[2].weight.fill_(1.0)
    bundled, report = bundle(model, points(200, 2), features=2, tower="neurons")
    assert float(bundled[0].towers[0].shifts.abs().max()) < 10.0
    assert report.error < 1e-4
    alone, _ = bundle(model, points(200, 2), features=2, tower="neurons", skip=False)
    assert float(alone[0].towers[0].shifts.abs().max()) > 100.0
