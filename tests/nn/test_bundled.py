import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, StoreCorrupt, StoreExists
from kernelscope.nn import BundledModel, bundle
from tests.nn.small import digits, network, points, trained


def bundled(n=60, features=16, seed=0, **options):
    x = points(n)
    model, report = bundle(network(), x, mode="full", features=features, seed=seed, **options)
    return x, model, report


@pytest.mark.parametrize("options", [{}, {"skip": True}, {"tower": "fourier"}, {"features": [12, 16]}])
def test_a_bundled_network_is_the_ridge_regression_on_its_features(options):
    x, model, _ = bundled(**options)
    features = model.features.phi(x)
    rival = Ridge(alpha=len(x) * model.ridge, solver="cholesky").fit(features.numpy(), model.targets.numpy())
    assert np.allclose(model(x).detach().numpy(), rival.predict(features.numpy()), atol=1e-9)


def test_primal_and_dual_are_one_function():
    x, model, _ = bundled()
    fresh = points(20, seed=3)
    machine = ks.fit(model.kernel, x, model.targets, ridge=model.ridge, intercept=True, solver="direct")
    assert torch.allclose(machine(fresh), model(fresh), atol=1e-8)
    assert torch.allclose(model.machine()(fresh), model(fresh), atol=1e-9)


def test_contributions_and_the_constant_are_the_value():
    x, model, _ = bundled()
    fresh = points(7, seed=3)
    why = model.contributions(fresh)
    assert why.check().ok
    assert torch.allclose(why.terms.sum(-1) + why.intercept, model(fresh).double(), atol=1e-9)
    k = model.kernel(fresh, x)
    alpha = (model.targets - model(x)) / (len(x) * model.ridge)
    assert torch.allclose(why.terms[2, 1], k[2] * alpha[:, 1].detach(), atol=1e-7)


def test_leaving_one_out_equals_as_many_refits():
    x, model, _ = bundled(n=30, features=12)
    told = model.leave_one_out()
    features = model.features.phi(x).numpy()
    for i in range(len(x)):
        rest = [j for j in range(len(x)) if j != i]
        refit = Ridge(alpha=len(rest) * model.ridge, solver="cholesky").fit(features[rest],
                                                                             model.targets[rest].numpy())
        assert np.allclose(told[i].numpy(), refit.predict(features[i:i + 1])[0], atol=1e-9)


def test_without_some_samples_it_is_what_a_refit_gives():
    x, model, _ = bundled()
    rest = model.without([0, 5, -1])
    assert len(rest.samples) == len(x) - 3
    stays = [i for i in range(len(x)) if i not in (0, 5, len(x) - 1)]
    refit = Ridge(alpha=len(stays) * model.ridge, solver="cholesky").fit(model.features.phi(x[stays]).numpy(),
                                                                         model.targets[stays].numpy())
    fresh = points(9, seed=3)
    assert np.allclose(rest(fresh).detach().numpy(), refit.predict(model.features.phi(fresh).numpy()), atol=1e-9)
    one = model.without(4)
    assert torch.allclose(one(x[4:5]), model.leave_one_out()[4:5], atol=1e-9)


def test_what_is_left_can_be_asked_again():
    x, model, _ = bundled()
    rest = model.without(slice(0, 10))
    assert rest.leave_one_out().shape == (50, 3)
    assert torch.allclose(rest.without([0]).machine()(x), rest.without([0])(x), atol=1e-8)


def test_all_samples_cannot_be_left_out():
    _, model, _ = bundled()
    with pytest.raises(DataError, match="All 60 samples would be left out"):
        model.without(slice(None))


def test_the_spectrum_is_that_of_the_centred_kernel_matrix():
    x, model, _ = bundled(features=8, skip=False)
    k = model.kernel(x)
    centre = torch.eye(len(x), dtype=torch.float64) - 1 / len(x)
    true = torch.linalg.eigvalsh(centre @ k @ centre).flip(0)[:8]
    assert torch.allclose(model.spectrum, true, atol=1e-9 * float(true[0]))


