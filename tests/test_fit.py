"""A fitted machine is the minimum it says it is, wherever its data come from, and what is wrong is said beforehand."""

import contextlib
import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, KernelscopeError, NonFiniteError, OutOfBudget
from kernelscope.machine import plan as plans
from kernelscope.machine.plan import in_words, planned, total
from kernelscope.solvers import ConjugateGradient, Direct, Problem
from tests.laws import assert_close

N, P, D, C = 40, 12, 3, 2
K = ks.kernels.Laplacian(bandwidth=1.0)
TIGHT = {"direct": Direct(), "cg": ConjugateGradient("full", tolerance=1e-14, passes=400)}
solvers = pytest.mark.parametrize("solver", TIGHT)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, Z = random(N, D), random(N, C, seed=1), random(P, D, seed=2)
W = random(N, seed=3).abs() + 0.1


def fit(k=K, x=X, y=Y, **options):
    return ks.fit(k, x, y, **{"progress": False, **options})


def by_normal_equations(k, x, y, z, ridge, weights=None, intercept=False):
    """Coefficients and intercept of the minimum, by one dense system in float64."""
    n, p, w = len(x), len(z), torch.ones(len(x)) if weights is None else weights / weights.mean()
    A = torch.cat([k(x, z), torch.ones(n, 1)], 1) if intercept else k(x, z)
    smooth = torch.zeros(A.shape[1], A.shape[1], dtype=A.dtype)
    smooth[:p, :p] = k(z)
    found = torch.linalg.solve(A.T @ (w[:, None] * A) + n * ridge * smooth, A.T @ (w[:, None] * y))
    return (found[:p], found[p]) if intercept else (found, torch.zeros(y.shape[1]))


# -- the minimum -----------------------------------------------------------------------------------------------------


@solvers
@pytest.mark.parametrize("weights", [None, W], ids=["", "weights"])
def test_with_all_centers_the_kernel_matrix_plus_n_ridge_times_the_coefficients_is_the_targets(solver, weights):
    machine = fit(ridge=1e-3, solver=TIGHT[solver], weights=weights)
    w = torch.ones(N, dtype=torch.float64) if weights is None else weights / weights.mean()
    assert_close(machine.coefficients, torch.linalg.solve(K(X) + N * 1e-3 * torch.diag(1 / w), Y), 1e-7)


@solvers
@pytest.mark.parametrize("weights", [None, W], ids=["", "weights"])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_free_centers_solve_the_normal_equations(solver, weights, intercept, ridge):
    machine = fit(centers=Z, ridge=ridge, solver=TIGHT[solver], weights=weights, intercept=intercept)
    alpha, b = by_normal_equations(K, X, Y, Z, ridge, weights, intercept)
    assert_close(machine.coefficients, alpha, 1e-6)
    assert_close(machine(X), K(X, Z) @ alpha + b, 1e-7)


@solvers
def test_several_ridges_are_each_what_it_is_alone(solver):
    ridges = [1e-1, 1e-3, 1e-5]
    machine = fit(centers=Z, ridge=ridges, solver=TIGHT[solver], intercept=True)
    assert machine.fitting.ridges == ridges
    for ridge in ridges:
        alone = fit(centers=Z, ridge=ridge, solver=TIGHT[solver], intercept=True)
        assert_close(machine.at(ridge)(X), alone(X), 1e-7)
        assert machine.at(ridge).fitting.ridge == ridge
        assert machine.at(ridge).at(ridges[0])(X).equal(machine(X))
    with pytest.raises(DataError, match="0.5 is none of them"):
        machine.at(0.5)


def test_validation_picks_the_ridge_with_the_smallest_error():
    others, truth = random(15, D, seed=5), random(15, C, seed=6)
    machine = fit(centers=Z, ridge=[1e-6, 1e-1, 10.0], validation=(others, truth))
    errors = [float((machine.at(ridge)(others) - truth).square().mean()) for ridge in machine.fitting.ridges]
    assert_close(machine.fitting.validation, torch.tensor(errors, dtype=torch.float64))
    assert machine.fitting.chosen == errors.index(min(errors))
    assert machine.fitting.to_frame().chosen.tolist() == [error == min(errors) for error in errors]


