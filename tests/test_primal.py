"""A machine of features is the minimum it says it is, and knows what it would be with other samples and ridges."""

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, KernelscopeError, NonFiniteError, OutOfBudget, OutOfRange
from kernelscope.features import ArcCosineFeatures, FeatureMap, GradientFeatures, Projected, RandomFourier
from kernelscope.machine import samples as reading
from kernelscope.machine.left_out import LeaveOneOut
from kernelscope.machine.ridges import Ridges
from kernelscope.solvers import PCG, EigenPro
from kernelscope.solvers.ridge import NormalEquations, RidgePath
from tests.laws import assert_close

N, P, D, C = 40, 12, 3, 2


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Bent(FeatureMap):
    """tanh of fixed directions, with one vector for each point."""

    def __init__(self, size=P, seed=7):
        self.size, self.seed, self.read = size, seed, []

    def phi(self, x):
        part = self.points(x)
        values = part.part(0, len(part)).args[0]
        self.read.append(len(values))
        turned = random(D, self.size, seed=self.seed) + 0.3
        return torch.tanh(values @ turned.to(values) + 0.2)


class Twice(FeatureMap):
    """Two vectors for each point, one for each output."""

    size, columns = 5, 2

    def phi(self, x):
        return torch.stack([Bent(5, seed=1).phi(x), Bent(5, seed=2).phi(x)], 1)


MAP = Bent()
X, Y, W = random(N, D), random(N, C, seed=1), random(N, seed=3).abs() + 0.1
X2, Y2 = random(15, D, seed=4), random(15, C, seed=5)
every = pytest.mark.parametrize("weights", [None, W], ids=["", "weights"])
both = pytest.mark.parametrize("intercept", [False, True], ids=["", "intercept"])


def fit(k=MAP, x=X, y=Y, **options):
    return ks.fit(k, x, y, **{"progress": False, "ridge": 1e-2, **options})


def by_least_squares(phi, y, ridge, weights=None, intercept=False):
    """Coefficients and intercept of the minimum: one dense least-squares problem, with the penalty as more rows."""
    n, p = phi.shape
    w = torch.ones(n, dtype=phi.dtype) if weights is None else weights
    columns = torch.cat([phi, torch.ones(n, 1, dtype=phi.dtype)], 1) if intercept else phi
    penalty = torch.eye(p, columns.shape[1], dtype=phi.dtype) * (ridge * w.sum()).sqrt()
    rows = torch.cat([w.sqrt()[:, None] * columns, penalty])
    right = torch.cat([w.sqrt()[:, None] * y, y.new_zeros(p, y.shape[1])])
    found = torch.linalg.lstsq(rows, right, driver="gelsd").solution
    return (found[:p], found[p]) if intercept else (found, y.new_zeros(y.shape[1]))


def hat(phi, ridge, intercept, weights=None):
    """The matrix that takes targets to fitted values, column by column."""
    eye = torch.eye(len(phi), dtype=phi.dtype)
    theta, b = by_least_squares(phi, eye, ridge, weights, intercept)
    return phi @ theta + b


def left(i, n=N):
    return [j for j in range(n) if j != i]


# -- the minimum -----------------------------------------------------------------------------------------------------


@every
@both
@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 3.0])
def test_weights_are_those_of_least_squares_with_the_penalty_as_more_rows(weights, intercept, ridge):
    machine = fit(weights=weights, intercept=intercept, ridge=ridge)
    theta, b = by_least_squares(MAP.phi(X), Y, ridge, weights, intercept)
    assert_close(machine.coefficients, theta, 1e-9)
    assert_close(machine.intercept, b, 1e-9, scale=1)
    assert_close(machine(X2), MAP.phi(X2) @ theta + b, 1e-9)


@every
def test_the_space_of_features_and_that_of_samples_give_one_function(weights):
    machine = fit(weights=weights)
    w = torch.ones(N, dtype=torch.float64) if weights is None else weights / weights.mean()
    phi = MAP.phi(X)
    alpha = torch.linalg.solve(phi @ phi.T + N * 1e-2 * torch.diag(1 / w), Y)
    assert_close(machine(X2), MAP.phi(X2) @ phi.T @ alpha, 1e-9)


@every
@both
def test_ks_fit_with_the_kernel_of_the_features_gives_the_same_function(weights, intercept):
    k = ks.kernels.FeatureKernel(MAP)
    dual = fit(k, weights=weights, intercept=intercept)
    for primal in (fit(weights=weights, intercept=intercept),
                   fit(k, weights=weights, intercept=intercept, solver="primal")):
        assert isinstance(primal, ks.FeatureMachine)
        assert_close(primal(X2), dual(X2), 1e-8)


@every
@both
def test_scikit_learn_gives_the_same_weights(weights, intercept):
    linear_model = pytest.importorskip("sklearn.linear_model")
    w = torch.ones(N, dtype=torch.float64) if weights is None else weights
    other = linear_model.Ridge(alpha=float(1e-2 * w.sum()), fit_intercept=intercept)
    other.fit(MAP.phi(X).numpy(), Y.numpy(), sample_weight=w.numpy())
    machine = fit(weights=weights, intercept=intercept)
    assert_close(machine.coefficients, torch.tensor(other.coef_).T, 1e-9)
    assert_close(machine.intercept, torch.tensor(other.intercept_).expand(C), 1e-9, scale=1)


