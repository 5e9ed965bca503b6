"""Every solver finds the optimum of the yardstick, or says that it has not."""

import itertools

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget
from kernelscope.solvers import ConjugateGradient, Direct, Watch
from kernelscope.solvers.orthonormal import spanning
from tests.solver_problems import GRID, Table, case, excess, kernel_of, matrices, objective, posed, synthetic

#: How far from the optimum each may end.
TOLERATED = {"direct": 1e-6, "cg": 1e-4, "two-level": 1e-4}
SOLVERS = {"direct": Direct(), "cg": ConjugateGradient(), "two-level": ConjugateGradient("two-level", rank=30)}
EXACT = ["direct", "cg"]


def assert_optimal(problem, name, solution):
    for place, ridge in enumerate(problem.ridge):
        assert excess(problem, solution, place) < TOLERATED[name]
        found = objective(problem, solution.coefficients[place], solution.intercepts[place], ridge)
        assert solution.objective[place] == pytest.approx(found, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("source", "d", "name", "factor"), GRID)
def test_the_solution_is_the_optimum_in_the_span_of_the_centers(source, d, name, factor):
    problem = case(source, d, name, factor, 600, 50, ridge=(1e-2, 1e-6))
    for solver in EXACT:
        assert_optimal(problem, solver, SOLVERS[solver].solve(problem))


@pytest.mark.parametrize(("source", "d", "name", "factor"), GRID)
def test_some_eigenvectors_are_enough_or_the_solution_says_that_they_are_not(source, d, name, factor):
    problem = case(source, d, name, factor, 600, 50, ridge=(1e-5,))
    solution = ConjugateGradient("two-level", rank=20, passes=40).solve(problem)
    assert excess(problem, solution) < (10.0 if solution.notes else 1e-4)
    assert all("has not converged" in note and 'preconditioner="full"' in note for note in solution.notes)
    assert name == "Gaussian" or not solution.notes


@pytest.mark.slow
@pytest.mark.parametrize(("source", "d", "name", "factor", "p"), [
    *((*each, 500) for each in GRID), *((*each, 2000) for each in GRID if each[1] == 64 and each[3] == 1.0)])
def test_the_solution_is_the_optimum_of_many_centers(source, d, name, factor, p):
    problem = case(source, d, name, factor, 5 * p, p, ridge=(1e-6,))
    for solver in EXACT:
        assert excess(problem, SOLVERS[solver].solve(problem)) < TOLERATED[solver]


# -- odd data ----------------------------------------------------------------------------------------------------------


def copies(x, y):
    return posed(kernel_of("Gaussian", x), x.repeat(3, 1)[:150], y.repeat(3, 1)[:150], x[:30].repeat(2, 1), ridge=1e-5)


def fewer_points_than_dimensions(x, y):
    return posed(kernel_of("Laplacian", x), x[:12], y[:12], x[:12], ridge=(1e-3, 1e-6))


def more_centers_than_points(x, y):
    return posed(kernel_of("Laplacian", x), x[:20], y[:20], x[:60], ridge=1e-4)


def all_points_as_centers(x, y):
    return posed(kernel_of("Gaussian", x), x, y, ridge=(1e-2, 1e-6))


def one_hot_targets(x, y):
    classes = torch.nn.functional.one_hot((y[:, 0] > 0).long() + (y[:, 1] > 1).long(), 3)
    return posed(kernel_of("Laplacian", x), x, classes.double(), x[:40], ridge=1e-4, intercept=True)


def constant_targets(x, y):
    return posed(kernel_of("Laplacian", x), x, torch.full_like(y, 7.0), x[:40], ridge=1e-3)


def constant_targets_and_an_intercept(x, y):
    return posed(kernel_of("Laplacian", x), x, torch.full_like(y, 7.0), x[:40], ridge=1e-3, intercept=True)


def weights_and_an_intercept(x, y):
    weights = torch.rand(len(x), dtype=torch.float64) + 0.01
    weights[:20] = 0.0
    return posed(kernel_of("Gaussian", x), x, y + 5, x[:40], ridge=(1e-4, 1e-2), weights=weights / weights.mean(),
                 intercept=True)


