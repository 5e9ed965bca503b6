"""What is known of outputs after training, against inverses, closed forms, published values and trained networks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope import plots
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.gaussian import posterior as room
from kernelscope.kernels.infinite import Dense, ReLU, Serial

NET = Serial(Dense(1.5, 0.05), ReLU(), Dense(1.5, 0.05), ReLU(), Dense(1.5, 0.05))
WAYS = ("nngp", "ensemble", "ntkgp")
VALUES = Path(__file__).parent / "data" / "predictions.json"


def sample(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, wanted, relative=1e-10):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= relative * max(1.0, float(wanted.abs().max()))


def spaced(shape, shift=0.1):
    """Numbers between -1 and 1 that need no generator."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (((i * 0.7548776662466927 + shift + (i * i * 0.5698402909980532) % 1) % 1) * 2 - 1).reshape(shape)


X, Y, Z = sample(12, 4), sample(12, 2, seed=1), sample(5, 4, seed=2)


@pytest.mark.parametrize("of", ["nngp", "ensemble"])
@pytest.mark.parametrize("time", [None, 3.0])
def test_means_and_covariances_are_those_of_neural_tangents(of, time):
    values = json.loads(VALUES.read_text(encoding="utf-8"))[f"{of}, time {time}"]
    x, z, y = spaced((4, 5)), spaced((3, 5), 0.37), spaced((4, 2), 0.55)
    kernel = NET.nngp if of == "nngp" else NET.ntk
    # There a ridge is relative to the mean of the diagonal, and the error a mean over outputs too.
    ridge = 1e-3 * float(kernel.diagonal(x).mean()) / len(x)
    found = ks.posterior(NET, x, y, z, of=of, ridge=ridge, time=None if time is None else time / y.shape[1])
    close(found.mean, torch.tensor(values["mean"], dtype=torch.float64), 1e-9)
    close(found.covariance, torch.tensor(values["covariance"], dtype=torch.float64), 1e-9)


@pytest.mark.parametrize("kernel", [ks.kernels.Gaussian(1.5), ks.kernels.Laplacian(2.0), NET.nngp, NET.ntk])
def test_the_posterior_of_a_gaussian_process_is_the_conditional_distribution(kernel):
    found = ks.posterior(kernel, X, Y, Z, ridge=1e-2)
    joint = torch.cat([X, Z])
    whole = kernel(joint) + torch.diag(torch.cat([torch.full((12,), 0.12, dtype=X.dtype), torch.zeros(5)]))
    inverse = torch.linalg.inv(whole[:12, :12])
    close(found.mean, whole[12:, :12] @ inverse @ Y)
    close(found.covariance, whole[12:, 12:] - whole[12:, :12] @ inverse @ whole[:12, 12:])
    density = torch.distributions.MultivariateNormal(torch.zeros(12, dtype=torch.float64), whole[:12, :12])
    assert found.evidence == pytest.approx(float(density.log_prob(Y.T).sum()), rel=1e-10)
    assert found.check().ok


@pytest.mark.parametrize("of", WAYS)
def test_long_training_ends_where_training_to_the_end_does_and_none_is_the_prior(of):
    end = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of)
    course = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, time=[0.0, 1e7, math.inf])
    for place in (1, 2):
        close(course.mean[place], end.mean, 1e-9)
        close(course.covariance[place], end.covariance, 1e-9)
    close(course.mean[0], torch.zeros(5, 2, dtype=torch.float64))
    close(course.covariance[0], (NET.ntk if of == "ntkgp" else NET.nngp)(Z))


@pytest.mark.parametrize("of", WAYS)
def test_several_times_at_once_are_each_of_them(of):
    course = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, time=[0.5, 20.0])
    one = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, time=20.0)
    assert one.mean.shape == (5, 2)
    close(course.mean[1], one.mean)
    close(course.covariance[1], one.covariance)
    assert course.to_frame().shape == (2 * 5 * 2, 5)


@pytest.mark.parametrize("time", [20, np.float32(20), np.array(20.0), torch.tensor(20.0)])
def test_a_number_of_any_kind_is_one_time(time):
    found, one = (ks.posterior(NET, X, Y, Z, ridge=1e-2, time=value) for value in (time, 20.0))
    assert torch.equal(found.mean, one.mean)
    assert torch.equal(found.covariance, one.covariance)
    assert ks.posterior(NET, X, Y, Z, ridge=1e-2, time=torch.tensor([20.0])).mean.shape == (1, 5, 2)


@pytest.mark.parametrize("of", WAYS)
@pytest.mark.parametrize("time", [None, [0.1, 3.0, 100.0]])
def test_covariances_are_positive_semidefinite(of, time):
    found = ks.posterior(NET, X, Y, torch.cat([Z, X[:3], Z[:1]]), ridge=1e-3, of=of, time=time)
    assert float(torch.linalg.eigvalsh(found.covariance).min()) >= -1e-12
    assert found.check().ok