def test_a_huge_ridge_leaves_nothing_but_the_mean():
    assert float(fit(ridge=1e12)(X2).abs().max()) < 1e-9
    assert_close(fit(ridge=1e12, intercept=True)(X2), Y.mean(0).expand(15, C), 1e-9)
    mean = (W[:, None] * Y).sum(0) / W.sum()
    assert_close(fit(ridge=1e12, intercept=True, weights=W)(X2), mean.expand(15, C), 1e-9)


@both
def test_without_a_ridge_as_many_features_as_samples_pass_through_all_targets(intercept):
    wide = Bent(2 * N)
    machine = fit(wide, ridge=0.0, intercept=intercept)
    assert_close(machine(X), Y, 1e-6)
    if not intercept:
        assert_close(machine.coefficients, torch.linalg.pinv(wide.phi(X)) @ Y, 1e-5)


def test_any_ridge_is_a_refit_without_another_pass():
    features = Bent()
    machine = fit(features, ridge=[1e-4, 1.0], intercept=True)
    read = len(features.read)
    for ridge in (1e-4, 1.0, 0.05, 0.0):
        assert_close(machine.at(ridge).coefficients, fit(ridge=ridge, intercept=True).coefficients, 1e-10)
    assert len(features.read) == read
    with pytest.raises(DataError, match="A ridge is a number"):
        machine.at(-1.0)


def test_outputs_of_a_map_are_summed_over_as_their_kernel_does():
    net = nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, C)).double()
    for features in (Twice(), GradientFeatures(net), Projected(GradientFeatures(net), 20)):
        machine, dual = fit(features, intercept=True), fit(ks.kernels.FeatureKernel(features), intercept=True)
        assert_close(machine(X2), dual(X2), 1e-8)
        assert machine.contributions(X2).check().ok


def test_single_precision_is_summed_in_double():
    machine = fit(x=X.float(), y=Y.float(), ridge=1e-6)
    assert machine(X2.float()).dtype == torch.float32
    assert_close(machine.coefficients, by_least_squares(MAP.phi(X.float()).double(), Y.float().double(), 1e-6)[0], 1e-9)


def test_targets_without_an_axis_give_values_without_one():
    machine = fit(y=Y[:, 0], intercept=True)
    assert machine(X2).shape == (15,)
    assert machine.coefficients.shape == (P,)
    assert machine.intercept.shape == ()
    assert_close(machine(X2), fit(intercept=True)(X2)[:, 0])
    assert_close(machine.machine()(X2), machine(X2), 1e-8)


def test_samples_of_a_data_set_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(reading, "MOST", 7)
    features = Bent()
    machine = fit(features, TensorDataset(X, Y), None, intercept=True, weights=W)
    at_once = fit(intercept=True, weights=W)
    # The first look at a few of them is the plan's.
    assert max(features.read[-6:]) == 7
    assert_close(machine.coefficients, at_once.coefficients, 1e-12)
    assert_close(machine.leave_one_out().values, at_once.leave_one_out().values, 1e-10)


def test_little_memory_reads_few_samples_at_a_time_to_the_same_weights():
    features = Bent()
    machine = fit(features, memory=20_000)
    assert max(features.read[-3:]) < N
    assert_close(machine.coefficients, fit().coefficients, 1e-12)


def test_a_map_with_the_name_of_another_solver_is_fitted_by_its_kernel():
    machine = fit(solver="direct")
    assert isinstance(machine, ks.KernelMachine)
    assert_close(machine(X2), fit()(X2), 1e-8)


@pytest.mark.parametrize("solver", [PCG(tolerance=1e-10), EigenPro(tolerance=1e-6, epochs=2000)], ids=repr)
def test_kernels_of_features_are_solved_as_any_kernel(solver):
    x, y = random(200, D, seed=8), random(200, 1, seed=9)
    k = ks.kernels.FeatureKernel(Bent(30))
    machine = fit(k, x, y, ridge=1e-2, solver=solver)
    assert_close(machine(X2), fit(k, x, y, ridge=1e-2, solver="primal")(X2), 1e-4)


# -- ridges ----------------------------------------------------------------------------------------------------------


@every
@both
def test_the_table_of_ridges_is_that_of_the_matrix_that_takes_targets_to_fitted_values(weights, intercept):
    machine = fit(ridge=[1e-5, 1e-2, 1.0], weights=weights, intercept=intercept)
    w = torch.ones(N, dtype=torch.float64) if weights is None else weights
    table = machine.gcv.to_frame()
    for row in table.itertuples():
        H = hat(MAP.phi(X), row.ridge, intercept, weights)
        residual = float((w[:, None] * (Y - H @ Y).square()).sum() / w.sum() / C)
        assert row.degrees == pytest.approx(float(H.trace()), rel=1e-8)
        assert row.residual == pytest.approx(residual, rel=1e-8)
        assert row.gcv == pytest.approx(residual / (1 - float(H.trace()) / N) ** 2, rel=1e-8)
        assert_close(machine.at(row.ridge).leverages(), H.diagonal(), 1e-9)
    assert machine.ridge == table.ridge[table.gcv.argmin()]
    assert float(machine.leverages().sum()) == pytest.approx(float(machine.gcv.degrees[machine.gcv.chosen]))