def one_center(x, y):
    return posed(kernel_of("Gaussian", x), x, y, x[:1], ridge=1e-4)


def a_single_point(x, y):
    return posed(kernel_of("Gaussian", x), x[:1], y[:1], x[:1], ridge=1e-4)


def points_far_from_all_centers(x, y):
    return posed(kernel_of("Gaussian", x, 0.25), torch.cat([x, x + 50]), torch.cat([y, y]), x[:40], ridge=1e-6)


ODD = [copies, fewer_points_than_dimensions, more_centers_than_points, all_points_as_centers, one_hot_targets,
       constant_targets, constant_targets_and_an_intercept, weights_and_an_intercept, one_center, a_single_point,
       points_far_from_all_centers]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("pose", ODD, ids=lambda pose: pose.__name__)
def test_odd_data_has_its_optimum_too(pose, solver):
    problem = pose(*synthetic(100, 16, c=2))
    solution = SOLVERS[solver].solve(problem)
    # The second has not the memory to invert what copies and smooth kernels leave, and says so.
    if solver != "two-level" or not solution.notes:
        assert_optimal(problem, solver, solution)
    else:
        assert pose in (copies, all_points_as_centers, weights_and_an_intercept)


# -- laws --------------------------------------------------------------------------------------------------------------


def predicted(problem, solution, place=0):
    return matrices(problem)[0] @ solution.coefficients[place] + solution.intercepts[place]


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture
def data():
    x, y = synthetic(240, 16, c=2)
    return kernel_of("Laplacian", x), x, y, x[:30]


def test_several_ridges_from_the_same_passes_are_each_their_own_solution(solver, data):
    ridges = (1e-2, 1e-3, 1e-5)
    together = solver.solve(posed(*data, ridge=ridges))
    for place, ridge in enumerate(ridges):
        alone = solver.solve(posed(*data, ridge=ridge))
        assert together.objective[place] == pytest.approx(alone.objective[0], rel=1e-5)


def test_a_kernel_and_a_ridge_that_are_multiplied_alike_give_the_same_function(solver, data):
    k, *rest = data
    one, other = posed(k, *rest, ridge=1e-3), posed(100.0 * k, *rest, ridge=1e-1)
    assert torch.allclose(predicted(one, solver.solve(one)), predicted(other, solver.solve(other)), atol=1e-3)


def test_a_weight_counts_a_point_several_times(solver, data):
    k, x, y, z = data
    times = torch.arange(len(x)) % 3 + 1
    weighted = posed(k, x, y, z, ridge=1e-3, weights=times / times.double().mean(), intercept=True)
    repeated = posed(k, x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), z, ridge=1e-3, intercept=True)
    one, other = solver.solve(weighted), solver.solve(repeated)
    assert one.objective[0] == pytest.approx(other.objective[0], rel=1e-5)
    assert torch.allclose(one.intercepts, other.intercepts, atol=1e-2)


def test_an_intercept_takes_up_a_shift_of_the_targets(solver, data):
    k, x, y, z = data
    low = solver.solve(posed(k, x, y, z, ridge=1e-3, intercept=True))
    high = solver.solve(posed(k, x, y + 1000.0, z, ridge=1e-3, intercept=True))
    assert torch.allclose(high.intercepts, low.intercepts + 1000.0, atol=1e-2)
    assert high.objective[0] == pytest.approx(low.objective[0], rel=1e-6)


def test_blocks_of_any_size_give_the_same_solution(solver, data):
    whole = solver.solve(posed(*data, ridge=1e-3))
    parts = solver.solve(posed(*data, ridge=1e-3, memory=400_000))
    assert whole.objective[0] == pytest.approx(parts.objective[0], rel=1e-9)


def test_single_precision_is_near_to_double_precision(solver, data):
    k, x, y, z = data
    fine, coarse = posed(k, x, y, z, ridge=1e-3), posed(k, x.float(), y.float(), z.float(), ridge=1e-3)
    assert solver.solve(coarse).objective[0] == pytest.approx(solver.solve(fine).objective[0], rel=1e-3)


