"""What once gave a wrong number, hung, or refused what is right."""

import numpy as np
import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.solvers import ConjugateGradient, EigenPro, Huber, Newton, WarmStart

L = ks.kernels.Laplacian(1.0)


def data(n=60, d=2):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, x[:, 0].sin()


def test_test_targets_of_another_shape_are_no_test_targets():
    x, y = data()
    with pytest.raises(DataError, match="same outputs"):
        ks.scaling(L, (x, y), (x, y[:, None]), centers=[5], samples=[50])
    with pytest.raises(DataError, match="another loss"):
        ks.scaling(L, (x, (y > 0).double()), (x, (y > 0).double()), centers=[5], samples=[50],
                   solver=Newton("logistic"))


@pytest.mark.parametrize(("one", "other"), [
    (WarmStart(EigenPro(epochs=1, batch=20)), WarmStart(EigenPro(epochs=9, seed=4))),
    (WarmStart(then=ConjugateGradient(tolerance=0.5)), WarmStart(then=ConjugateGradient(tolerance=1e-9))),
    (Newton(Huber(0.5)), Newton(Huber(0.5000000001))),
])
def test_a_checkpoint_of_another_solver_is_refused_however_deep_the_difference_lies(tmp_path, one, other):
    x, y = data()
    ks.fit(L, x, y, centers=20, ridge=1e-3, solver=one, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(DataError, match="solver"):
        ks.fit(L, x, y, centers=20, ridge=1e-3, solver=other, checkpoint=tmp_path / "c", progress=False)


def test_a_checkpoint_of_another_network_is_refused_where_the_first_centers_are_alike(tmp_path):
    x, y = data()
    z = x[:20].clone()
    z[:4, 1] = 0
    net = nn.Linear(2, 1, dtype=torch.float64)
    wide = nn.Sequential(net, nn.Tanh())
    fit = lambda: ks.fit(ks.kernels.Tangent(wide), x, y, centers=z, ridge=1e-3, checkpoint=tmp_path / "c",
                         progress=False)
    fit()
    with torch.no_grad():
        net.weight[:, 1] += 0.5
    with pytest.raises(DataError, match="kernel"):
        fit()


def test_a_machine_is_opened_with_its_own_kernel_only(tmp_path):
    x, y = data()
    ks.fit(L, x, y, centers=x[:1], progress=False, ridge=1e-3).save(tmp_path / "m")
    with pytest.raises(DataError, match="knows its own"):
        ks.KernelMachine.load(tmp_path / "m", kernel=ks.kernels.Gaussian(9.0))
    assert ks.KernelMachine.load(tmp_path / "m", kernel=ks.kernels.Laplacian(1.0))(x[:2]).shape == (2,)


@pytest.mark.parametrize("size", [1e308, 1e-310])
def test_weights_may_be_as_large_or_as_small_as_numbers_are(size):
    x, y = data()
    w = torch.linspace(0.1, 1.0, 60, dtype=torch.float64)
    near = lambda weights: ks.fit(L, x, y, centers=10, ridge=1e-3, weights=weights, progress=False)(x)
    assert torch.allclose(near(size * w), near(w), rtol=1e-6, atol=1e-9)


def test_masks_and_imaginary_parts_are_not_ignored():
    x, y = data()
    with pytest.raises(DataError, match="masked"):
        ks.fit(L, np.ma.masked_array(x.numpy(), np.zeros_like(x.numpy())), y, progress=False)
    for weights in (np.ma.masked_array(np.ones(60), np.zeros(60)), torch.ones(60, dtype=torch.complex64)):
        with pytest.raises(DataError, match="real numbers"):
            ks.fit(L, x, y, weights=weights, progress=False)


@pytest.mark.parametrize("centers", [None, 5])
def test_a_kernel_that_is_nought_ends_in_an_error(centers):
    x, y = data()
    with pytest.raises(DataError, match="nought"):
        ks.fit(0 * L, x, y, centers=centers, ridge=1e-3, solver="eigenpro", progress=False)


@pytest.mark.parametrize("solver", [None, "direct", "cg", "eigenpro"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_that_an_intercept_takes_up_leave_nothing_and_disturb_nobody(solver, dtype):
    x = torch.linspace(-1, 1, 50, dtype=dtype)[:, None]
    y = torch.full((50,), 0.1, dtype=dtype)
    fit = lambda targets: ks.fit(L, x, targets, intercept=True, ridge=1e-3, solver=solver, progress=False)(x)
    assert torch.allclose(fit(y), y, atol=1e-5)
    assert float((fit(torch.stack([x[:, 0], y], 1))[:, 0] - fit(x[:, 0])).abs().max()) < 2e-2


@pytest.mark.parametrize(("make", "said"), [
    (lambda: EigenPro(tolerance="a"), "tolerance must be a number between 0 and 1"),
    (lambda: EigenPro(batch=True), "batch must be a whole number from 1 on"),
    (lambda: EigenPro(variant=True), "variant must be 2, 3, 4"),
    (lambda: EigenPro(seed=2**80), "seed must be a whole number from 0"),
    (lambda: EigenPro(seed=-1), "seed must be a whole number from 0"),
    (lambda: ConjugateGradient(tolerance="a"), "tolerance must be a number between 0 and 1"),
    (lambda: Newton(tolerance=None), "tolerance must be a number between 0 and 1"),
    (lambda: WarmStart("cg"), "first must be a Solver"),
    (lambda: WarmStart(then="cg"), "then must be a ConjugateGradient"),
    (lambda: ks.fit(L, *data(), seed="a"), "seed must be a whole number"),
    (lambda: ks.fit(L, *data(), centers=5, seed=2**80), "seed must be a whole number"),
    (lambda: ks.fit(L, *data(), ridge=10**400), "beyond what a number can be"),
    (lambda: ks.fit(L, *data(), weights=torch.ones(60).to_sparse()), "a sparse one|Weights are numbers"),
    (lambda: ks.fit(L, *data(), weights=torch.ones(60, device="meta")), "Weights are numbers"),
    (lambda: ks.fit(L, *data(), progress=False).at(np.ones(2)), "is none of them"),
    (lambda: ks.data.patches(seed="a"), "seed must be a whole number"),
    (lambda: ks.KernelOperator(L, data()[0]).trace(probes=6, seed="a"), "seed must be a whole number"),
    (lambda: ks.KernelOperator(L, data()[0]).norm(probes=6, seed=1.5), "seed must be a whole number"),
    (lambda: ks.KernelOperator(L, data()[0]).eigenpairs(2, seed=2**80), "seed must be a whole number"),
    (lambda: ks.kernels.median_bandwidth(data()[0], points=5, seed="a"), "seed must be a whole number"),
])
def test_settings_that_are_none_are_refused_in_a_sentence(make, said):
    with pytest.raises(DataError, match=said):
        make()


def test_a_ridge_is_found_whatever_kind_of_number_it_is():
    machine = ks.fit(L, *data(), ridge=[1.0, 0.5], progress=False)
    for half in (0.5, np.float32(0.5), np.float64(0.5)):
        assert machine.at(half).fitting.ridge == 0.5
    assert machine.at(np.int64(1)) is machine


def test_one_center_has_no_tail():
    x, y = data()
    one, other = (ks.fit(L, x, y, centers=1, solver=solver, progress=False)
                  for solver in (ConjugateGradient("two-level"), "direct"))
    assert torch.allclose(one.coefficients, other.coefficients, rtol=1e-6)


def test_errors_that_are_nought_fall_by_nothing():
    x, y = data()
    found = ks.scaling(L, (x, 0 * y), (x, 0 * y), centers=[5, 10], samples=[50])
    assert found.gain("centers") == (5, 10, 0.0)
    assert "nan" not in found.said()


def test_what_a_kernel_is_too_large_or_the_points_too_alike_for_is_said():
    x, y = data()
    with pytest.raises(DataError, match="bandwidth must be from 1e-150"):
        ks.kernels.Gaussian(1e160)
    with pytest.raises(DataError, match="but a constant, which the intercept is"):
        ks.fit(L, torch.ones_like(x), y, centers=5, intercept=True, solver="eigenpro", progress=False)


def test_whole_numbers_of_other_libraries_are_whole_numbers():
    assert EigenPro(batch=np.int64(8)).batch == 8
    x, y = data()
    ks.fit(L, x, y, centers=5, ridge=1e-3, solver=EigenPro(seed=2**63 - 1), seed=2**63 - 1, progress=False)


def test_weights_of_a_table_whose_rows_are_counted_in_another_way():
    pd = pytest.importorskip("pandas")
    x, y = data()
    w = torch.arange(60.0) + 1
    fits = [ks.fit(L, x, y, centers=5, weights=weights, progress=False)
            for weights in (w, pd.Series(w.numpy(), index=range(100, 160)))]
    assert torch.equal(fits[0].coefficients, fits[1].coefficients)


def test_a_loss_is_named_and_minimised():
    x, y = data()
    classes = (y > 0).double()
    named, made = (ks.fit(L, x, classes, centers=20, ridge=1e-3, progress=False, **how)
                   for how in ({"loss": "logistic"}, {"solver": Newton("logistic")}))
    assert torch.equal(named.coefficients, made.coefficients)
    plain, squared = (ks.fit(L, x, y, centers=20, ridge=1e-3, progress=False, **how)
                      for how in ({}, {"loss": "squared", "solver": "direct"}))
    assert torch.allclose(plain.coefficients, squared.coefficients)
    for how in ({"loss": "huber", "solver": "direct"}, {"loss": "squared", "solver": Newton("huber")},
                {"loss": "huber", "solver": Newton(Huber(2.0))}):
        with pytest.raises(DataError, match="is minimised by"):
            ks.fit(L, x, y, progress=False, **how)
    with pytest.raises(DataError, match="loss must be"):
        ks.fit(L, x, y, loss="hinge", progress=False)