def test_with_validation_its_error_chooses():
    ridges = [1e-8, 1e-1, 1e2]
    machine = fit(ridge=ridges, intercept=True, validation=(X2, Y2))
    errors = [float((fit(ridge=ridge, intercept=True)(X2) - Y2).square().mean()) for ridge in ridges]
    assert machine.gcv.validation.tolist() == pytest.approx(errors)
    assert machine.ridge == ridges[errors.index(min(errors))]


@both
def test_generalised_cross_validation_of_features_that_pass_through_all_samples_is_its_limit(intercept):
    wide = Bent(2 * N)
    phi = wide.phi(X) - intercept * wide.phi(X).mean(0)
    K, y = phi @ phi.T, Y - intercept * Y.mean(0)
    for ridge in (0.0, 1e-30, 1e-14, 1e-8, 1e-2):
        values, modes = torch.linalg.eigh(K)
        values, modes = values[int(intercept):], modes[:, int(intercept):]
        inverse = 1 / (values + N * ridge)
        true = float((modes @ (inverse[:, None] * (modes.T @ y))).square().mean()) / float(inverse.sum() / N) ** 2
        assert fit(wide, ridge=ridge, intercept=intercept).gcv.gcv.item() == pytest.approx(true, rel=1e-4)


def test_one_sample_and_a_constant_leave_nothing_to_choose_by():
    machine = fit(x=X[:1], y=Y[:1], ridge=[1e-3, 1.0], intercept=True)
    assert bool(machine.gcv.gcv.isinf().all())
    assert_close(machine(X2), Y[:1].expand(15, C))
    with pytest.raises(DataError, match="1 of 1 samples alone"):
        machine.leave_one_out()


def test_a_ridge_at_the_end_of_those_that_were_tried_asks_for_more():
    machine = fit(ridge=[1e-12, 1e-13])
    assert [row.status for row in machine.gcv.check().rows] == ["warn"]
    assert machine.at(1e-12).gcv.check().rows[0].status in ("pass", "warn")


def test_the_spectrum_is_that_of_the_kernel_matrix():
    true = torch.linalg.eigvalsh(ks.kernels.FeatureKernel(MAP)(X)).flip(0)[:P]
    assert_close(fit().spectrum, true, 1e-9)
    centred = MAP.phi(X) - MAP.phi(X).mean(0)
    assert_close(fit(intercept=True).spectrum, torch.linalg.eigvalsh(centred.T @ centred).flip(0), 1e-9)


# -- samples ---------------------------------------------------------------------------------------------------------


@every
@both
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_leave_one_out_values_are_those_of_n_refits(weights, intercept, ridge):
    machine = fit(weights=weights, intercept=intercept, ridge=ridge)
    found = machine.leave_one_out()
    for i in range(N):
        w = None if weights is None else weights[left(i)]
        refit = fit(x=X[left(i)], y=Y[left(i)], weights=w, intercept=intercept, ridge=ridge)
        assert_close(found.values[i:i + 1], refit(X[i:i + 1]), 1e-9)
    assert_close(found.fitted, machine(X), 1e-10)
    assert_close(found.leverages, machine.leverages(), 1e-12)
    assert found.error == pytest.approx(float((found.values - Y).square().mean()))
    assert found.check().ok


def test_leave_one_out_of_weight_nought_is_the_value_itself():
    w = W.clone()
    w[5] = 0
    machine, gone = fit(weights=w), fit(x=X[left(5)], y=Y[left(5)], weights=w[left(5)])
    assert_close(machine.leave_one_out().values[5], machine(X)[5], 1e-12)
    assert_close(machine.coefficients, gone.coefficients, 1e-10)
    assert machine.gcv.gcv.tolist() == pytest.approx(gone.gcv.gcv.tolist())


@every
@both
@pytest.mark.parametrize("ridge", [0.0, 1e-12, 1e-5, 1e-1])
def test_leave_one_out_values_of_more_features_than_samples_are_those_of_refits(weights, intercept, ridge):
    wide = Bent(2 * N)
    found = fit(wide, weights=weights, intercept=intercept, ridge=ridge).leave_one_out()
    for i in range(0, N, 5):
        w = None if weights is None else weights[left(i)]
        refit = fit(wide, X[left(i)], Y[left(i)], weights=w, intercept=intercept, ridge=ridge)
        assert_close(found.values[i:i + 1], refit(X[i:i + 1]), 1e-5)


def test_a_sample_that_alone_decides_is_refused():
    class Own(Bent):
        def phi(self, x):
            values = super().phi(x)
            values[:, 0] = values[:, 0] * (values[:, 0] == MAP.phi(X)[7, 0])
            return values

    with pytest.raises(DataError, match="1 of 40 samples alone decide"):
        fit(Own(), ridge=0.0).leave_one_out()
    assert fit(Own(), ridge=1e-2).leave_one_out().check().ok