@pytest.mark.parametrize("name", EXACT)
def test_what_single_precision_leaves_out_is_said_and_double_precision_and_copies_are_not(name):
    x, y = synthetic(200, 8)
    smooth, rough = kernel_of("Gaussian", x, 4.0), kernel_of("Laplacian", x)
    single = SOLVERS[name].solve(posed(smooth, x.float(), y.float(), x[:60].float(), ridge=1e-6))
    assert any("float64" in note for note in single.notes)
    double = SOLVERS[name].solve(posed(smooth, x, y, x[:60], ridge=1e-6))
    copied = SOLVERS[name].solve(posed(rough, x.float(), y.float(), x[:30].repeat(2, 1).float(), ridge=1e-6))
    assert double.notes == copied.notes == ()


def test_more_ridges_than_are_factorised_one_by_one_have_their_optima_too(data):
    problem = posed(*data, ridge=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6))
    assert_optimal(problem, "cg", ConjugateGradient().solve(problem))


@pytest.mark.parametrize(("name", "factor", "whole"), [("Laplacian", 1.0, True), ("Gaussian", 20.0, False)])
def test_a_basis_is_orthonormal_and_spans_what_rounding_leaves(name, factor, whole):
    x, _ = synthetic(80, 8)
    gram = kernel_of(name, x, factor)(x)
    basis, _ = spanning(gram)
    values = torch.linalg.eigvalsh(gram)
    assert (basis.shape[1] == 80) == whole == bool(values[0] > 1e-12 * values[-1])
    one = torch.eye(basis.shape[1], dtype=torch.float64)
    assert torch.allclose(basis.T @ gram @ basis, one, atol=1e-8 if whole else 1e-3)


# -- passes ------------------------------------------------------------------------------------------------------------


class Heard(Watch):
    def __init__(self, kept=None, stop=None):
        self.kept, self.stop, self.states = kept, stop, []

    def heard(self, state):
        coefficients = tuple(t.clone() for t in state.coefficients())
        self.states.append((state.passes, state.objective, coefficients, state.tensors()))
        return len(self.states) == self.stop


ITERATED = ["cg", "two-level"]


@pytest.mark.parametrize("name", ITERATED)
def test_a_solution_that_goes_on_from_any_pass_is_the_same_to_the_last_bit(name, data):
    problem = posed(*data, ridge=(1e-2, 1e-5), intercept=True)
    watch = Heard()
    whole = SOLVERS[name].solve(problem, watch)
    assert len(watch.states) > 4
    for *_, tensors in watch.states:
        again = SOLVERS[name].solve(problem, Heard(tensors))
        assert torch.equal(again.coefficients, whole.coefficients)
        assert torch.equal(again.intercepts, whole.intercepts)
        assert (again.objective, again.history, again.passes) == (whole.objective, whole.history, whole.passes)


@pytest.mark.parametrize("name", ITERATED)
def test_what_is_said_after_each_pass_is_so(name, data):
    problem = posed(*data, ridge=(1e-2, 1e-5), intercept=True)
    watch = Heard()
    solution = SOLVERS[name].solve(problem, watch)
    for _, said, (coefficients, intercepts), _ in watch.states:
        for place, ridge in enumerate(problem.ridge):
            found = objective(problem, coefficients[place], intercepts[place], ridge)
            assert said[place] == pytest.approx(found, rel=1e-9)
    passes = [passes for passes, *_ in watch.states]
    assert solution.passes == passes[-1]
    assert [after - before for before, after in itertools.pairwise(passes)] == [1.0] * (len(passes) - 1)


@pytest.mark.parametrize("name", ITERATED)
def test_no_pass_raises_the_objective(name):
    problem = case("photographs", 8, "Gaussian", 1.0, 400, 50, ridge=(1e-8,))
    watch = Heard()
    SOLVERS[name].solve(problem, watch)
    found = [objective(problem, coefficients[0], intercepts[0], 1e-8)
             for _, _, (coefficients, intercepts), _ in watch.states]
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("name", ITERATED)
def test_a_solver_that_is_stopped_says_so_and_keeps_what_it_has(name, data):
    problem = posed(*data, ridge=1e-4)
    watch = Heard(stop=2)
    solution = SOLVERS[name].solve(problem, watch)
    assert len(watch.states) == 2
    assert "Stopped after 3 passes" in solution.notes[0]
    assert torch.equal(solution.coefficients, watch.states[-1][2][0])


