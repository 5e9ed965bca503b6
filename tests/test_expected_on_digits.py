"""The expected output of real training, against 200 networks that were trained anew."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import kernelscope as ks

pytestmark = pytest.mark.slow


def digits():
    data = ks.data.digits("all")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data.x[order[:256]].double(), data.y[order[:256]], data.x[order[256:272]].double()


def recorded(rate, scale, time=8.0, seed=0, **options):
    x, y, _ = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    optimizer, draw = torch.optim.SGD(model.parameters(), lr=rate, **options), torch.Generator().manual_seed(seed)
    with ks.record(model, (x, y), loss=cross_entropy, keep="all") as recording:
        for _ in range(round(time / rate)):
            ids = torch.randint(256, (16,), generator=draw)
            recording.batch(ids)
            optimizer.zero_grad()
            cross_entropy(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def test_200_seeds_cover_the_prediction_with_all_terms_and_not_with_the_path_alone():
    x, y, queries = digits()
    found = ks.ensemble(recorded(0.1, 2.0), queries, seeds=200, terms=True, data=(x, y), sampling="replacement")
    assert found.covered("noise") >= 0.93
    assert found.covered("path") <= 0.75
    # What has the mean nought taken off, the path is nowhere near, and the terms are nearer by more than ten times.
    assert found.covered("path", controlled=True) <= 0.05
    path, terms = (float(found.bias(upto, controlled=True)[0].abs().mean()) for upto in ("path", "noise"))
    assert terms < path / 10


def test_one_run_foretells_the_variance_and_how_well_it_knows_the_mean():
    x, y, queries = digits()
    found = ks.expected(recorded(0.05, 1.0), queries, data=(x, y), seeds=200)
    measured = found.ensemble.std.square()
    assert float(found.variance.sum() / measured.sum()) == pytest.approx(1, abs=0.2)
    assert found.check().ok
    for guess, error in (("mean", found.mean_error), ("adjusted", found.adjusted_error), ("final", found.std)):
        off = (getattr(found, guess) - found.ensemble.mean).square().mean().sqrt()
        assert 0.4 < float(off / error.square().mean().sqrt()) < 1.8


def test_rows_tell_the_variance_of_a_short_run_for_nothing():
    x, y, queries = digits()
    found = ks.expected(recorded(0.02, 1.0, time=0.2), queries, data=(x, y), sampling="replacement", carried=False,
                        order=1)
    measured = ks.ensemble(recorded(0.02, 1.0, time=0.2), queries, seeds=400, data=(x, y), sampling="replacement")
    assert float(found.variance.sum() / measured.std.square().sum()) == pytest.approx(1, abs=0.2)


def test_momentum_is_foretold_too():
    x, y, queries = digits()
    found = ks.expected(recorded(0.01, 1.0, time=0.8, momentum=0.9), queries, data=(x, y), seeds=200)
    assert float(found.variance.sum() / found.ensemble.std.square().sum()) == pytest.approx(1, abs=0.2)
    path, terms = (float(found.ensemble.bias(upto, controlled=True)[0].abs().mean()) for upto in ("path", "noise"))
    assert terms < path / 2