def test_as_many_features_as_samples_interpolate_without_a_ridge():
    x, model, _ = bundled(n=30, features=64, ridge=1e-13)
    assert float((model(x) - model.targets).detach().abs().max()) < 1e-5


def test_a_very_large_ridge_leaves_the_mean():
    x, model, _ = bundled(ridge=1e15)
    assert torch.allclose(model(x), model.targets.mean(0).expand(len(x), -1), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"skip": True}, {"tower": "fourier"}, {"features": [12, 16]}])
def test_a_network_that_is_loaded_answers_bit_for_bit(tmp_path, options):
    x, model, _ = bundled(**options)
    model.save(tmp_path / "net")
    again = BundledModel.load(tmp_path / "net")
    assert torch.equal(again(x), model(x))
    assert torch.equal(again.leave_one_out(), model.leave_one_out())
    assert torch.equal(again.contributions(x[:2]).terms, model.contributions(x[:2]).terms)
    with pytest.raises(StoreExists):
        model.save(tmp_path / "net")


def test_a_state_dictionary_carries_the_directions():
    x, model, _ = bundled()
    _, other, _ = bundled(seed=1)
    assert not torch.equal(other(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_parameters_that_were_trained_on_are_no_machine():
    x, model, _ = bundled()
    assert model.machine() is not None
    with torch.no_grad():
        model.layer.weight[0] += 1.0
    for ask in (lambda: model.contributions(x), model.leave_one_out, lambda: model.without(0)):
        with pytest.raises(DataError, match="no longer what was solved for"):
            ask()


def test_directions_that_were_loaded_are_the_ones_that_are_asked():
    x, model, _ = bundled()
    _, other, _ = bundled(seed=1)
    other.leave_one_out()
    other.load_state_dict(model.state_dict())
    other.ridge = model.ridge
    assert torch.allclose(other.leave_one_out(), model.leave_one_out(), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_in_any_precision_is_its_machine(dtype):
    x = points(60).to(dtype)
    model, _ = bundle(network().to(dtype), x, mode="full", features=16)
    gap = (model.machine()(x) - model(x)).detach().abs().max() / model(x).detach().abs().max()
    assert float(gap) < {torch.float32: 1e-5, torch.float64: 1e-11}[dtype]
    assert model.contributions(x[:3]).check().ok


def test_another_folder_is_refused(tmp_path):
    with ks.storage.Store.create(tmp_path / "net", kind="bundled", meta={"towers": ["Linear"]}) as store:
        store.append({"layer.mean": torch.zeros(2)})
    with pytest.raises(StoreCorrupt, match="lacks a part of a bundled network"):
        BundledModel.load(tmp_path / "net")


def test_points_of_another_size_are_refused():
    _, model, _ = bundled()
    with pytest.raises(DataError, match="bundled for points of 5 numbers"):
        model(points(4, 3))


def test_images_are_read_as_rows():
    x = points(40, 16).view(40, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), network(16))
    flat, _ = bundle(model, x, mode="full", features=8)
    assert flat(x).shape == (40, 3)
    assert flat.contributions(x[:2]).check().ok


def test_digits_are_bundled_into_six_thousand_numbers():
    train, test = digits("train"), digits("test")
    found = [bundle(trained(), train.x, train.y, mode="full", features=512, seed=seed, test=(test.x, test.y))[1]
             for seed in range(3)]
    assert all(report.parameters_after <= 6000 for report in found)
    assert all(report.score_after >= 0.975 for report in found)
    assert all(report.score_after > report.score_linear + 0.02 for report in found)


def test_the_kernel_of_many_features_is_near_its_limit():
    train, test = digits("train"), digits("test")
    model, report = bundle(trained(), train.x, train.y, mode="full", features=2048, test=(test.x, test.y))
    near = (train.x.double() - model.layer.mean) / model.layer.scale
    far = (test.x.double() - model.layer.mean) / model.layer.scale
    exact = ks.fit(ks.kernels.ArcCosine(order=1), near, model.targets, ridge=model.ridge, intercept=True,
                   solver="direct")
    limit = float((exact(far).argmax(1) == test.y).double().mean())
    assert abs(report.score_after - limit) <= 0.011