def test_a_sample_beside_which_all_others_are_small_can_be_taken_away():
    class Loud(Bent):
        def phi(self, x):
            values = super().phi(x)
            return values * (1 + 1e7 * (values[:, :1] == MAP.phi(X)[7, :1]))

    assert_close(fit(Loud()).without(7).coefficients, fit(Loud(), X[left(7)], Y[left(7)]).coefficients, 1e-9)


@every
@both
@pytest.mark.parametrize("rows", [3, [0, -1, 17], slice(30), torch.arange(N) % 3 == 0], ids=str)
def test_a_machine_without_samples_is_a_refit(weights, intercept, rows):
    machine = fit(weights=weights, intercept=intercept, ridge=[1e-3, 1.0]).without(rows)
    kept = torch.ones(N, dtype=torch.bool)
    kept[rows] = False
    w = None if weights is None else weights[kept]
    refit = fit(x=X[kept], y=Y[kept], weights=w, intercept=intercept, ridge=machine.ridge)
    assert_close(machine.coefficients, refit.coefficients, 1e-9)
    assert_close(machine.intercept, refit.intercept, 1e-9, scale=1)
    assert_close(machine.leave_one_out().values, refit.leave_one_out().values, 1e-9)
    assert_close(machine.gcv.gcv, refit.gcv.gcv, 1e-9)
    assert_close(machine.machine().coefficients, refit.machine().coefficients, 1e-8)


@every
@both
def test_a_machine_with_more_samples_is_a_refit(weights, intercept):
    more = None if weights is None else W[:15] * 3
    machine = fit(weights=weights, intercept=intercept).with_samples(X2, Y2, more)
    w = None if weights is None else torch.cat([weights, more])
    refit = fit(x=torch.cat([X, X2]), y=torch.cat([Y, Y2]), weights=w, intercept=intercept)
    assert_close(machine.coefficients, refit.coefficients, 1e-9)
    assert_close(machine.leave_one_out().values, refit.leave_one_out().values, 1e-9)
    # Samples of both sides, out of their order.
    assert_close(machine.without([2, 44, 50]).contributions(X2).terms, refit.without([2, 44, 50])
                 .contributions(X2).terms, 1e-8)
    back = machine.without(list(range(N, N + 15)))
    assert_close(back.coefficients, fit(weights=weights, intercept=intercept).coefficients, 1e-9)


def test_weights_that_were_left_out_count_as_one():
    machine = fit(weights=5 * W).with_samples(X2, Y2)
    both_of = torch.cat([5 * W, torch.ones(15, dtype=torch.float64)])
    refit = fit(x=torch.cat([X, X2]), y=torch.cat([Y, Y2]), weights=both_of)
    assert_close(machine.coefficients, refit.coefficients, 1e-9)
    later = fit().with_samples(X2, Y2, torch.full((15,), 2.0))
    both_of = torch.cat([torch.ones(N), torch.full((15,), 2.0)])
    assert_close(later.coefficients, fit(x=torch.cat([X, X2]), y=torch.cat([Y, Y2]), weights=both_of).coefficients,
                 1e-9)


def test_whole_numbers_are_joined_with_others_as_they_are():
    machine = fit(y=Y.round().long()).with_samples(X2, Y2)
    refit = fit(x=torch.cat([X, X2]), y=torch.cat([Y.round(), Y2]))
    assert_close(machine.leave_one_out().values, refit.leave_one_out().values, 1e-9)


def test_targets_that_are_changed_later_change_nothing():
    y = Y.clone()
    machine = fit(y=y)
    y.zero_()
    assert_close(machine.leave_one_out().targets, Y)


def test_inputs_by_name_can_be_joined():
    class Named(FeatureMap):
        size = P

        def phi(self, x):
            points = self.points(x)
            return MAP.phi(points.part(0, len(points)).kwargs["a"])

    machine = fit(Named(), {"a": X}).with_samples({"a": X2}, Y2)
    assert_close(machine.coefficients, fit().with_samples(X2, Y2).coefficients, 1e-12)
    assert_close(machine.leave_one_out().values, fit().with_samples(X2, Y2).leave_one_out().values, 1e-12)


@every
@both
@pytest.mark.parametrize("ridge", [0.0, 1e-20, 1e-2])
def test_the_kernel_machine_of_samples_is_the_same_function(weights, intercept, ridge):
    machine = fit(weights=weights, intercept=intercept, ridge=ridge)
    other = machine.machine()
    assert_close(other(X2), machine(X2), 1e-8)
    why = machine.contributions(X2)
    assert why.check().ok
    assert_close(why.terms.sum(-1) + why.intercept, machine(X2), 1e-8)
    if ridge == 1e-2:
        w = torch.ones(N, dtype=torch.float64) if weights is None else weights
        assert_close(other.coefficients, w[:, None] * (Y - machine(X)) / (ridge * w.sum()), 1e-10)