def test_without_validation_the_first_of_several_ridges_is_taken_and_it_is_said():
    machine = fit(centers=Z, ridge=[1e-1, 1e-3])
    assert machine.fitting.ridge == 1e-1
    assert any("first of 2 ridges" in note for note in machine.fitting.notes)
    assert not fit(centers=Z).fitting.notes


def test_a_weight_of_two_is_a_point_that_comes_twice():
    twice = torch.cat([torch.arange(N), torch.arange(5)])
    weights = torch.ones(N)
    weights[:5] = 2
    assert_close(fit(centers=Z, ridge=1e-2, weights=weights)(X), fit(x=X[twice], y=Y[twice], centers=Z, ridge=1e-2)(X),
                 1e-9)


def test_only_the_ratios_of_weights_matter():
    assert_close(fit(centers=Z, ridge=1e-2, weights=100 * W)(X), fit(centers=Z, ridge=1e-2, weights=W)(X))
    assert torch.equal(fit(centers=Z, ridge=1e-2, weights=torch.full((N,), 3))(X), fit(centers=Z, ridge=1e-2)(X))


def test_the_objective_is_that_of_the_machine():
    machine = fit(centers=Z, ridge=1e-2, weights=W, intercept=True)
    w, rest, alpha = W / W.mean(), machine(X) - Y, machine.coefficients
    true = (w[:, None] * rest.square()).sum() / N + 1e-2 * (alpha * (K(Z) @ alpha)).sum()
    assert_close(machine.fitting.objective, true[None], 1e-9)


# -- wherever the data come from -------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i], Y[i]


def saved(folder, values, name):
    np.save(folder / name, values.numpy())
    return folder / name


SOURCES = {
    "arrays": lambda folder: (X.numpy(), Y.numpy()),
    "tables": lambda folder: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
    "files": lambda folder: (saved(folder, X, "x.npy"), saved(folder, Y, "y.npy")),
    "memory maps": lambda folder: (np.load(saved(folder, X, "x.npy"), mmap_mode="r"), Y),
    "several files": lambda folder: ([saved(folder, X[:9], "a.npy"), saved(folder, X[9:], "b.npy")], Y),
    "lists": lambda folder: (X, Y.tolist()),
    "points and targets in one": lambda folder: ((X, Y), None),
    "a data set": lambda folder: (Pairs(), None),
    "a data set of tensors": lambda folder: (TensorDataset(X, Y), None),
    "a loader": lambda folder: (DataLoader(Pairs(), batch_size=7), None),
    "a data set beside targets": lambda folder: (Pairs(), Y),
}


@pytest.mark.parametrize("centers", [None, 7], ids=["all", "some"])
@pytest.mark.parametrize("source", SOURCES)
def test_data_from_anywhere_give_the_same_machine(source, centers, tmp_path):
    x, y = SOURCES[source](tmp_path)
    machine = fit(x=x, y=y, centers=centers, ridge=1e-3)
    # The columns of a table lie one after the other, so its products are summed in another order.
    assert_close(machine.coefficients, fit(centers=centers, ridge=1e-3).coefficients, 1e-12)


def test_targets_without_an_axis_give_values_without_one():
    machine, column = fit(y=Y[:, 0], centers=Z), fit(y=Y[:, :1], centers=Z)
    assert machine(X).shape == (N,)
    assert column(X).shape == (N, 1)
    assert torch.equal(machine(X), column(X)[:, 0])
    assert fit(y=Y[:, 0], centers=Z, ridge=[0.1, 0.2]).at(0.2)(X).shape == (N,)


