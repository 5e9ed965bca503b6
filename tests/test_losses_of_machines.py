r"""Machines with a loss, against dense minimisations that know nothing of passes, samples or line searches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad, minimize
from torch.autograd import functional as autograd

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.kernels import Gaussian, Laplacian, Polynomial
from kernelscope.solvers import Direct, Huber, Logistic, Newton, Problem, Softmax, Squared, Watch
from kernelscope.solvers.losses import as_loss
from kernelscope.solvers.orthonormal import orthonormal

EXACT = {"tolerance": 1e-15, "passes": 2000}


def points(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets(loss, x, c=3, seed=1):
    """Noisy targets that some of the loss's difficulty shows with: outliers, or classes that overlap."""
    g = torch.Generator().manual_seed(seed)
    clean = torch.stack([(x[:, 0] * (j + 1)).sin() + x[:, 1] * x[:, 2] * (-1) ** j for j in range(c)], 1)
    noisy = clean + 0.5 * torch.randn(len(x), c, generator=g, dtype=torch.float64)
    if loss == "logistic":
        return (noisy > 0.3).double()
    if loss == "softmax":
        return torch.nn.functional.one_hot(noisy.argmax(1), c).double()
    return noisy + 15.0 * (torch.rand(len(x), c, generator=g, dtype=torch.float64) < 0.1)


def problem(k, x, y, p, ridge=(1e-3,), **options):
    points_, z = as_points(x), as_points(x[:p])
    return Problem(k, points_, y, points_ if p == len(x) else z, ridge, **options)


def dense(task, loss, ridge):
    """All features at once, and Newton steps with the whole Hessian, halved until the objective falls."""
    x = task.x.part(0, len(task.x)).args[0]
    z = task.z.part(0, len(task.z)).args[0]
    basis, _ = orthonormal(task.kernel(z))
    f = task.kernel(x, z) @ basis
    f = torch.cat([f, torch.ones(len(x), 1, dtype=f.dtype)], 1) if task.intercept else f
    w = torch.ones(len(x), dtype=f.dtype) if task.weights is None else task.weights
    n, k, c = len(x), f.shape[1], task.outputs
    own = torch.full((k, 1), ridge, dtype=f.dtype)
    if task.intercept:
        own[-1] = 0

    def value(b):
        return float((w * plain(loss, f @ b, task.y)).sum() / n + (own * b.square()).sum())

    def function(b):
        return ((w * plain(loss, f @ b.view(k, c), task.y)).sum() / n + (own * b.view(k, c).square()).sum())

    b = torch.zeros(k * c, dtype=f.dtype)
    if isinstance(loss, Huber):
        # The dense Hessian of a kink is not to be had from autograd where nothing is within the kink.
        b = torch.linalg.lstsq(f, task.y).solution.flatten()
    for _ in range(200):
        gradient = autograd.jacobian(function, b)
        if gradient.norm() < 1e-14:
            break
        hessian = autograd.hessian(function, b) + 1e-15 * torch.eye(k * c, dtype=f.dtype)
        step, t = torch.linalg.lstsq(hessian, -gradient[:, None], driver="gelsd").solution[:, 0], 1.0
        while value((b + t * step).view(k, c)) > value(b.view(k, c)) and t > 1e-12:
            t /= 2
        b = b + t * step
    b = b.view(k, c)
    return f @ b, value(b)


def plain(loss, f, y):
    """The losses as a textbook writes them."""
    if isinstance(loss, Softmax):
        return -(y * torch.log_softmax(f, 1)).sum(1)
    if isinstance(loss, Logistic):
        return torch.nn.functional.binary_cross_entropy_with_logits(f, y, reduction="none").sum(1)
    if isinstance(loss, Huber):
        return 2 * torch.nn.functional.huber_loss(f, y, reduction="none", delta=loss.delta).sum(1)
    return (f - y).square().sum(1)


def outputs(task, solution, place=0):
    return task.kernel(task.x, task.z) @ solution.coefficients[place] + solution.intercepts[place]