def test_coefficients_of_samples_are_those_of_the_dual_problem():
    phi = MAP.phi(X)
    alpha = torch.linalg.solve(phi @ phi.T + N * 1e-2 * torch.eye(N, dtype=torch.float64), Y)
    assert_close(fit().machine().coefficients, alpha, 1e-9)


def test_they_keep_their_digits_where_features_pass_through_all_samples():
    wide = Bent(2 * N)
    K = ks.kernels.FeatureKernel(wide)(X)
    machine = fit(wide, ridge=1e-10)
    assert N * 1e-10 > 1e-12 * float(machine.spectrum[0])
    assert_close(machine.machine().coefficients,
                 torch.linalg.solve(K + N * 1e-10 * torch.eye(N, dtype=torch.float64), Y), 1e-9)
    assert fit(wide, ridge=0.0).gcv.residual.item() == 0


@both
@pytest.mark.parametrize(("far", "near"), [(1e5, 0.01), (1e6, 0.1)])
def test_one_sample_far_from_all_others_leaves_them_their_fit(intercept, far, near):
    x, features = random(200, 3, seed=11), ArcCosineFeatures(64)
    y = x[:, :1].relu() - x[:, 1:2]
    x[0] *= far
    machine, phi = fit(features, x, y, ridge=1e-4, intercept=intercept), features.phi(x)
    # By singular values, in which the far sample costs half as many digits as in their squares.
    mean = phi.mean(0) * intercept
    U, S, _ = torch.linalg.svd(phi - mean, full_matrices=False)
    fitted = y.mean(0) * intercept + U @ ((S.square() / (S.square() + 200 * 1e-4))[:, None] * (U.T @ y))
    true, found = ((values - y)[1:].norm() / y[1:].norm() for values in (fitted, machine(x)))
    assert float(found) == pytest.approx(float(true), rel=near)
    assert machine.gcv.residual.item() == pytest.approx(float((fitted - y).square().mean()), rel=near)
    assert machine.gcv.check().rows[0].status == "pass"
    assert_close(machine.machine()(x[1:]), machine(x[1:]), near / 10)


def test_a_ridge_that_rounding_hides_is_told_of():
    x = random(200, 3, seed=11)
    x[0] *= 1e9
    machine = fit(ArcCosineFeatures(64), x, x[:, 1], ridge=[1e-4, 1e15])
    for other in (machine.at(1e-4), machine.at(1e-5), fit(ArcCosineFeatures(64), x, x[:, 1], ridge=1e-4)):
        (row,) = other.gcv.check().rows
        assert row.status == "warn"
        assert "less than what the sums of products of features lose by rounding" in row.sentence
    assert machine.at(1e15).gcv.check().rows[0].status == "pass"
    assert fit(ridge=1e-18).gcv.check().rows[0].status == "pass"
    assert fit(Bent(2 * N), ridge=1e-18).gcv.check().rows[0].status == "pass"


@every
def test_a_large_mean_of_targets_costs_no_digits_beside_a_constant(weights):
    ridges = [1e-6, 1e-2]
    machine = fit(weights=weights, intercept=True, ridge=ridges)
    far = fit(y=Y + 1e7, weights=weights, intercept=True, ridge=ridges)
    assert_close(far.gcv.residual, machine.gcv.residual, 1e-7)
    assert_close(far.gcv.gcv, machine.gcv.gcv, 1e-7)
    assert_close(far.coefficients, machine.coefficients, 1e-6)
    assert_close(far(X2) - 1e7, machine(X2), 1e-6)
    assert far.leave_one_out().error == pytest.approx(machine.leave_one_out().error, rel=1e-7)
    assert_close(far.without([1, 30]).gcv.residual, machine.without([1, 30]).gcv.residual, 1e-7)
    assert_close(far.with_samples(X2, Y2 + 1e7).gcv.residual, machine.with_samples(X2, Y2).gcv.residual, 1e-7)
    assert_close(far.machine().coefficients, machine.machine().coefficients, 1e-6)


def test_without_a_constant_a_mean_is_fitted_as_any_target():
    theta, _ = by_least_squares(MAP.phi(X), Y + 100, 1e-2)
    machine = fit(y=Y + 100)
    assert_close(machine.coefficients, theta, 1e-9)
    assert_close(machine.gcv.residual, (MAP.phi(X) @ theta - Y - 100).square().mean()[None], 1e-9)


@pytest.mark.parametrize("features", [RandomFourier(64), ArcCosineFeatures(64), Bent(30)], ids=repr)
def test_terms_of_single_precision_add_up_at_small_ridges(features, tmp_path):
    x, q = random(300, 3, seed=12).float(), random(20, 3, seed=13).float()
    y = torch.tanh(x[:, :2]) + 0.1 * random(300, 2, seed=14).float()
    machine = fit(features, x, y, ridge=1e-9, intercept=True)
    why, other = machine.contributions(q), machine.machine()
    assert float(why.terms.abs().sum(-1).max()) > 1e5
    assert_close(why.terms.sum(-1) + why.intercept, machine(q).double(), 1e-4)
    assert_close(other(q), machine(q).double(), 1e-4)
    assert why.dtype == "float32"
    assert why.check().ok
    if not isinstance(features, Bent):
        # Whatever is asked for at once.
        assert_close(torch.cat([other(one[None]) for one in q]), other(q), 1e-6)
        other.save(tmp_path / "m")
        assert torch.equal(ks.KernelMachine.load(tmp_path / "m")(q), other(q))


