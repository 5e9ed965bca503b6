"""The error that eigenlearning expects, against regressions that were fitted, and predictions against their ranks."""

import math

import pytest
import torch
from scipy.stats import spearmanr

import kernelscope as ks
from kernelscope.diagnostics.eigenlearning import expected_error, learnability, pool_errors
from kernelscope.errors import DataError, NonFiniteError
from kernelscope.ranks import spearman


def gaussian(n, ridge, noise, trials, seed=0, size=200):
    """Test errors of regressions on Gaussian features whose eigenvalues fall as a power, and the true spectrum."""
    g = torch.Generator().manual_seed(seed)
    values = torch.arange(1, size + 1, dtype=torch.float64) ** -1.5
    v = torch.randn(size, generator=g, dtype=torch.float64) * torch.arange(1, size + 1, dtype=torch.float64) ** -0.8
    errors = []
    for _ in range(trials):
        a = torch.randn(n, size, generator=g, dtype=torch.float64)
        y = a @ v + noise**0.5 * torch.randn(n, generator=g, dtype=torch.float64)
        phi = a * values.sqrt()
        w = phi.T @ torch.linalg.solve(phi @ phi.T + n * ridge * torch.eye(n, dtype=torch.float64), y)
        # The expectation over test points is exact: features are uncorrelated.
        errors.append(float((values.sqrt() * w - v).square().sum()) + noise)
    return values, v, torch.tensor(errors, dtype=torch.float64)


@pytest.mark.parametrize(("n", "ridge", "noise"), [(20, 0.01, 0.0), (60, 0.0, 0.0), (60, 0.002, 0.3), (40, 0.05, 0.1)])
def test_errors_of_regressions_on_gaussian_features_are_those_expected(n, ridge, noise):
    values, v, errors = gaussian(n, ridge, noise, trials=200)
    kappa, learned = learnability(values, n, n * ridge)
    assert abs(float(learned.sum()) + n * ridge / kappa - n) <= 1e-9 * n
    expected = (n / (n - float(learned.square().sum()))) * (float(((1 - learned) * v).square().sum()) + noise)
    found = ks.eigenlearning(torch.diag(values) * 200, v * 200**0.5, n, ridge=ridge, noise=noise)
    assert abs(float(found.error) - expected) <= 1e-9 * expected
    standard = float(errors.std()) / math.sqrt(len(errors))
    assert abs(float(errors.mean()) - expected) <= 3 * standard


def test_errors_of_regressions_on_a_pool_of_digits_are_those_expected():
    data = ks.data.digits("all")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    x, y = data.x[order].double(), torch.nn.functional.one_hot(data.y[order], 10).double() - 0.1
    kernel = ks.kernels.Laplacian(bandwidth=4.0)
    matrix = kernel(x)
    sizes = [50, 200, 450]
    found = ks.eigenlearning(matrix, y, sizes, ridge=1e-3)
    assert found.check().ok
    for i, n in enumerate(sizes):
        errors = []
        for trial in range(6):
            mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(trial))
            own, rest = mixed[:n], mixed[n:]
            machine = ks.fit(kernel, x[own], y[own], ridge=1e-3)
            errors.append([float((machine(x[places]) - y[places]).square().mean()) for places in (mixed, rest, own)])
        measured = torch.tensor(errors).mean(0).tolist()
        expected = [float(values[i]) for values in (found.error, found.unseen, found.training)]
        for true, foretold, within in zip(measured, expected, (0.06, 0.06, 0.15), strict=True):
            assert abs(true - foretold) <= within * true, (n, true, foretold)