def test_more_samples_never_make_a_gaussian_process_less_certain():
    found = [ks.posterior(NET, X[:n], Y[:n], Z, ridge=0.3 / n).std for n in (2, 5, 9, 12)]
    assert all(bool((after <= before + 1e-12).all()) for before, after in zip(found, found[1:], strict=False))


def test_a_linear_network_moves_as_gradient_flow_of_linear_regression():
    # With one layer outputs are w.x / root d, and w has a differential equation of its own.
    net, d = Serial(Dense(1.0)), X.shape[1]
    phi, test, ridge, time = X / d**0.5, Z / d**0.5, 0.05, 7.0
    a = phi.T @ phi / len(X) + ridge * torch.eye(d, dtype=torch.float64)
    decay = torch.linalg.matrix_exp(-a * time)
    mean = torch.linalg.solve(a, (torch.eye(d, dtype=torch.float64) - decay) @ phi.T @ Y / len(X))
    found = ks.posterior(net, X, Y, Z, of="ensemble", ridge=ridge, time=time)
    close(found.mean, test @ mean)
    # The start decays by the data, and is held by the ridge.
    kept = torch.eye(d, dtype=torch.float64) - torch.linalg.solve(
        a, torch.eye(d, dtype=torch.float64) - decay) @ phi.T @ phi / len(X)
    close(found.covariance, test @ kept @ kept.T @ test.T)


def test_the_mean_of_an_ensemble_is_that_of_the_process_of_its_tangent_kernel():
    for time in (None, 3.0):
        one, other = (ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, time=time) for of in ("ensemble", "ntkgp"))
        close(one.mean, other.mean)
        assert not torch.allclose(one.covariance, other.covariance)


def test_two_kernels_are_an_ensemble_that_starts_with_one_and_learns_by_the_other():
    for time in (None, 3.0):
        one = ks.posterior(NET, X, Y, Z, ridge=1e-2, of="ensemble", time=time)
        other = ks.posterior((NET.nngp, NET.ntk), X, Y, Z, ridge=1e-2, time=time)
        close(other.mean, one.mean)
        close(other.covariance, one.covariance)


def test_samples_that_are_asked_about_are_interpolated_without_a_ridge():
    found = ks.posterior(NET, X, Y, X, ridge=0.0)
    close(found.mean, Y, 1e-8)
    assert float(found.std.max()) <= 1e-6


def test_means_alone_are_those_with_covariances():
    for of in WAYS:
        one = ks.posterior(NET, X, Y[:, 0], Z, ridge=1e-2, of=of, covariance=False)
        close(one.mean, ks.posterior(NET, X, Y[:, 0], Z, ridge=1e-2, of=of).mean)
        assert one.covariance is None
        with pytest.raises(AttributeError, match="covariance=True"):
            one.std  # noqa: B018


@pytest.mark.parametrize("of", WAYS)
def test_what_does_not_fit_in_memory_is_solved_by_conjugate_gradients(of, monkeypatch):
    wanted = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of)
    fitted, fit = [], room.fit
    monkeypatch.setattr(room, "fit", lambda *a, **more: fitted.append(1) or fit(*a, **more | {"memory": "1GB"}))
    found = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, memory=4_000)
    assert fitted
    close(found.mean, wanted.mean, 1e-7)
    close(found.covariance, wanted.covariance, 1e-7)
    assert found.check().ok


@pytest.mark.parametrize("of", ["nngp", "ensemble"])
def test_a_matrix_in_a_folder_serves_other_test_points_too(of, tmp_path):
    for z in (Z, Z.flip(0) / 2):
        wanted = ks.posterior(NET, X, Y, z, ridge=1e-2, of=of)
        found = ks.posterior(NET, X, Y, z, ridge=1e-2, of=of, tiles=tmp_path / "tiles")
        close(found.mean, wanted.mean, 1e-7)
        close(found.covariance, wanted.covariance, 1e-7)
    assert len(list((tmp_path / "tiles").glob("*.tile"))) == 1
    with pytest.raises(DataError, match="Leave out tiles, or time"):
        ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of, time=1.0, tiles=tmp_path / "tiles")


@pytest.mark.parametrize("of", WAYS)
def test_single_precision_tells_the_same(of):
    wanted = ks.posterior(NET, X, Y, Z, ridge=1e-2, of=of)
    found = ks.posterior(NET, X.float(), Y, Z.float(), ridge=1e-2, of=of)
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    close(found.mean, wanted.mean, 1e-5)
    close(found.covariance, wanted.covariance, 1e-5)
    assert found.check().ok