def test_completeness_is_judged_by_the_precision_of_the_kernel():
    k = ks.kernels.FeatureKernel(ArcCosineFeatures(64))
    x = random(200, 3, seed=12).float()
    why = ks.KernelMachine(k, x, random(200, 2, seed=14)).contributions(x[:5])
    assert why.dtype == "float32"
    assert why.check().ok


def test_a_copy_of_a_machine_knows_its_samples():
    machine = fit(intercept=True)
    for other in (copy.copy(machine), copy.deepcopy(machine)):
        assert torch.equal(other(X2), machine(X2))
        assert torch.equal(other.leave_one_out().values, machine.leave_one_out().values)
    other.coefficients.zero_()
    other.path.equations.gram.zero_()
    other.samples.targets.zero_()
    assert_close(machine.without(3).coefficients, fit(x=X[left(3)], y=Y[left(3)], intercept=True).coefficients, 1e-9)


@every
@both
def test_a_sample_with_a_huge_target_can_be_taken_away(weights, intercept):
    y = Y.clone()
    y[7, 0] = 1e12
    machine = fit(y=y, weights=weights, intercept=intercept).without(7)
    w = None if weights is None else weights[left(7)]
    refit = fit(x=X[left(7)], y=Y[left(7)], weights=w, intercept=intercept)
    assert_close(machine.coefficients, refit.coefficients, 1e-9)
    assert_close(machine.gcv.gcv, refit.gcv.gcv, 1e-9)


def test_points_of_two_sources_are_read_in_any_order():
    points = fit().with_samples(X2, Y2).samples.points
    numbers = [44, 2, 50, 0]
    assert torch.equal(points.chosen(numbers).part(0, 4).args[0], torch.cat([X, X2])[numbers])


def test_what_rounding_leaves_beside_a_constant_is_nought():
    x = X[:1].expand(7, D).clone()
    machine = fit(x=x, y=Y[:7], intercept=True, ridge=0.0)
    assert not bool(machine.spectrum.any())
    assert_close(machine(x), Y[:7].mean(0).expand(7, C))


# -- the sums --------------------------------------------------------------------------------------------------------


@every
def test_columns_that_are_free_are_not_penalised_whichever_they_are(weights):
    rows, free = random(N, 9, seed=6), torch.zeros(9, dtype=torch.bool)
    free[[0, 4, 5]] = True
    equations = NormalEquations(9, C)
    for i in range(0, N, 13):
        equations.add(rows[i:i + 13], Y[i:i + 13], None if weights is None else weights[i:i + 13])
    path, w = RidgePath(equations, free), torch.ones(N, dtype=torch.float64) if weights is None else weights
    penalty = torch.diag((~free).double()) * (0.1 * w.sum()).sqrt()
    true = torch.linalg.lstsq(torch.cat([w.sqrt()[:, None] * rows, penalty]),
                              torch.cat([w.sqrt()[:, None] * Y, torch.zeros(9, C, dtype=Y.dtype)])).solution
    assert_close(path.coefficients(0.1), true, 1e-10)
    assert float((w * path.leverage(rows, 0.1)).sum()) == pytest.approx(path.degrees(0.1), rel=1e-9)


def by_singular_values(rows, y, ridge, weights, free):
    """The smallest coefficients of the minimum, by the singular values of what free columns leave."""
    A, B, s = weights.sqrt()[:, None] * rows, weights.sqrt()[:, None] * y, ridge * weights.sum()
    back = torch.linalg.pinv(A[:, free], rtol=1e-7)
    U, S, V = torch.linalg.svd(A[:, ~free] - A[:, free] @ (back @ A[:, ~free]), full_matrices=False)
    inverse = torch.where(S > 1e-6 * A.norm(), S / (S.square() + s), 0.0)
    theta = torch.zeros(rows.shape[1], y.shape[1], dtype=y.dtype)
    theta[~free] = V.T @ (inverse[:, None] * (U.T @ (B - A[:, free] @ (back @ B))))
    theta[free] = back @ (B - A[:, ~free] @ theta[~free])
    return theta