def test_random_centers_are_points_and_the_seed_says_which():
    machine = fit(centers=7, seed=3)
    assert len({tuple(z) for z in machine.centers.tolist()} & {tuple(x) for x in X.tolist()}) == 7
    assert torch.equal(machine.centers, fit(centers=7, seed=3).centers)
    assert not torch.equal(machine.centers, fit(centers=7, seed=4).centers)
    assert torch.equal(fit(centers=N).centers, X)


def test_a_bandwidth_that_is_left_open_is_the_median_distance_of_the_points():
    machine = fit(ks.kernels.Gaussian(), centers=Z, ridge=1e-3)
    assert machine.kernel.bandwidth == ks.kernels.median_bandwidth(X)
    mixed = fit(ks.kernels.Gaussian() + ks.kernels.Cosine(), centers=Z, ridge=1e-3)
    assert mixed.kernel.parts[0].bandwidth == ks.kernels.median_bandwidth(X)


def test_a_bandwidth_that_is_being_learned_is_a_number_to_a_fit():
    bandwidth = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    machine = fit(ks.kernels.Laplacian(bandwidth=bandwidth), x=X.clone().requires_grad_(), centers=Z, ridge=1e-3)
    assert not machine.coefficients.requires_grad
    assert_close(machine.coefficients, fit(centers=Z, ridge=1e-3).coefficients)
    assert bandwidth.grad is None


def test_points_of_any_shape_are_vectors():
    x = X.view(N, D, 1, 1)
    assert_close(fit(x=x, centers=Z.view(P, D, 1, 1), ridge=1e-3)(x), fit(centers=Z, ridge=1e-3)(X))


def test_a_tangent_kernel_is_fitted_like_any_other():
    torch.manual_seed(0)
    k = ks.kernels.Tangent(nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 1)).double())
    machine = fit(k, ridge=1e-2)
    assert_close(machine(X), k(X) @ torch.linalg.solve(k(X) + N * 1e-2 * torch.eye(N), Y), 1e-7)


def test_single_precision_stays_single_and_is_close():
    machine = fit(x=X.float(), y=Y, centers=Z.float(), ridge=1e-2)
    assert machine.coefficients.dtype == machine(X.float()).dtype == torch.float32
    assert_close(machine(X.float()), fit(centers=Z, ridge=1e-2)(X), 1e-3)


def test_whole_numbers_are_targets_too():
    y = torch.arange(N)
    assert_close(fit(y=y, centers=Z)(X), fit(y=y.double(), centers=Z)(X))


@pytest.mark.parametrize("memory", [20_000, 40_000, "1MB"])
def test_blocks_of_any_size_give_the_same_machine(memory):
    assert_close(fit(centers=Z, ridge=1e-3, memory=memory)(X), fit(centers=Z, ridge=1e-3)(X), 1e-9)


# -- what is said before and during the work -------------------------------------------------------------------------


def test_the_plan_is_printed_first_and_kept(capsys, tmp_path):
    machine = ks.fit(K, X, Y, centers=Z, ridge=1e-3, validation=(X, Y))
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "Laplacian(bandwidth=1), 40 points, 12 centers, 2 outputs, float64"
    assert second.startswith("Direct(): ")
    assert "or more" in second
    assert re.fullmatch(r"about 1 pass, [\d.]+ KB, less than a second", third)
    assert last == repr(machine.fitting)
    assert repr(machine.plan) == "\n".join((first, second, third))
    machine.save(tmp_path / "m")
    found = ks.KernelMachine.load(tmp_path / "m")
    assert (found.plan, repr(found.fitting)) == (machine.plan, repr(machine.fitting))
    assert machine.fitting.check().ok


def test_progress_tells_of_each_pass_or_of_nothing(capsys):
    ks.fit(K, X, Y, centers=Z, ridge=1e-3, validation=(X, Y), solver=TIGHT["cg"], progress=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pass ")]
    assert len(lines) > 2
    assert all(re.fullmatch(r"pass [\d.]+: residual [\d.e+-]+, validation error [\d.e+-]+, .*", line) for line in lines)
    fit()
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="progress must be True or False"):
        ks.fit(K, X, Y, progress="no")


