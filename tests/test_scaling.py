"""Model size and data size varied apart."""

import math

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError


def data(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, generator=g, dtype=torch.float64)
    noise = 0.05 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return x, torch.stack([(6 * x[:, 0]).sin(), x[:, 1]], 1) + noise


@pytest.fixture(scope="module")
def found():
    return ks.scaling(ks.kernels.Gaussian(0.3), data(), data(100, 1), centers=[4, 16, 100], samples=[50, 300],
                      ridge=1e-6)


def test_each_error_is_that_of_the_fit_of_this_size(found):
    (x, y), (z, t) = data(), data(100, 1)
    for i, n in enumerate(found.samples):
        for j, p in enumerate(found.centers):
            if p > n:
                assert math.isnan(float(found.errors[i, j]))
                continue
            machine = ks.fit(ks.kernels.Gaussian(0.3), x[:n], y[:n], centers=p, ridge=1e-6, intercept=True,
                             progress=False)
            assert float(found.errors[i, j]) == float((machine(z) - t).square().mean())
            assert float(found.objective[i, j]) == float(machine.fitting.objective[0])
    assert found.variance == pytest.approx(float((t - t.mean(0)).square().mean()))


def test_gains_and_rates_are_read_off_the_errors(found):
    low, high, share = found.gain("centers")
    assert (low, high) == (4, 100)
    assert share == pytest.approx(1 - float(found.errors[1, 2] / found.errors[1, 0]))
    low, high, share = found.gain("samples")
    assert (low, high, share) == (300, 300, 0.0)
    slope = torch.linalg.lstsq(
        torch.stack([torch.tensor([4.0, 16.0, 100.0]).double().log(), torch.ones(3).double()], 1),
        found.errors[1].log()[:, None]).solution[0]
    assert found.rate("centers") == pytest.approx(-float(slope))
    assert math.isnan(found.rate("samples"))


def test_it_is_told_drawn_and_put_on_a_page(found, tmp_path):
    assert "25 times the centers lower the test error by" in repr(found)
    assert len(found.to_frame()) == 5
    assert found.check().ok
    for options in ({}, {"against": "samples"}, {"show": "seconds"}):
        assert found.plot(**options).get_title(loc="left")
    # Of 100 centers there is no fit to 50 samples, so nothing is said of six times the samples.
    assert found.plot(against="samples", show="seconds").get_title(loc="left").startswith("1 times the samples")
    page = ks.Report("Sizes", [found]).html()
    assert "center" in page
    assert "contribution" not in page
    found.save(tmp_path / "found")
    again = type(found).load(tmp_path / "found")
    assert torch.equal(again.errors.nan_to_num(-1.0), found.errors.nan_to_num(-1.0))
    assert again.solvers == found.solvers


def test_a_kernel_with_an_open_bandwidth_is_the_same_in_all_fits():
    found = ks.scaling(ks.kernels.Laplacian(), data(), data(100, 1), centers=[4], samples=[20, 300], ridge=1e-4)
    assert found.kernel == repr(ks.kernels.Laplacian().fitted(data()[0]))


@pytest.mark.parametrize(("centers", "samples", "word"), [
    ([], [10], "centers must be"), ([5], [], "samples must be"), ([5], [400], "from 1 to 300"),
    ([20], [10], "from 1 to"), ([0], [10], "centers must be"), (5, [10], "centers must be"),
    ([True], [10], "centers must be"),
])
def test_sizes_that_are_none_are_refused(centers, samples, word):
    with pytest.raises(DataError, match=word):
        ks.scaling(ks.kernels.Gaussian(1.0), data(), data(), centers=centers, samples=samples)