@pytest.mark.parametrize("seed", range(40))
def test_whatever_the_shape_all_numbers_are_those_of_dense_algebra(seed):
    draw = lambda *choices: choices[int(torch.randint(len(choices), (), generator=generator))]
    generator = torch.Generator().manual_seed(seed)
    n, p, ridge, constant = draw(3, 5, 8, 20), draw(2, 4, 8, 20, 30), draw(0.0, 1e-6, 1e-2, 10.0), draw(0, 1)
    rows, y = random(n, p, seed=seed), random(n, C, seed=seed + 100)
    if draw(True, False, False):
        rows[:, -1] = rows[:, 0]
    w = draw(torch.ones(n, dtype=y.dtype), random(n, seed=seed + 200).abs() + 0.1)
    if draw(True, False, False):
        w[1] = 0
    rows = torch.cat([rows, rows.new_ones(n, constant)], 1)
    free = torch.arange(p + constant) >= p
    equations = NormalEquations(p + constant, C)
    equations.add(rows, y, w)
    path, some = RidgePath(equations, free), w > 0
    theta = by_singular_values(rows, y, ridge, w, free)
    assert_close(rows @ path.coefficients(ridge), rows @ theta, 1e-7)
    values, fitted, leverages = path.looked_at(rows, y, ridge, w)
    eye = torch.eye(n, dtype=y.dtype)
    H = rows @ by_singular_values(rows, eye, ridge, w, free)
    assert_close(fitted, H @ y, 1e-7)
    assert_close(leverages, H.diagonal(), 1e-7)
    assert path.degrees(ridge) == pytest.approx(float(H.trace()), rel=1e-7)
    error = (w @ (y - H @ y).square()) / w.sum()
    assert_close(path.residual(ridge), error, 1e-7, scale=1)
    spare = 1 - float(H.trace()) / int(some.sum())
    if spare > 1e-3:
        assert path.gcv(ridge) == pytest.approx(float(error.sum()) / spare**2, rel=1e-6)
    assert_close(rows[:, ~free].T @ path.duals(rows, y, ridge, w), path.coefficients(ridge)[~free], 1e-7)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        without = by_singular_values(rows[others], y[others], ridge, w[others], free)
        assert_close(values[i], rows[i] @ without, 1e-6, scale=1 + float(values.abs().max()))


def test_samples_that_are_added_and_taken_away_leave_nothing():
    equations = NormalEquations(P, C)
    equations.add(MAP.phi(X), Y, W)
    other = equations.copy()
    other.add(MAP.phi(X2), Y2)
    other.add(MAP.phi(X2), Y2, sign=-1)
    assert (other.count, equations.count) == (N, N)
    assert_close(other.gram, equations.gram, 1e-14)
    assert_close(other.squares, equations.squares, 1e-14)
    assert other.weight == pytest.approx(float(W.sum()))


# -- on the disk and to other processes ------------------------------------------------------------------------------


def test_a_saved_machine_is_the_same_and_knows_samples_that_are_handed_over(tmp_path):
    machine = fit(ridge=[1e-3, 1e-1], intercept=True, weights=W, validation=(X2, Y2))
    machine.save(tmp_path / "m")
    other = ks.FeatureMachine.load(tmp_path / "m", features=Bent(), samples=(X, Y, W))
    assert repr(other) == repr(machine)
    assert torch.equal(other(X2), machine(X2))
    assert torch.equal(other.at(1e-1)(X2), machine.at(1e-1)(X2))
    assert_close(other.leave_one_out().values, machine.leave_one_out().values, 1e-14)
    assert_close(other.without([1, 2]).coefficients, machine.without([1, 2]).coefficients, 1e-14)
    assert other.plan == machine.plan
    alone = ks.FeatureMachine.load(tmp_path / "m", features=Bent())
    assert torch.equal(alone(X2), machine(X2))
    with pytest.raises(DataError, match="came without them"):
        alone.leave_one_out()
    alone.save(tmp_path / "again")
    assert torch.equal(ks.FeatureMachine.load(tmp_path / "again", features=Bent())(X2), machine(X2))


def test_another_map_or_other_samples_are_refused(tmp_path):
    fit().save(tmp_path / "m")
    load = ks.FeatureMachine.load
    with pytest.raises(DataError, match="holds more than numbers"):
        load(tmp_path / "m")
    with pytest.raises(DataError, match="is not the map"):
        load(tmp_path / "m", features=Bent(seed=8))
    with pytest.raises(DataError, match="is not the map"):
        load(tmp_path / "m", features=Bent(P + 1))
    with pytest.raises(DataError, match="is the map that the machine was fitted with"):
        load(tmp_path / "m", features="Bent")
    for samples in ((X2, Y2), (X, Y + 1), (X, Y, W), (X + 1, Y)):
        with pytest.raises(DataError, match="not the samples"):
            load(tmp_path / "m", features=Bent(), samples=samples)
    with pytest.raises(DataError, match="samples are what the machine was fitted to"):
        load(tmp_path / "m", features=Bent(), samples=X)
    with pytest.raises(KernelscopeError):
        ks.KernelMachine.load(tmp_path / "m")


def test_a_machine_can_be_sent_to_another_process():
    machine = fit(y=Y[:, 0])
    other = pickle.loads(pickle.dumps(machine))
    assert torch.equal(other(X2), machine(X2))
    assert torch.equal(other.at(1.0).coefficients, machine.at(1.0).coefficients)
    assert torch.equal(other.some_points(), machine.some_points())


# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("validation", [None, (X2, Y2)], ids=["", "validation"])
def test_results_print_draw_and_are_kept(tmp_path, validation):
    machine = fit(ridge=[0.0, 1e-3, 1e-1], validation=validation)
    for kind, result, words in ((Ridges, machine.gcv, "degrees of freedom"),
                                (LeaveOneOut, machine.leave_one_out(), "without the sample")):
        assert words in repr(result)
        assert result.plot().get_title(loc="left")
        assert "<table" in result._repr_html_()
        result.save(tmp_path / kind.__name__)
        other = kind.load(tmp_path / kind.__name__)
        assert repr(other) == repr(result)
        assert other.to_frame().equals(result.to_frame())
    assert machine.leave_one_out()[:3].values.shape == (3, C)


