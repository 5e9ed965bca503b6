"""EigenPro: steps that are what their formula says, that end at the best machine of the span, and never run away."""

import itertools
from dataclasses import replace

import pytest
import torch

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.errors import DataError, NonFiniteError
from kernelscope.solvers import ConjugateGradient, Direct, EigenPro, Problem, State, WarmStart, Watch
from kernelscope.solvers.candidates import best_of
from kernelscope.solvers.flight import Flight
from kernelscope.solvers.nystrom import Nystrom
from kernelscope.solvers.projection import Projection
from tests.solver_problems import GRID as MANY
from tests.solver_problems import Table, case, excess

KERNELS = {"laplacian": ks.kernels.Laplacian, "gaussian": ks.kernels.Gaussian}


def points(n, d, seed=0):
    """Points on a curved sheet with a little noise, and targets that a smooth function of it gives, with noise."""
    g = torch.Generator().manual_seed(seed)
    u = torch.randn(n, min(d, 12), generator=g, dtype=torch.float64) / torch.arange(1, min(d, 12) + 1).sqrt()
    mix = torch.randn(min(d, 12), d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = (u @ mix + 0.3).relu() + 0.05 * torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.stack([(2 * u[:, 0]).sin() + u[:, 1] * u[:, 2], u[:, 0].abs()], 1)
    return x, y + 0.2 * torch.randn(n, 2, generator=g, dtype=torch.float64)


def problem(kind="laplacian", scale=1.0, n=600, p=60, d=8, ridge=(1e-4,), square=False, **others):
    x, y = points(n, d)
    kernel = KERNELS[kind](scale * float(torch.pdist(x[:300]).median()))
    held = as_points(x)
    z = held if square else as_points(points(p, d, seed=5)[0])
    return Problem(kernel, held, y, z, ridge, **{"intercept": True, **others})


def weights(n):
    w = torch.rand(n, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    return w / w.mean()


def ridges_of(p):
    return torch.tensor(p.ridge, dtype=p.y.dtype).repeat_interleave(p.outputs)


def pieces(p, sample=200):
    projection, ridges = None if p.square else Projection(p), ridges_of(p)
    order = torch.randperm(len(p.x), generator=torch.Generator().manual_seed(0))[:sample]
    return projection, Nystrom(p, projection, order, None, ridges), ridges, order


# Steps


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("pulled", [False, True])
@pytest.mark.parametrize("memory", [10**9, 10**5])
def test_steps_are_those_of_their_formula(square, intercept, weighed, pulled, memory):
    p = problem(n=160, p=30, ridge=(1e-2, 1e-3), square=square, intercept=intercept,
                weights=weights(160) if weighed else None, memory=10**9)
    projection, nystrom, ridges, order = pieces(p, 80)
    p = replace(p, memory=memory)
    g = torch.Generator().manual_seed(1)
    count, m = len(p.z), len(ridges)
    alpha = torch.randn(count, m, generator=g, dtype=torch.float64)
    pull = torch.randn(count, m, generator=g, dtype=torch.float64) if pulled else None
    rate = torch.rand(m, generator=g, dtype=torch.float64) + 0.5
    flight = Flight(p, nystrom, alpha, pull, ridges, rate)
    batches = [torch.arange(0, 40), torch.arange(40, 75), torch.arange(20, 60)]
    told = [flight.step(b) for b in batches]
    found = flight.alpha if square else flight.alpha + projection.solve(flight.gathered)

    # The same in the space of values at all points and centers: a function is its coefficients on every point there is.
    x, z = p.x.part(0, 160).args[0], p.z.part(0, count).args[0]
    w = torch.ones(160, dtype=torch.float64) if p.weights is None else p.weights
    every = x if square else torch.cat([z, x])
    first = 0 if square else count
    gram = p.kernel(every)
    into = torch.eye(160, dtype=torch.float64) if square else torch.cat(
        [torch.linalg.solve(gram[:count, :count], gram[:count]), torch.zeros(160, count + 160)])
    functions = torch.zeros(len(every), nystrom.level, dtype=torch.float64)
    if square:
        functions[order] = nystrom.directions
    else:
        functions[:count] = nystrom.directions
    f = torch.zeros(len(every), m, dtype=torch.float64)
    f[:count] = alpha
    for b, error in zip(batches, told, strict=True):
        there = (gram @ f)[first + b]
        rest = there if pulled else there - p.y[b].repeat(1, 2)
        assert torch.allclose(error, (w[b, None] * rest.square()).mean(0), rtol=1e-9)
        if intercept:
            rest = rest - (w[b, None] * rest).sum(0) / w[b].sum()
        u = ridges * f
        u[first + b] += w[b, None] * rest / len(b)
        if pulled:
            u[:count] += pull
        inner = functions.T @ gram @ u
        for i, column in itertools.product(range(nystrom.level), range(m)):
            u[:, column] -= nystrom.shares[i, column] * inner[i, column] * functions[:, i]
        f = f - rate * u
    wanted = (gram @ (into @ f))[:count]
    assert torch.allclose(gram[:count, :count] @ found, wanted, rtol=1e-6, atol=1e-7 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", KERNELS)
def test_steps_stay_where_the_best_machine_of_the_span_is(kind):
    p = problem(kind, ridge=(1e-3,), weights=weights(600))
    projection, nystrom, ridges, _ = pieces(p)
    best = best_of(p, projection, [Direct().solve(p).coefficients[0]], ridges)
    pull = best.pull
    change = torch.zeros_like(best.alpha)
    for b in torch.arange(600).split(100):
        flight = Flight(p, nystrom, change, pull, ridges, 1 / (nystrom.largest(p, projection, b, len(b)) + ridges))
        flight.step(b)
        change = flight.alpha + projection.solve(flight.gathered)
    gram = p.gram()
    moved = (change * (gram @ change)).sum(0).sqrt() / (best.alpha * (gram @ best.alpha)).sum(0).sqrt()
    assert float(moved.max()) < 1e-6


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("square", [False, True])
def test_the_largest_eigenvalue_that_a_step_meets_is_that_of_the_dense_matrix(square, intercept):
    p = problem(n=200, p=40, square=square, intercept=intercept, weights=weights(200))
    projection, nystrom, ridges, _ = pieces(p, 100)
    b = torch.arange(50, 130)
    block = p.block(p.x.chosen(b.tolist()))
    gram = p.kernel(p.x.chosen(b.tolist())) if square else block @ torch.linalg.solve(p.gram(), block.T)
    seen, root = nystrom.seen(block), p.weights[b].sqrt()
    for column in range(len(ridges)):
        k = root[:, None] * (gram - (seen * nystrom.shares[:, column]) @ seen.T) * root
        if intercept:
            off = torch.eye(80, dtype=torch.float64) - root[:, None] * root / root.square().sum()
            k = off @ k @ off
        found = nystrom.largest(p, projection, b, len(b))[column]
        assert float(found * 80 / torch.linalg.eigvalsh(k)[-1]) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("square", [False, True])
def test_the_preconditioner_is_positive(square):
    p = problem("gaussian", n=300, p=80, square=square, ridge=(1e-6,))
    _, nystrom, _, order = pieces(p, 150)
    whole = nystrom.directions.T @ (p.kernel(p.x.chosen(order.tolist())) if square else p.gram()) @ nystrom.directions
    assert torch.allclose(whole, nystrom.products, atol=1e-6)
    assert float(torch.linalg.eigvalsh(nystrom.products)[-1]) <= 1 + 1e-6
    assert bool((nystrom.shares > 0).all() and (nystrom.shares < 1).all())


# Pieces


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_best_of_some_machines_is_the_least_squares_solution_in_their_span(intercept, weighed):
    p = problem(n=200, p=30, ridge=(1e-1, 1e-3), intercept=intercept, weights=weights(200) if weighed else None,
                memory=5 * 10**4)
    projection, ridges = Projection(p), ridges_of(p)
    g = torch.Generator().manual_seed(2)
    machines = [torch.randn(30, 4, generator=g, dtype=torch.float64) for _ in range(3)]
    assert not projection.kept
    best = best_of(p, projection, machines, ridges)
    k, gram = p.kernel(p.x, p.z), p.gram()
    w = torch.ones(200, dtype=torch.float64) if p.weights is None else p.weights
    for column in range(4):
        span = torch.stack([m[:, column] for m in machines], 1)
        y = p.y[:, column % 2]
        factor = torch.linalg.cholesky(gram).T
        rows = [(w / 200).sqrt()[:, None] * torch.cat([k @ span, torch.ones(200, int(intercept))], 1),
                float(ridges[column]) ** 0.5 * torch.cat([factor @ span, torch.zeros(30, int(intercept))], 1)]
        targets = torch.cat([(w / 200).sqrt() * y, torch.zeros(30)])
        t = torch.linalg.lstsq(torch.cat(rows), targets[:, None]).solution[:, 0]
        assert torch.allclose(best.alpha[:, column], span @ t[:3], rtol=1e-7, atol=1e-9)

        def loss(a, b, y=y, ridge=ridges[column]):
            return float((w * (k @ a + b - y).square()).mean() + ridge * a @ gram @ a)

        offset = float(t[3]) if intercept else 0.0
        assert float(best.objective[column]) == pytest.approx(loss(span @ t[:3], offset), rel=1e-9)
        rest = w * (k @ best.alpha[:, column] + best.offset[column] - y) / 200
        gradient = k.T @ rest + ridges[column] * gram @ best.alpha[:, column]
        assert torch.allclose(projection.product(best.pull)[:, column], gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("memory", [10**9, 2 * 10**5])
@pytest.mark.parametrize("kind", KERNELS)
def test_a_projection_is_by_one_positive_matrix_in_all_it_says(kind, memory):
    p = problem(kind, n=300, p=200, memory=memory)
    made = Projection(p)
    assert made.kept == (memory == 10**9)
    matrix = made.product(torch.eye(200, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > -1e-12
    h = p.block(p.x.chosen(range(40))).T
    found, half = made.solve(h), made.half(h)
    assert torch.allclose(matrix @ found, h, atol=1e-6 * float(h.abs().max()))
    assert torch.allclose(half.T @ half, h.T @ found, rtol=1e-9, atol=1e-9)
    assert torch.allclose(made.gram(found), p.gram() @ found, rtol=1e-9, atol=1e-9 * float(found.abs().max()))


def test_where_the_matrix_has_no_room_it_is_a_samples_with_the_diagonal_corrected():
    p = problem(n=300, p=200, memory=2 * 10**5)
    made = Projection(p)
    r = made.width // 2
    assert r == 15
    some = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:r]
    gram = p.gram()
    low = gram[:, some] @ torch.linalg.solve(gram[some][:, some], gram[some])
    left = gram.diagonal() - low.diagonal()
    wanted = low + torch.diag(left + 0.1 * left.mean())
    assert torch.allclose(made.product(torch.eye(200, dtype=torch.float64)), wanted, atol=1e-8)


def test_the_best_of_some_machines_of_all_points_knows_its_gradient_as_a_function():
    p = problem(n=80, square=True, ridge=(1e-2, 1e-4), weights=weights(80))
    machines = [torch.randn(80, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    best, gram = best_of(p, None, machines, ridges_of(p)), p.gram()
    rest = gram @ best.alpha + best.offset - p.y.repeat(1, 2)
    gradient = gram @ (p.weights[:, None] * rest) / 80 + ridges_of(p) * (gram @ best.alpha)
    assert torch.allclose(gram @ best.pull, gradient, rtol=1e-9, atol=1e-11)


# The end


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("d", [8, 64])
def test_it_ends_within_one_percent_of_the_best_objective(kind, scale, d):
    p = problem(kind, scale, n=1500, p=120, d=d, ridge=(1e-2, 1e-4))
    best, found = Direct().solve(p), EigenPro().solve(p)
    for wanted, came in zip(best.objective, found.objective, strict=True):
        assert wanted * (1 - 1e-6) <= came <= wanted * 1.01


@pytest.mark.slow
@pytest.mark.parametrize(("source", "d", "name", "factor", "p", "room"), [
    *((*each, 500, True) for each in MANY), *((*each, 2000, True) for each in MANY if each[1::2] == (64, 1.0)),
    *((*each, 500, False) for each in MANY if each[2] == "Laplacian")])
def test_it_ends_there_with_many_centers_of_real_data_too(source, d, name, factor, p, room):
    problem = case(source, d, name, factor, 5 * p, p, ridge=(1e-4, 1e-6), intercept=True)
    problem = replace(problem, memory=2 * 10**9 if room else 3 * 10**6)
    assert Projection(problem).kept == room
    solution = EigenPro().solve(problem)
    assert all("the objective still fell" in note for note in solution.notes)
    for place in range(2):
        assert excess(problem, solution, place) < 1e-2


@pytest.mark.parametrize("variant", [2, 3, 4])
def test_all_variants_end_there(variant):
    p = problem(n=500, p=80, square=variant == 2, ridge=(1e-3,))
    best, found = Direct().solve(p), EigenPro(variant).solve(p)
    assert best.objective[0] * (1 - 1e-6) <= found.objective[0] <= best.objective[0] * 1.01


@pytest.mark.parametrize("what", ["duplicates", "few points", "one-hot", "constant", "weights", "float32",
                                  "low memory"])
def test_it_ends_there_on_odd_problems_too(what):
    p = problem(n=600, p=60, ridge=(1e-3,))
    x, y = points(600, 8)
    if what == "duplicates":
        p = replace(p, x=as_points(x[:100].repeat(6, 1)), y=y[:100].repeat(6, 1), z=as_points(x[:20].repeat(3, 1)))
    elif what == "few points":
        p = problem(n=40, p=30, d=64, ridge=(1e-3,))
    elif what == "one-hot":
        p = replace(p, y=torch.nn.functional.one_hot((y[:, 0] > 0).long(), 2).double())
    elif what == "constant":
        p = replace(p, y=torch.full_like(y, 3.0), intercept=False)
    elif what == "weights":
        p = replace(p, weights=weights(600))
    elif what == "float32":
        p = replace(p, x=as_points(x.float()), y=y.float(), z=as_points(p.z.part(0, 60).args[0].float()))
    else:
        p = replace(p, memory=10**6)
    best, found = Direct().solve(replace(p, memory=10**9)), EigenPro().solve(p)
    assert found.objective[0] <= best.objective[0] * 1.01 + 1e-9


def test_the_objective_and_the_intercept_it_names_are_those_of_its_machine():
    p = problem(ridge=(1e-2, 1e-4), weights=weights(600))
    found = EigenPro(epochs=3).solve(p)
    for i, ridge in enumerate(p.ridge):
        rest = p.kernel(p.x, p.z) @ found.coefficients[i] + found.intercepts[i] - p.y
        smooth = (found.coefficients[i] * (p.gram() @ found.coefficients[i])).sum()
        assert found.objective[i] == pytest.approx(float((p.weights[:, None] * rest.square()).mean(0).sum()
                                                         + ridge * smooth), rel=1e-9)


GRID = list(itertools.product(KERNELS, [0.25, 1.0, 4.0], [50, 200, 400], [1, 10, 25], [0.0, 1e-8, 1e-3], [False, True]))


def ends_well(kind, scale, sample, level, ridge, single):
    p = problem(kind, scale, n=500, p=100, ridge=(ridge,))
    if single:
        x, z = (t.part(0, len(t)).args[0].float() for t in (p.x, p.z))
        p = replace(p, x=as_points(x), y=p.y.float(), z=as_points(z))
    found = EigenPro(sample=sample, level=level, epochs=8).solve(p)
    nothing = float((p.y - p.y.mean(0)).square().mean(0).sum())
    return bool(found.coefficients.isfinite().all()) and found.objective[0] <= nothing * (1 + 1e-5)


@pytest.mark.parametrize("case", GRID[::23], ids=str)
def test_it_never_runs_away(case):
    assert ends_well(*case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_it_never_runs_away_on_hundreds_of_problems(part):
    assert len(GRID) >= 200
    assert [case for case in GRID[part::6] if not ends_well(*case)] == []


def test_steps_that_are_too_long_are_taken_back(monkeypatch):
    p = problem()
    begin = EigenPro._begin

    def hasty(self, *arguments):
        course = begin(self, *arguments)
        course.rate = course.rate * 1000
        return course

    monkeypatch.setattr(EigenPro, "_begin", hasty)
    best, found = Direct().solve(p), EigenPro().solve(p)
    assert found.objective[0] <= best.objective[0] * 1.01


# Going on


class Kept(Watch):
    def __init__(self, kept=None, stop=None):
        self.kept, self.stop, self.states, self.told = kept, stop, [], []

    def heard(self, state: State) -> bool:
        self.told.append((state.passes, state.objective[0]))
        self.states.append({name: t.clone() for name, t in state.tensors().items()})
        return len(self.states) == self.stop


@pytest.mark.parametrize("square", [False, True])
def test_it_goes_on_from_any_stage_bit_for_bit(square):
    p = problem(n=300, square=square, ridge=(1e-3, 1e-5))
    solver, whole = EigenPro(epochs=6), Kept()
    wanted = solver.solve(p, whole)
    assert len(whole.states) > 2
    for state in whole.states[:-1]:
        found = solver.solve(p, Kept(state))
        assert torch.equal(found.coefficients, wanted.coefficients)
        assert torch.equal(found.intercepts, wanted.intercepts)
        assert (found.passes, found.history) == (wanted.passes, wanted.history)
    assert solver.solve(p, Kept(whole.states[0], stop=1)).passes < wanted.passes


# Finished by conjugate gradients


@pytest.mark.parametrize("then", ["full", "two-level"])
def test_conjugate_gradients_finish_what_it_began(then):
    p = problem(n=1500, p=100, ridge=(1e-3, 1e-5))
    best, found = Direct().solve(p), WarmStart(then=ConjugateGradient(then)).solve(p)
    assert all(a <= b * (1 + 1e-4) for a, b in zip(found.objective, best.objective, strict=True))


def test_what_it_begins_is_ahead_of_what_as_many_passes_of_conjugate_gradients_reach():
    p = problem(n=6000, p=100, ridge=(1e-4,))
    best = Direct().solve(p).objective[0]
    slow = ConjugateGradient("two-level", rank=5, steps=1)
    cold, warm = Kept(), Kept()
    slow.solve(p, cold)
    WarmStart(then=slow).solve(p, warm)
    excess = lambda watch, passes: min(o / best - 1 for at, o in watch.told if at <= passes)
    assert excess(warm, 4) < excess(cold, 4)


@pytest.mark.parametrize("then", ["full", "two-level"])
def test_both_go_on_from_any_pass_bit_for_bit(then):
    p = problem(n=300, p=50, ridge=(1e-3, 1e-5))
    solver, whole = WarmStart(EigenPro(epochs=3), ConjugateGradient(then)), Kept()
    wanted = solver.solve(p, whole)
    assert any("first.best" in state for state in whole.states)
    for state in whole.states[:-1]:
        found = solver.solve(p, Kept(state))
        assert torch.equal(found.coefficients, wanted.coefficients)
        assert torch.equal(found.intercepts, wanted.intercepts)
        assert found.passes == wanted.passes


def test_whoever_asks_it_to_stop_early_gets_what_there_is():
    p = problem(n=300)
    found = WarmStart().solve(p, Kept(stop=1))
    assert found.passes == EigenPro(epochs=1).solve(p).passes


# Refusals


@pytest.mark.parametrize(("arguments", "word"), [
    ({"variant": 5}, "2, 3, 4 or None"), ({"sample": 0}, "sample must be a whole number"),
    ({"batch": 1.5}, "batch must be"), ({"tolerance": 0.0}, "between 0 and 1"), ({"epochs": -1}, "epochs must be"),
])
def test_settings_that_are_none_are_refused(arguments, word):
    with pytest.raises(DataError, match=word):
        EigenPro(**arguments)


def test_eigenpro_2_needs_all_points_as_centers():
    with pytest.raises(DataError, match="centers are all the points"):
        EigenPro(2).solve(problem())


@pytest.mark.parametrize("where", ["point", "center"])
def test_points_without_numbers_end_before_the_first_step(where):
    p = problem(n=300)
    x, z = (t.part(0, len(t)).args[0].clone() for t in (p.x, p.z))
    (x if where == "point" else z)[7, 3] = float("nan")
    with pytest.raises((DataError, NonFiniteError)):
        EigenPro().solve(replace(p, x=as_points(x), z=as_points(z)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_of_the_targets_costs_no_digits(dtype):
    plain = problem(n=400, p=60, ridge=(1e-4,))
    x, z = (points.part(0, len(points)).args[0].to(dtype) for points in (plain.x, plain.z))
    moved = replace(plain, x=as_points(x), z=as_points(z), y=(plain.y + 1000).to(dtype))
    best, found = Direct().solve(plain), EigenPro().solve(moved)
    assert found.objective[0] == pytest.approx(best.objective[0], rel=1e-2)
    assert torch.allclose(found.intercepts.double(), best.intercepts + 1000, atol=0.1)


@pytest.mark.parametrize("square", [False, True])
def test_batches_in_which_no_point_weighs_anything_are_no_measure(square):
    w = torch.zeros(600, dtype=torch.float64)
    w[::100] = 100.0
    p = problem(p=40, square=square, weights=w, ridge=(1e-3,))
    best, found = Direct().solve(p), EigenPro().solve(p)
    nothing = float((p.weights[:, None] * (p.y - p.mean()).square()).mean(0).sum())
    assert best.objective[0] * (1 - 1e-6) <= found.objective[0] < best.objective[0] + 0.05 * nothing


@pytest.mark.parametrize("where", [0, 150, 399])
@pytest.mark.parametrize("square", [False, True])
def test_a_kernel_value_that_is_none_is_named_by_its_points(square, where):
    k = ks.kernels.Laplacian(3.0)(points(400, 3)[0])
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    i, j = int(order[where]), int(order[200])
    k[i, j] = k[j, i] = torch.nan
    numbers = torch.arange(400, dtype=torch.float64)[:, None]
    held = as_points(numbers)
    p = Problem(Table(k), held, points(400, 3)[1], held if square else as_points(numbers[order[190:230]]), (1e-3,))
    said = rf"center(s)? .*\b({i}|{j})\b" if square else f"point {i} and center 10 "
    with pytest.raises(NonFiniteError, match=said):
        EigenPro(sample=100).solve(p)