def test_the_validation_error_after_the_last_pass_is_that_of_the_machine():
    machine = fit(centers=Z, ridge=1e-3, validation=(X, Y), solver=TIGHT["cg"])
    assert machine.fitting.history[-1]["validation"] == pytest.approx(float(machine.fitting.validation[0]), rel=1e-9)
    passes = [one["passes"] for one in machine.fitting.history]
    assert passes == sorted(passes)


def problem_of(n, p, memory=10**9, d=4, k=K):
    x = torch.linspace(0, 9, 100)[:, None].expand(100, d).repeat(n // 100, 1) + torch.linspace(0, 1, n)[:, None]
    return Problem(k, k.points(x), torch.zeros(1, 1).expand(n, 1), k.points(x[:p]), memory=memory)


@pytest.mark.parametrize(("n", "p", "memory", "name"), [
    (1000, 1000, 10**9, "direct"), (10**5, 1000, 10**9, "direct"),
    (10**6, 1000, 10**9, "cg"), (10**6, 20_000, 2 * 10**8, "cg, two-level"),
    (10**6, 20_000, 12 * 10**7, "eigenpro"),
])
def test_the_solver_that_is_chosen_fits_and_counts_fewest(n, p, memory, name):
    problem = problem_of(n, p, memory)
    _, plan = planned(problem, None, "")
    assert plan.name == name
    costs = {other: choice.make(problem).cost(problem) for other, choice in plans.CHOICES.items()}
    assert not plans.is_smooth(problem)
    counted = {other: plans.CHOICES[other].times * total(problem, cost) for other, cost in costs.items()
               if cost.memory <= 0.75 * memory}
    assert counted[name] == min(counted.values())
    assert all(other in plan.why for other in costs if other != name)


def test_of_a_kernel_too_smooth_for_rounding_the_deflated_gradients_are_not_chosen():
    problem = problem_of(10**5, 20_000, 2 * 10**8, k=ks.kernels.Gaussian(bandwidth=9.0))
    assert plans.is_smooth(problem)
    assert planned(problem, None, "")[1].name == "eigenpro"
    assert planned(problem_of(10**5, 20_000, 2 * 10**8), None, "")[1].name == "cg, two-level"


def test_a_solver_is_taken_by_name_or_as_it_is():
    assert fit(centers=Z, solver="direct").plan.solver == "Direct()"
    assert fit(centers=Z, solver="cg").plan.solver.startswith("ConjugateGradient")
    assert fit(centers=Z, solver=ConjugateGradient("full")).plan.why == "as asked for"
    with pytest.raises(DataError, match="solver must be 'direct'.*'magic' came"):
        fit(solver="magic")


def test_a_time_is_said_as_a_person_would():
    assert [in_words(s) for s in (0, 1.2, 99, 100, 3599, 7260)] == [
        "less than a second", "1 s", "99 s", "2 min", "1 h 0 min", "2 h 1 min"]

@pytest.mark.parametrize("objective", [-1.0, 1e6, float("nan")])
def test_a_solver_that_ends_where_no_machine_can_be_is_told_of(objective, monkeypatch):
    solve = Direct.solve
    monkeypatch.setattr(Direct, "solve", lambda *a: dataclasses.replace(solve(*a), objective=(objective,)))
    with pytest.raises(DataError, match="the best machine has one from 0 to .* rounding in float64 has the last word"):
        fit(centers=Z)


@pytest.mark.parametrize("solver", ["direct", "cg", ConjugateGradient("two-level"), "eigenpro"])
def test_a_smooth_kernel_in_single_precision_gives_a_machine_or_an_error_and_never_nonsense(solver):
    d = ks.data.patches("train", count=1000, window=7)
    with contextlib.suppress(DataError):
        machine = fit(ks.kernels.Gaussian(), d.x, d.y, centers=200, ridge=1e-5, solver=solver)
        assert float((machine(d.x) - d.y).square().mean()) < float(d.y.square().mean())


# -- what is refused, before the work --------------------------------------------------------------------------------


class Counted(ks.kernels.Kernel):
    """A Gaussian kernel that counts the entries it was asked for, and spoils some."""

    def __init__(self, spoil=lambda block, x, z: block):
        self.entries, self.spoil, self.inner = 0, spoil, ks.kernels.Gaussian(bandwidth=1.0)

    def __call__(self, x, z=None):
        x = self.points(x)
        z = x if z is None else self.points(z)
        block = self.inner(x, z)
        self.entries += block.numel()
        return self.spoil(block, x.part(0, len(x)).args[0], z.part(0, len(z)).args[0])


def nan_between(i, j):
    """Spoils the entry of centers i and j, in this order."""

    def spoil(block, x, z):
        rows, columns = (x == Z[i]).all(1), (z == Z[j]).all(1)
        return torch.where(rows[:, None] & columns, torch.nan, block)

    return spoil


@pytest.mark.parametrize(("i", "j"), [(2, 9), (9, 2), (4, 4)])
@pytest.mark.parametrize("solver", [None, "direct", "cg"])
def test_nan_in_either_triangle_of_the_centers_is_found_before_the_work(i, j, solver):
    k = Counted(nan_between(i, j))
    with pytest.raises(NonFiniteError, match=f"kernel of centers {i} and {j} is NaN"):
        fit(k, centers=Z, solver=solver)
    assert k.entries <= 2 * P * P


def test_a_nan_between_a_point_and_a_center_is_found_while_it_is_read():
    def spoil(block, x, z):
        return torch.where((x == X[17]).all(1)[:, None] & (z == Z[3]).all(1), torch.nan, block)

    for solver in ("direct", "cg"):
        with pytest.raises(NonFiniteError):
            fit(Counted(spoil), centers=Z, ridge=1e-3, solver=solver)


def test_a_kernel_that_is_not_symmetric_or_not_positive_is_refused():
    turned = Counted(lambda block, x, z: block * (1 + 0.1 * x[:, :1]))
    with pytest.raises(DataError, match="is not symmetric"):
        fit(turned, centers=Z)
    assert turned.entries <= 2 * P * P
    with pytest.raises(DataError, match="negative for center 0 and itself"):
        fit(-K, centers=Z)
    with pytest.raises(DataError, match="not positive semidefinite"):
        fit(K - ks.kernels.Laplacian(bandwidth=3.0) * 0.9, centers=Z)


class Odd(ks.kernels.Kernel):
    symmetric = False

    def __call__(self, x, z=None):
        return torch.zeros(3, 3)


class Wrong(Odd):
    symmetric = True


def spoiled(values, place, number=torch.nan):
    values = values.clone()
    values.view(-1)[place] = number
    return values


MODEL = nn.Linear(D, 2).double()
REFUSED = {
    "no kernel": ({"k": "gaussian"}, DataError, "fitted with a kernel; 'gaussian' came"),
    "a kernel with sides": ({"k": Odd()}, DataError, "needs a symmetric kernel"),
    "a kernel without a matrix": ({"k": Wrong()}, DataError, "gave torch.float32 of shape .3, 3. for 3 and 2 points"),
    "a kernel of losses": ({"k": ks.kernels.Tangent(MODEL, loss=nn.functional.mse_loss)}, DataError, "leave loss out"),
    "a kernel of pairs of outputs": ({"k": ks.kernels.Tangent(MODEL, outputs="full")}, DataError, "outputs apart"),
    "NaN in x": ({"x": spoiled(X, 6)}, NonFiniteError, "Point 2 holds NaN"),
    "infinity in x": ({"x": spoiled(X, 6, -torch.inf)}, NonFiniteError, "Point 2 holds NaN or an infinite"),
    "NaN in y": ({"y": spoiled(Y, 9)}, NonFiniteError, "Target 4 is NaN"),
    "infinity in y": ({"y": spoiled(Y, 9, torch.inf)}, NonFiniteError, "Target 4 is NaN or infinite"),
    "NaN in centers": ({"centers": spoiled(Z, 4)}, NonFiniteError, "Point 1 holds NaN"),
    "NaN in weights": ({"weights": spoiled(W, 4)}, NonFiniteError, "Weight 4 is NaN"),
    "negative weights": ({"weights": spoiled(W, 4, -1.0)}, DataError, "Weight 4 is negative"),
    "no weights": ({"weights": 0 * W}, DataError, "All weights are nought"),
    "weights of others": ({"weights": W[1:]}, DataError, "each of the 40 points; shape .39,. came"),
    "weights in words": ({"weights": "balanced"}, DataError, "one for each point; 'balanced' came"),
    "too few targets": ({"y": Y[1:]}, DataError, "There are 40 points, and targets of shape .39, 2. came"),
    "targets of three axes": ({"y": Y[:, :, None]}, DataError, "shape .n,. or .n, c."),
    "complex targets": ({"y": Y[:, 0] + 1j}, DataError, "real numbers"),
    "targets in words": ({"y": ["a"] * N}, DataError, "Targets are|There is no file|read from"),
    "no targets": ({"y": None}, DataError, "only inputs came|needs its target"),
    "no points": ({"x": X[:0], "y": Y[:0]}, DataError, "no points"),
    "a negative ridge": ({"ridge": -1e-3}, DataError, "from 0 on; -0.001 came"),
    "a ridge of NaN": ({"ridge": float("nan")}, DataError, "from 0 on; nan came"),
    "a ridge in words": ({"ridge": "small"}, DataError, "from 0 on; 'small' came"),
    "no ridges": ({"ridge": []}, DataError, "no ridge"),
    "a ridge twice": ({"ridge": [1.0, 1.0]}, DataError, "came twice"),
    "more centers than points": ({"centers": N + 1}, DataError, "there are 40 points to take them from"),
    "no centers": ({"centers": 0}, DataError, "Pass a number from 1 to 40"),
    "centers in words": ({"centers": "all"}, DataError, "'all' came"),
    "centers of another size": ({"centers": Z[:, :2]}, DataError, "points of one size"),
    "validation of another size": ({"validation": (X[:, :2], Y)}, DataError, "points of one size"),
    "validation of other outputs": ({"validation": (X, Y[:, 0])}, DataError, "Validation targets have shape"),
    "validation with NaN": ({"validation": (X, spoiled(Y, 0))}, NonFiniteError, "Target 0 is NaN"),
    "an intercept in words": ({"intercept": "yes"}, DataError, "intercept must be True or False"),
    "a loader that shuffles": ({"x": DataLoader(TensorDataset(X, Y), shuffle=True), "y": None}, DataError, "shuffles"),
    "too little memory for centers": ({"memory": 100, "centers": Z}, OutOfBudget, "12 centers take 288 bytes"),
    "too little memory for a solver": ({"memory": 5_000, "centers": Z, "solver": "direct"}, OutOfBudget, "memory"),
    "memory in words": ({"memory": "much"}, DataError, "memory must be"),
    "an overflowing kernel": ({"k": ks.kernels.Polynomial(degree=900), "x": 9 * X}, NonFiniteError, "NaN or infinite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_fitted_is_refused_before_the_work(what, monkeypatch):
    options, error, message = REFUSED[what]

    def never(*arguments):
        raise AssertionError("the work began")

    for solver in (Direct, ConjugateGradient):
        monkeypatch.setattr(solver, "solve", never)
    with pytest.raises(error, match=message) as caught:
        fit(**options)
    assert isinstance(caught.value, KernelscopeError)
    assert str(caught.value).endswith((".", "?"))