def test_a_page_shows_them_and_explains_its_words():
    machine = fit(ridge=[1e-3, 1e-1])
    page = ks.Report("A page", [machine.gcv, machine.leave_one_out()]).html()
    for words in ("How smooth a function", "What it says of samples it was not told of", "Generalised cross-val"):
        assert words in page


def test_of_many_samples_some_are_drawn(monkeypatch):
    monkeypatch.setattr("kernelscope.plots.ridges.MOST", 10)
    ax = fit().leave_one_out().plot()
    assert len(ax.lines[0].get_xdata()) == 10
    assert "10 of 40 samples" in ax.get_xlabel()


def test_a_fit_says_what_it_will_do_and_what_came_out(capsys):
    fit(ridge=[1e-3, 1e-1], progress=None)
    said = capsys.readouterr().out
    assert "Bent(12 features), 40 points, 2 outputs, float64, 2 ridges" in said
    assert "all ridges from one factorisation of 12 columns" in said
    assert "degrees of freedom for 40 samples" in said
    fit(ridge=1e-2, progress=None)
    assert "float64, ridge 0.01\n" in capsys.readouterr().out
    ks.fit(MAP, X, Y)
    assert "ridge 0, which is none; ridge=[1e-6, 1e-3, 1] takes" in capsys.readouterr().out


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "options", "words"), [
    (ks.kernels.Laplacian(1.0), {"solver": "primal"}, "solves for the weights of features"),
    (ks.kernels.FeatureKernel(MAP, Bent(seed=8)), {"solver": "primal"}, "two maps"),
    (ks.kernels.FeatureKernel(Twice(), outputs="full"), {"solver": "primal"}, "keeps outputs apart"),
    (MAP, {"centers": 5}, "Every sample is fitted.*centers=5 came"),
    (MAP, {"checkpoint": "folder"}, "one pass"),
    (MAP, {"tiles": "folder"}, "no kernel matrix"),
    (MAP, {"patience": 3}, "could end early"),
    (MAP, {"loss": "logistic"}, "squared loss"),
    (MAP, {"distributed": True}, "one process"),
    (MAP, {"ridge": -1.0}, "A ridge is a number"),
    (MAP, {"y": Y[:5]}, "There are 40 points"),
    (MAP, {"weights": torch.zeros(N)}, "All weights are nought"),
    (MAP, {"validation": (X2, Y2[:, 0])}, "Validation targets"),
    (MAP, {"solver": "magic"}, "solver must be"),
], ids=str)
def test_what_cannot_be_done_is_said(k, options, words):
    with pytest.raises(DataError, match=words):
        fit(k, **options)


def test_squared_loss_by_name_is_the_same():
    assert torch.equal(fit(loss="squared").coefficients, fit().coefficients)


def test_features_that_are_no_numbers_are_told_with_their_point():
    class Broken(Bent):
        def phi(self, x):
            return super().phi(x).log()

    bad = int((MAP.phi(X) <= 0).any(1).nonzero()[0])
    with pytest.raises(NonFiniteError, match=f"NaN or infinite at point {bad}"):
        fit(Broken())

    class Whole(Bent):
        def phi(self, x):
            return super().phi(x).long()

    with pytest.raises(DataError, match="A map gives real features"):
        fit(Whole())
    with pytest.raises(NonFiniteError, match="Point 3"):
        fit(x=X.index_fill(0, torch.tensor([3]), torch.nan))


def test_more_features_than_memory_has_room_for_are_refused():
    words = 'products of 2,000 features need .* and memory allows 50 MB.*of 40 points.*solver="direct"'
    with pytest.raises(OutOfBudget, match=words):
        fit(Bent(2000), memory="50MB")


def test_samples_that_are_none_are_refused():
    machine = fit()
    with pytest.raises(OutOfRange, match="there are 40 samples"):
        machine.without([40])
    for rows in ([], range(N), torch.ones(N, dtype=torch.bool)):
        with pytest.raises(DataError, match="Some samples are taken away and some are left"):
            machine.without(rows)
    with pytest.raises(DataError, match="must be a whole number"):
        machine.without(["first"])
    w = torch.zeros(N)
    w[3] = 1.0
    with pytest.raises(DataError, match="All samples with a weight"):
        fit(weights=w).without(3)
    with pytest.raises(DataError, match=r"More samples have the outputs of the first ones"):
        machine.with_samples(X2, Y2[:, 0])


def test_the_users_tensors_and_the_global_generator_are_left_alone():
    x, y, state = X.clone(), Y.clone(), torch.get_rng_state()
    machine = fit(x=x, y=y, ridge=[1e-3, 1.0], intercept=True)
    machine.without([1]).leave_one_out()
    machine.with_samples(X2, Y2).contributions(X2)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert dataclasses.is_dataclass(machine.gcv)