LOSSES = [Squared(), Huber(1.0), Logistic(), Softmax()]
NAMES = {Squared: "squared", Huber: "huber", Logistic: "logistic", Softmax: "softmax"}


# -- the losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_loss_is_what_a_textbook_writes(loss):
    x = points(40)
    f, y = 3 * points(40, 3, seed=5), targets(NAMES[type(loss)], x)
    torch.testing.assert_close(loss.values(f, y), plain(loss, f, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_slopes_and_bends_are_derivatives(loss):
    x = points(30)
    f, y, v = 2 * points(30, 3, seed=5), targets(NAMES[type(loss)], x), points(30, 3, seed=6)
    total = lambda f: plain(loss, f, y).sum()
    hessian = autograd.hessian(total, f).view(90, 90)
    close = lambda found, truth: torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
    close(loss.slopes(f, y), autograd.jacobian(total, f))
    close(loss.bent(loss.bends(f, y), v), (hessian @ v.flatten()).view(30, 3))
    close(loss.diagonal(loss.bends(f, y)), hessian.diagonal().view(30, 3))


@pytest.mark.parametrize("loss", [Logistic(), Softmax()], ids=repr)
def test_sure_answers_keep_their_digits(loss):
    f = torch.tensor([[40.0, 0.0], [400.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    if isinstance(loss, Logistic):
        f, y = f[:, :1], y[:, :1]
    small = torch.tensor([np.exp(-40.0), np.exp(-400.0)], dtype=torch.float64)
    torch.testing.assert_close(loss.values(f, y), small, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(loss.slopes(f, y)[:, 0], -small, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(loss.diagonal(loss.bends(f, y))[:, 0], small, rtol=1e-12, atol=0.0)


def test_a_loss_without_corners_is_the_squared_one():
    f, y = points(20, 2), points(20, 2, seed=4)
    torch.testing.assert_close(Huber(1e6).values(f, y), Squared().values(f, y))


def test_losses_are_called_by_their_names():
    assert [repr(as_loss(name)) for name in ("squared", "huber", "logistic", "softmax")] == [
        "Squared()", "Huber(delta=1.35)", "Logistic()", "Softmax()"]
    with pytest.raises(DataError, match='loss must be "squared" or "huber"'):
        Newton("hinge")
    with pytest.raises(DataError, match="delta must be a positive number"):
        Huber(0.0)
    with pytest.raises(DataError, match="tolerance must be a number between 0 and 1"):
        Newton(tolerance=0.0)


# -- the minimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_newton_finds_the_minimum_of_dense_newton(loss, intercept, weighted):
    x = points(60)
    w = torch.rand(60, dtype=torch.float64) if weighted else None
    task = problem(Gaussian(1.5), x, targets(NAMES[type(loss)], x), 12, intercept=intercept,
                   weights=None if w is None else w / w.mean())
    solution = Newton(loss, **EXACT).solve(task)
    truth, least = dense(task, loss, 1e-3)
    assert solution.notes == ()
    # Where the objective is the same to its last digits, outputs are to half as many.
    torch.testing.assert_close(outputs(task, solution), truth, rtol=0.0, atol=2e-7)
    assert solution.objective[0] == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("n", [40, 400])
def test_the_squared_loss_gives_the_direct_solution(n):
    x = points(n)
    task = problem(Laplacian(2.0), x, targets("squared", x), 40, (1e-2, 1e-4), intercept=True)
    ours, direct = Newton("squared", **EXACT).solve(task), Direct().solve(task)
    torch.testing.assert_close(ours.coefficients, direct.coefficients, rtol=0.0, atol=1e-8)
    torch.testing.assert_close(ours.intercepts, direct.intercepts, rtol=0.0, atol=1e-8)
    assert ours.objective == pytest.approx(direct.objective, rel=1e-10)


def test_a_logistic_machine_is_the_logistic_regression_of_its_features():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x = points(200, 4)
    y = targets("softmax", x)
    # (x . z)^2 has the products of coordinates for features.
    features = torch.stack([x[:, i] * x[:, j] for i in range(4) for j in range(4)], 1).numpy()
    ridge = 1e-3
    task = problem(Polynomial(2, offset=0.0), x, y, 30, (ridge,), intercept=True)
    for c in (3, 2):
        labels, own = (y[:, :c].argmax(1), y) if c == 3 else (y[:, 0].long(), y[:, :1])
        found = outputs(replace(task, y=own), Newton("softmax" if c == 3 else "logistic", **EXACT).solve(
            replace(task, y=own)))
        other = linear_model.LogisticRegression(C=1 / (2 * len(x) * ridge), tol=1e-12, max_iter=10_000,
                                                solver="newton-cg").fit(features, labels.numpy())
        there = torch.from_numpy(other.decision_function(features)).view(len(x), -1)
        torch.testing.assert_close(found - found.mean(1, keepdim=True) if c == 3 else found, there, rtol=0.0, atol=1e-7)


def test_a_huber_machine_of_one_center_minimises_a_function_of_one_number():
    x = points(50)
    y = targets("huber", x, c=1)
    k = Gaussian(1.0)
    task = problem(k, x, y, 1, (0.1,))
    row = k(x, x[:1])[:, 0]
    objective = lambda a: float(plain(Huber(0.5), row[:, None] * float(a[0]), y).mean() + 0.1 * float(a[0]) ** 2)
    found = minimize(objective, [0.0], method="Nelder-Mead", options={"xatol": 1e-12, "fatol": 1e-15})
    solution = Newton(Huber(0.5), **EXACT).solve(task)
    assert float(solution.coefficients[0, 0, 0]) == pytest.approx(found.x[0], abs=1e-7)


def test_outputs_of_a_separate_loss_are_fitted_as_if_alone():
    x = points(80)
    for name in ("huber", "logistic"):
        y = targets(name, x)
        task = problem(Laplacian(1.0), x, y, 20, intercept=True)
        together = outputs(task, Newton(name, **EXACT).solve(task))
        for j in range(3):
            alone = replace(task, y=y[:, j:j + 1])
            torch.testing.assert_close(together[:, j:j + 1], outputs(alone, Newton(name, **EXACT).solve(alone)),
                                       rtol=0.0, atol=1e-8)


def test_several_ridges_from_the_same_passes_are_each_its_own():
    x = points(120)
    ridges = (1e-1, 1e-3, 1e-5)
    for name in ("huber", "logistic", "softmax"):
        task = problem(Laplacian(1.0), x, targets(name, x), 20, ridges, intercept=True)
        together = Newton(name, **EXACT).solve(task)
        for place, ridge in enumerate(ridges):
            alone = Newton(name, **EXACT).solve(replace(task, ridge=(ridge,)))
            torch.testing.assert_close(outputs(task, together, place), outputs(task, alone), rtol=0.0, atol=1e-7)
            assert together.objective[place] == pytest.approx(alone.objective[0], rel=1e-10)


def test_a_weight_is_so_many_copies_of_a_point():
    x, y = points(40), targets("softmax", points(40))
    w = torch.randint(1, 4, (40,), generator=torch.Generator().manual_seed(0))
    k, z = Gaussian(1.5), as_points(x[:10])
    weighed = Problem(k, as_points(x), y, z, (1e-3,), w.double() / w.double().mean(), True)
    copies = Problem(k, as_points(x.repeat_interleave(w, 0)), y.repeat_interleave(w, 0), z, (1e-3,), None, True)
    one, other = (Newton("softmax", **EXACT).solve(task) for task in (weighed, copies))
    torch.testing.assert_close(outputs(weighed, one), outputs(weighed, other), rtol=0.0, atol=1e-8)


def test_blocks_of_any_size_give_the_same_machine():
    x = points(300)
    task = problem(Laplacian(1.0), x, targets("logistic", x), 20, intercept=True)
    whole, pieces = (Newton(**EXACT).solve(replace(task, memory=m)) for m in (10**9, 200_000))
    torch.testing.assert_close(outputs(task, whole), outputs(task, pieces), rtol=0.0, atol=1e-8)


def test_many_points_take_the_curvature_of_a_sample_to_the_same_minimum():
    x = points(600)
    for name in ("huber", "softmax"):
        task = problem(Gaussian(1.5), x, targets(name, x), 15, intercept=True)
        truth, _ = dense(task, as_loss(name), 1e-3)
        torch.testing.assert_close(outputs(task, Newton(name, **EXACT).solve(task)), truth, rtol=0.0, atol=1e-7)


# -- hard cases -------------------------------------------------------------------------------------------------------


class Heard(Watch):
    def __init__(self, stop=10**9, kept=None):
        self.states, self.stop, self.kept = [], stop, kept

    def heard(self, state):
        self.states.append((state.passes, state.residual, state.objective, state.coefficients(), state.tensors()))
        return len(self.states) >= self.stop


@pytest.mark.parametrize("ridge", [1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("k", [Gaussian(1.0), Laplacian(1.0), Gaussian(0.05)], ids=repr)
def test_the_objective_never_rises(k, loss, ridge):
    x = points(80)
    watch = Heard()
    Newton(loss).solve(problem(k, x, targets(NAMES[type(loss)], x), 25, (ridge,), intercept=True), watch)
    falls = [state[2][0] for state in watch.states]
    assert all(after <= before * (1 + 1e-13) for before, after in zip(falls, falls[1:], strict=False))


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_separable_classes_with_a_tiny_ridge_are_separated_and_finite(name):
    x = points(60)
    labels = (x[:, 0] > 0).long()
    y = labels.double()[:, None] if name == "logistic" else torch.nn.functional.one_hot(labels).double()
    for ridge in (1e-12, 0.0):
        task = problem(Laplacian(1.0), x, y, 60, (ridge,), intercept=True)
        solution = Newton(name).solve(task)
        f = outputs(task, solution)
        assert bool(f.isfinite().all())
        assert solution.objective[0] < 1e-6
        assert bool(((f[:, 0] > 0 if name == "logistic" else f[:, 1] > f[:, 0]) == (labels == 1)).all())


def test_a_rare_class_keeps_its_share_of_the_probability():
    x = points(400)
    y = (torch.arange(400) % 50 == 0).double()[:, None]
    task = problem(Gaussian(1.0), x, y, 40, (1e-1,), intercept=True)
    p = torch.sigmoid(outputs(task, Newton(**EXACT).solve(task)))
    # The intercept costs nothing, so the mean probability is the share of the class.
    assert float(p.mean()) == pytest.approx(0.02, rel=1e-8)


def test_outliers_pull_a_huber_machine_no_farther_the_farther_they_are():
    x = points(100)
    clean = x[:, :1].sin()
    found = []
    for far in (10.0, 1000.0):
        y = clean.clone()
        y[::10] += far
        task = problem(Gaussian(2.0), x, y, 20, (1e-3,), intercept=True)
        found.append(outputs(task, Newton(Huber(0.1), **EXACT).solve(task)))
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=1e-7)
    assert float((found[0] - clean)[1::10].abs().median()) < 0.1


def test_classes_share_the_outputs_evenly():
    x = points(100)
    task = problem(Laplacian(1.0), x, targets("softmax", x), 20, (1e-4, 0.0), intercept=True)
    solution = Newton("softmax").solve(task)
    for values in (solution.coefficients, solution.intercepts):
        assert float(values.sum(-1).abs().max()) < 1e-9 * float(values.abs().max())


def test_what_a_constant_fits_takes_one_step():
    x = points(50)
    for name in ("huber", "squared"):
        y = torch.full((50, 2), 0.1, dtype=torch.float64)
        task = problem(Laplacian(1.0), x, y, 10, (1e-3, 0.0), intercept=True)
        watch = Heard()
        solution = Newton(name).solve(task, watch)
        assert len(watch.states) == 1
        torch.testing.assert_close(outputs(task, solution, 1), task.y, rtol=0.0, atol=1e-12)


def test_single_precision_comes_as_near_as_it_can():
    x = points(200)
    task = problem(Laplacian(1.0), x, targets("softmax", x), 30, (1e-3,), intercept=True)
    single = problem(Laplacian(1.0), x.float(), task.y.float(), 30, (1e-3,), intercept=True)
    truth, rough = (Newton("softmax", tolerance=1e-9).solve(each) for each in (task, single))
    assert rough.coefficients.dtype == torch.float32
    assert float((outputs(single, rough).double() - outputs(task, truth)).abs().max()) < 1e-3


def test_single_precision_says_where_it_has_the_last_word():
    x = points(300)
    task = problem(Gaussian(8.0), x.float(), targets("softmax", x).float(), 60, (1e-2, 0.0), intercept=True)
    watch = Heard()
    solution = Newton("softmax").solve(task, watch)
    assert len(solution.notes) == 1
    assert "With ridge 0 the rounding of float32 has the last word" in solution.notes[0]
    falls = torch.tensor([state[2] for state in watch.states])
    assert bool((falls[1:] <= falls[:-1] * (1 + 1e-6)).all())
    # What is told is what the coefficients do.
    f = outputs(task, solution)
    own = float((solution.coefficients[0] * (task.gram() @ solution.coefficients[0])).sum())
    assert solution.objective[0] == pytest.approx(float(plain(Softmax(), f, task.y).mean()) + 1e-2 * own, rel=1e-4)


def test_one_class_alone_is_refused():
    x = points(20)
    ones = torch.ones(20, 1, dtype=torch.float64)
    with pytest.raises(DataError, match="where 0 and 1 are among the targets.*for output 0 that is not so"):
        Newton().solve(problem(Gaussian(1.0), x, ones, 5, intercept=True))
    with pytest.raises(DataError, match="where every class"):
        Newton("softmax").solve(problem(Gaussian(1.0), x, torch.cat([ones, 0 * ones], 1), 5, intercept=True))
    # A class whose points weigh nothing is not there.
    y = (torch.arange(20) < 10).double()[:, None]
    with pytest.raises(DataError, match="with a weight above 0"):
        Newton().solve(problem(Gaussian(1.0), x, y, 5, intercept=True, weights=2 * y[:, 0]))
    assert bool(Newton().solve(problem(Gaussian(1.0), x, ones, 5)).coefficients.isfinite().all())


def test_targets_that_a_loss_has_no_meaning_for_are_refused():
    x = points(20)
    with pytest.raises(DataError, match="needs targets from 0 to 1, and they lie between -1 and 1"):
        Newton().solve(problem(Gaussian(1.0), x, x[:, :1].sign(), 5))
    with pytest.raises(DataError, match="rows that sum to 1"):
        Newton("softmax").solve(problem(Gaussian(1.0), x, torch.ones(20, 3, dtype=torch.float64), 5))
    with pytest.raises(DataError, match="take the logistic loss for a single column"):
        Newton("softmax").solve(problem(Gaussian(1.0), x, torch.ones(20, 1, dtype=torch.float64), 5))


def test_a_budget_too_small_and_kernels_that_are_not_finite_are_refused():
    x = points(60)
    task = problem(Gaussian(1.0), x, targets("huber", x), 30)
    with pytest.raises(OutOfBudget, match="with 30 centers and 60 points takes .* and memory allows 10 KB"):
        Newton("huber").solve(replace(task, memory=10_000))

    class Broken(Gaussian):
        def __call__(self, x, z=None):
            found = super().__call__(x, z)
            return found if z is None else torch.where(torch.arange(len(found))[:, None] == 47, torch.nan, found)

    with pytest.raises(NonFiniteError, match="kernel of point 47 and center 0"):
        Newton("huber").solve(replace(task, kernel=Broken(1.0)))


# -- on the way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["huber", "softmax"])
def test_it_goes_on_from_any_step_to_the_same_bits(name):
    x = points(150)
    task = problem(Laplacian(1.0), x, targets(name, x), 20, (1e-3, 1e-6), intercept=True)
    watch = Heard()
    whole = Newton(name).solve(task, watch)
    assert len(watch.states) == len(whole.history) - 1
    for *_, tensors in watch.states[:-1]:
        again = Newton(name).solve(task, Heard(kept=tensors))
        assert torch.equal(again.coefficients, whole.coefficients)
        assert torch.equal(again.intercepts, whole.intercepts)
        assert (again.objective, again.passes, again.history) == (whole.objective, whole.passes, whole.history)


def test_a_state_of_another_problem_is_refused():
    x = points(40)
    watch = Heard()
    Newton("huber").solve(problem(Laplacian(1.0), x, targets("huber", x), 10), watch)
    with pytest.raises(DataError, match="not of this problem and this solver"):
        Newton("huber").solve(problem(Laplacian(1.0), x, targets("huber", x), 11), Heard(kept=watch.states[0][-1]))


def test_it_stops_where_it_is_asked_to_or_given_up_and_says_so():
    x = points(100)
    task = problem(Laplacian(1.0), x, targets("softmax", x), 30, (1e-6,), intercept=True)
    stopped, short = Newton("softmax").solve(task, Heard(stop=2)), Newton("softmax", passes=5).solve(task)
    assert len(stopped.history) == 3
    assert "It was asked to stop." in stopped.notes[0]
    assert "With ridge 1e-06 it has not converged" in short.notes[0]
    assert bool(stopped.coefficients.isfinite().all())


def test_the_first_step_of_a_watch_tells_the_objective_of_its_coefficients():
    x = points(60)
    task = problem(Gaussian(1.0), x, targets("huber", x), 15, (1e-2,), intercept=True)
    watch = Heard()
    Newton(Huber(1.0)).solve(task, watch)
    for _, _, objective, (alpha, constant), _ in watch.states:
        f = task.kernel(task.x, task.z) @ alpha[0] + constant[0]
        norm = float((alpha[0] * (task.gram() @ alpha[0])).sum())
        assert objective[0] == pytest.approx(float(plain(Huber(1.0), f, task.y).mean()) + 1e-2 * norm, rel=1e-9)


def test_scipy_agrees_about_the_gradient_of_the_objective():
    x = points(25)
    y = targets("softmax", x)
    k = Gaussian(1.0)(x, x[:4])
    loss = Softmax()
    value = lambda a: float(loss.values(k @ torch.from_numpy(a).view(4, 3), y).mean())
    slope = lambda a: (k.T @ loss.slopes(k @ torch.from_numpy(a).view(4, 3), y) / len(x)).flatten().numpy()
    assert check_grad(value, slope, points(4).numpy().ravel()) < 1e-6


def test_a_fit_chooses_among_ridges_by_the_loss_that_it_minimises():
    x = points(200)
    y, half = targets("softmax", x), slice(0, 100)
    fitted = lambda y: ks.fit(Gaussian(1.5), x[half], y[half], ridge=[1e-1, 1e-3, 1e-12], intercept=True, centers=30,
                              progress=False, validation=(x[100:], y[100:]), solver=Newton("softmax"))
    machine = fitted(y)
    truth = [float(plain(Softmax(), machine.at(ridge)(x[100:]), y[100:]).mean()) for ridge in machine.fitting.ridges]
    assert machine.fitting.validation.tolist() == pytest.approx(truth, rel=1e-10)
    assert machine.fitting.ridge == machine.fitting.ridges[int(np.argmin(truth))] == 1e-3
    with pytest.raises(DataError, match="rows that sum to 1"):
        fitted(torch.cat([y[half], 2 * y[half]]))


def test_a_fit_takes_the_solver_for_its_loss():
    x = points(60)
    y = targets("huber", x, c=1)[:, 0]
    machine = ks.fit(Gaussian(1.5), x, y, centers=12, ridge=1e-3, intercept=True, progress=False,
                     solver=Newton(Huber(1.0), **EXACT))
    task = problem(Gaussian(1.5), x, y[:, None], 60, (1e-3,), intercept=True)
    truth, _ = dense(replace(task, z=as_points(machine.centers)), Huber(1.0), 1e-3)
    torch.testing.assert_close(machine(x), truth[:, 0], rtol=0.0, atol=1e-8)