def test_what_fits_by_no_way_is_refused_with_advice():
    with pytest.raises(OutOfBudget, match=r"Finite times need all eigenvectors of 12 samples, .*time=None"):
        ks.posterior(NET, X, Y, Z, ridge=1e-2, time=1.0, memory=4_000)
    with pytest.raises(OutOfBudget, match=r"Covariances of 5 test points .*covariance=False"):
        ks.posterior(NET, X, Y, Z, ridge=1e-2, memory=1_000)
    with pytest.raises(OutOfBudget, match=r"The matrices of 12 samples do not fit .*, nor do 7 equations .*covariance"):
        ks.posterior(NET, X, Y, Z, ridge=1e-2, memory=4_000)


def test_what_is_no_posterior_is_refused_with_what_would_be():
    for match, change in {
        "network of ks.kernels.infinite, or of a kernel": {"prior": "nngp"},
        'of must be "nngp" or "ensemble" or "ntkgp"': {"of": "ntk"},
        "A time is a number from 0 on; -1.0 came": {"time": -1.0},
        "an empty list came": {"time": []},
        "A ridge is a number from 0 on": {"ridge": -1.0},
        "A posterior has one ridge; 2 came": {"ridge": [1.0, 2.0]},
        "There are 12 points, and targets of shape": {"y": Y[:3]},
        "compares points of one size": {"x_test": Z[:, :2]},
    }.items():
        arguments = {"prior": NET, "x": X, "y": Y, "x_test": Z, "ridge": 1e-2} | change
        prior, x, y, z = (arguments.pop(name) for name in ("prior", "x", "y", "x_test"))
        with pytest.raises(DataError, match=match):
            ks.posterior(prior, x, y, z, **arguments)
    with pytest.raises(DataError, match="of= is asked of a network"):
        ks.posterior(NET.nngp, X, Y, Z, ridge=1e-2, of="nngp")
    with pytest.raises(DataError, match="not positive definite beyond rounding"):
        ks.posterior(NET, torch.cat([X, X]), torch.cat([Y, Y]), Z, ridge=0.0)
    with pytest.raises(NonFiniteError, match="Point 2"):
        ks.posterior(NET, X, Y, Z.index_fill(0, torch.tensor([2]), math.nan), ridge=1e-2)


def test_a_posterior_is_kept_told_and_drawn(tmp_path):
    found = ks.posterior(NET, X, Y, Z, ridge=1e-2, time=[1.0, math.inf])
    found.save(tmp_path / "posterior")
    again = ks.Posterior.load(tmp_path / "posterior")
    assert torch.equal(again.covariance, found.covariance)
    assert torch.equal(again.times, found.times)
    assert repr(again) == repr(found)
    assert "2 times; the median standard deviation is" in repr(found)
    assert "At time 1, outputs are known up to" in plots.title(found, time=0, output=1)
    assert "log evidence" in repr(ks.posterior(NET, X, Y, Z, ridge=1e-2))
    means = ks.posterior(NET, X, Y, Z, ridge=1e-2, covariance=False)
    assert plots.title(means) == "At the end of training, the means of 5 test points"


@pytest.mark.slow
@pytest.mark.parametrize("time", [2.0, 30.0])
def test_networks_that_were_trained_have_the_mean_and_the_spread_of_the_ensemble(time):
    width, seeds, rate, d = 512, 1500, 0.5, 3
    x, y, z = spaced((6, d)), spaced((6,), 0.3), spaced((4, d), 0.6)
    g = torch.Generator().manual_seed(0)
    w, v = torch.randn(seeds, width, d, generator=g), torch.randn(seeds, width, generator=g)
    x, z, y = x.float(), z.float(), y.float()
    s, steps = 2**0.5, round(time / rate)
    forward = lambda points, w, v: torch.einsum(
        "sw,swn->sn", v, torch.relu(torch.einsum("swd,nd->swn", w, points) * (s / d**0.5))) * (s / width**0.5)
    for _ in range(steps):
        before = torch.einsum("swd,nd->swn", w, x) * (s / d**0.5)
        hidden = torch.relu(before)
        error = (torch.einsum("sw,swn->sn", v, hidden) * (s / width**0.5) - y) / len(y)
        back = torch.einsum("sn,sw,swn->swn", error, v, (before > 0).float()) * (s / width**0.5)
        v = v - rate * torch.einsum("sn,swn->sw", error, hidden) * (s / width**0.5)
        w = w - rate * torch.einsum("swn,nd->swd", back, x) * (s / d**0.5)
    outputs = forward(z, w, v).double()
    net = Serial(Dense(s), ReLU(), Dense(s))
    found = ks.posterior(net, x.double(), y.double(), z.double(), of="ensemble", ridge=0.0, time=time)
    standard = found.std / seeds**0.5
    # Steps and widths are finite: beside the chance of the seeds, a few hundredths of the spread.
    assert bool(((outputs.mean(0) - found.mean[:, 0]).abs() <= 4 * standard + 0.02 * found.std).all())
    assert bool(((outputs.std(0) / found.std - 1).abs() <= 4 / (2 * seeds) ** 0.5 + 0.03).all())
    assert float((torch.corrcoef(outputs.T) - found.covariance / found.std / found.std[:, None]).abs().max()) <= 0.12