def regressions(kernel, y, n, ridge, noise, trials):
    """The errors on n samples and on the other points of a pool, with noise of their own: means and their errors."""
    g, found = torch.Generator().manual_seed(0), []
    for _ in range(trials):
        order = torch.randperm(len(y), generator=g)
        own, rest = order[:n], order[n:]
        noisy = y + noise**0.5 * torch.randn(len(y), generator=g, dtype=torch.float64)
        matrix = kernel[own][:, own] + n * ridge * torch.eye(n, dtype=torch.float64)
        fitted = kernel[:, own] @ torch.linalg.pinv(matrix, rtol=1e-10, hermitian=True) @ noisy[own]
        found.append([float((fitted - noisy)[places].square().mean()) for places in (own, rest)])
    errors = torch.tensor(found, dtype=torch.float64)
    return errors.mean(0), errors.std(0) / trials**0.5


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("n", "ridge", "noise"), [(100, 0.0, 0.0), (200, 0.0, 0.0), (200, 0.01, 0.5), (300, 0.1, 0.2)])
def test_errors_of_samples_and_of_the_rest_of_a_pool_are_those_expected(linear, n, ridge, noise):
    """Also of modes that no sample can interpolate, as a linear kernel of 20 numbers leaves them, and of noise."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 20, generator=g, dtype=torch.float64)
    y = x[:, 0] + torch.sin(3 * x[:, 1]) + x[:, 2] * x[:, 3] + 0.5 * torch.randn(600, generator=g, dtype=torch.float64)
    kernel = x @ x.T / 20 if linear else ks.kernels.Gaussian(3.0)(x)
    found = ks.eigenlearning(kernel, y, n, ridge=ridge, noise=noise)
    measured, deviation = regressions(kernel, y, n, ridge, noise, trials=60)
    for foretold, true, apart in zip((found.training, found.unseen), measured, deviation, strict=True):
        assert abs(float(foretold - true)) <= 3 * float(apart) + 1e-20, (float(foretold), float(true), float(apart))


@pytest.mark.parametrize(("n", "delta", "noise"), [(20, 0.2, 0.0), (60, 0.0, 0.0), (60, 0.1, 0.3), (5, 0.0, 0.1)])
def test_unseen_points_of_an_endless_pool_are_fresh_points(n, delta, noise):
    values, energies = (torch.arange(1, 81, dtype=torch.float64) ** -power for power in (1.5, 2.0))
    kappa, learned = learnability(values, n, delta)
    error = expected_error(learned, energies, n, noise)
    training, unseen = pool_errors(values, energies, n, delta, 1e9, noise)
    assert abs(unseen - error) <= 1e-6 * error
    assert abs(training - (delta / (n * kappa)) ** 2 * error) <= 1e-6 * error


def test_a_pool_that_is_all_samples_is_fitted_as_a_ridge_regression_is():
    kernel, y = torch.diag(torch.tensor([3.0, 1.0, 0.5])).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    found = ks.eigenlearning(kernel, y, 3, ridge=0.1)
    residual = 0.3 * torch.linalg.solve(kernel + 0.3 * torch.eye(3, dtype=torch.float64), y)
    assert abs(float(found.training) - float(residual.square().mean())) <= 1e-12


def test_a_kernel_with_negative_eigenvalues_is_told_of():
    torch.manual_seed(0)
    mixed = torch.diag(torch.tensor([3.0, 1.0, -1.0])).double()
    rows = ks.eigenlearning(mixed, torch.ones(3), 2, ridge=0.1).check().rows
    row = next(row for row in rows if row.name == "positive")
    assert row.status == "warn"
    assert row.value == 0.2
    assert "20.0% of the size of its eigenvalues is negative" in row.sentence
    assert not any(row.status == "pass" for row in ks.eigenlearning(-torch.eye(3), torch.ones(3), 1).check().rows
                   if row.name == "positive")


def test_with_no_ridge_and_few_modes_all_are_learned_and_the_rest_is_not():
    values = torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    matrix, y = torch.diag(values), torch.ones(4, dtype=torch.float64)
    found = ks.eigenlearning(matrix, y, [1, 2, 3])
    assert found.kappa.tolist()[1:] == [0.0, 0.0]
    assert found.learned[1].tolist() == [1.0, 1.0, 0.0, 0.0]
    # Of a mean square of 1, half lies where the kernel is nought: not learned at all, and fitted as noise.
    assert float(found.error[1]) == math.inf
    assert abs(float(found.error[2]) - 3 / (3 - 2) * 0.5) <= 1e-12
    within = ks.eigenlearning(matrix, torch.tensor([1.0, 1.0, 0.0, 0.0]).double(), 2)
    assert float(within.error) == 0.0
    nought = ks.eigenlearning(0 * matrix, y, 2, ridge=0.1)
    assert float(nought.error) == 1.0


def test_more_samples_or_less_ridge_learn_more():
    values = torch.arange(1, 50, dtype=torch.float64) ** -2.0
    learned = [float(learnability(values, n, 0.1)[1].sum()) for n in (2, 8, 30)]
    assert learned == sorted(learned)
    kappas = [learnability(values, 10, delta)[0] for delta in (0.0, 0.01, 1.0, 1e6)]
    assert kappas == sorted(kappas)
    assert kappas[0] > 0


def test_what_is_no_pool_is_refused():
    eye, y = torch.eye(3).double(), torch.ones(3)
    for problem, (args, options) in {
        "square matrix": ((torch.ones(2, 3), y, 2), {}), "symmetric": ((eye + torch.ones(3, 3).triu(1), y, 2), {}),
        "2 targets came": ((eye, y[:2], 2), {}),
        "n=50 came for a pool of 3": ((eye, y, [2, 50]), {}), "n must be": ((eye, y, 0), {}),
        "several": ((eye, y, "many"), {}), "ridge must be": ((eye, y, 2), {"ridge": -1}),
        "noise must be": ((eye, y, 2), {"noise": "much"}), "Targets of a pool": ((eye, [1, 2, 3], 2), {}),
    }.items():
        with pytest.raises(DataError, match=problem):
            ks.eigenlearning(*args, **options)
    with pytest.raises(NonFiniteError):
        ks.eigenlearning(eye * torch.nan, y, 2)


def test_an_operator_and_a_kernel_of_a_run_are_pools_too():
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).double()
    y, kernel = x[:, :1] ** 2, ks.kernels.Gaussian(1.0)
    one, other = (ks.eigenlearning(given, y, 5) for given in (kernel(x), ks.KernelOperator(kernel, x)))
    assert float(one.error) == float(other.error)


def test_it_is_kept_and_drawn(tmp_path):
    found = ks.eigenlearning(torch.diag(torch.arange(8.0, 0.0, -1.0)), torch.ones(8), [1, 2, 4], ridge=0.1)
    found.save(tmp_path / "found")
    assert repr(ks.Eigenlearning.load(tmp_path / "found")) == repr(found)
    assert len(found.to_frame()) == 3
    assert "Expected error" in found.plot().get_title(loc="left")
    one = ks.eigenlearning(torch.eye(4), torch.ones(4), 2)
    assert "at 2 samples" in one.plot().get_title(loc="left")


# -- predictions -------------------------------------------------------------------------------------------------------


def test_ranks_correlate_as_in_scipy():
    g = torch.Generator().manual_seed(0)
    for n in (3, 10, 40):
        a = torch.randint(6, (n,), generator=g).double()
        b = a + torch.randn(n, generator=g, dtype=torch.float64).round()
        if a.std() and b.std():
            assert abs(float(spearman(a, b)) - float(spearmanr(a, b).statistic)) <= 1e-11


def test_predictions_are_compared_in_all_and_by_group(tmp_path):
    found = ks.predictions([1, 2, 3, 1, 2, 3], [1.0, 2.0, 3.0, 9.0, 8.0, 7.0], groups=["a"] * 3 + ["b"] * 3,
                           names=list("uvwxyz"), what=("foretold", "error"))
    assert abs(found.by_group["a"][0] - 1) <= 1e-12
    assert abs(found.by_group["b"][0] + 1) <= 1e-12
    assert found.interval[0] <= found.spearman <= found.interval[1]
    assert [row.status for row in found.check().rows] == ["warn", "warn"]
    found.save(tmp_path / "found")
    assert repr(ks.Predictions.load(tmp_path / "found")) == repr(found)
    assert found.to_frame()["error"].tolist() == found.measured.tolist()
    assert "Spearman" in found.plot().get_title(loc="left")
    assert "Foretold and measured" in ks.Report("Page", [found]).html()


def test_pairs_that_do_not_fit_are_refused():
    for problem, args in {"3 pairs or more": ([1, 2], [1, 2]), "2 measurements": ([1, 2, 3], [1, 2]),
                          "a list of numbers": ("abc", [1, 2, 3])}.items():
        with pytest.raises(DataError, match=problem):
            ks.predictions(*args)
    with pytest.raises(NonFiniteError):
        ks.predictions([1, 2, torch.nan], [1, 2, 3])
    for options in ({"groups": 5}, {"names": "abc"}, {"what": 3}, {"what": ("one",)}):
        with pytest.raises(DataError, match=f"{next(iter(options))} (must be a list|says what)"):
            ks.predictions([1, 2, 3], [1, 2, 3], **options)
    with pytest.raises(DataError, match="names"):
        ks.predictions([1, 2, 3], [1, 2, 3], names=["a"])