def test_too_few_passes_are_said(data):
    solution = ConjugateGradient(passes=2).solve(posed(*data, ridge=1e-6))
    assert "After 2 passes" in solution.notes[0]
    assert len(solution.history) == 2


@pytest.mark.parametrize("name", ITERATED)
def test_a_good_start_is_kept(name, data):
    problem = posed(*data, ridge=(1e-2, 1e-4), intercept=True)
    best = Direct().solve(problem)
    solution = SOLVERS[name].solve(problem, None, best.coefficients)
    assert len(solution.history) <= 4
    assert solution.objective == pytest.approx(best.objective, rel=1e-9)
    assert torch.allclose(solution.intercepts, best.intercepts, atol=1e-6)


def test_the_state_of_another_problem_is_refused(data):
    k, x, y, z = data
    watch = Heard(stop=1)
    ConjugateGradient().solve(posed(*data, ridge=1e-3), watch)
    kept = watch.states[0][3]
    for problem in (posed(*data, ridge=(1e-3, 1e-2)), posed(k, x, y, z[:20]), posed(k, x, y[:, :1], z)):
        with pytest.raises(DataError, match="not of this problem"):
            ConjugateGradient().solve(problem, Heard(kept))


def test_many_outputs_are_solved_like_few(data):
    k, x, y, z = data
    wide = posed(k, x, y[:, :1] * torch.linspace(-1, 1, 80, dtype=torch.float64), z, ridge=1e-3)
    assert excess(wide, ConjugateGradient().solve(wide)) < 1e-4


# -- what no machine can be made of ------------------------------------------------------------------------------------


def table(change):
    x, y = synthetic(60, 8)
    values = kernel_of("Laplacian", x)(x)
    change(values)
    numbers = torch.arange(60.0, dtype=torch.float64)[:, None]
    return posed(Table(values), numbers, y, numbers[:20], ridge=1e-4)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [(3, 17), (17, 3), (5, 5), (45, 3)])
def test_a_kernel_that_is_not_finite_is_refused_wherever_it_is(solver, place, value):
    problem = table(lambda values: values.__setitem__(place, value))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        solver.solve(problem)


@pytest.mark.parametrize("place", [(3, 17), (17, 3)])
def test_a_kernel_that_is_not_symmetric_is_refused(solver, place):
    problem = table(lambda values: values.__setitem__(place, values[place] + 0.1))
    with pytest.raises(DataError, match="not symmetric"):
        solver.solve(problem)


@pytest.mark.parametrize("name", EXACT)
def test_a_kernel_that_is_not_positive_is_refused(name):
    with pytest.raises(DataError, match="positive"):
        SOLVERS[name].solve(table(lambda values: values[:20, :20].fill_diagonal_(-1.0)))
    with pytest.raises(DataError, match="nought"):
        SOLVERS[name].solve(table(lambda values: values.zero_()))


def test_too_little_memory_is_said_before_the_kernel_is_asked(solver):
    class Untouched(ks.kernels.Laplacian):
        def __call__(self, x, z=None):
            raise AssertionError("the kernel was asked")

        matmul = blocks = diagonal = __call__

    x, y = synthetic(200, 8)
    problem = posed(Untouched(1.0), x, y, x[:100], memory=50_000)
    with pytest.raises(OutOfBudget, match="fewer centers"):
        solver.solve(problem)


@pytest.mark.parametrize("arguments", [{"rank": 0}, {"steps": 0}, {"passes": 0}, {"tolerance": 0.0}, {"tolerance": 1.0},
                                       {"preconditioner": "none"}])
def test_numbers_that_make_no_solver_are_refused(arguments):
    with pytest.raises(DataError, match=next(iter(arguments))):
        ConjugateGradient(**arguments)
