"""Conjugate gradients on all points end where the dense solution is, and say by what they know it."""

import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.errors import DataError, NonFiniteError, OutOfBudget, StoreError
from kernelscope.kernels import Gaussian, Laplacian
from kernelscope.kernels.base import Kernel
from kernelscope.machine.plan import planned
from kernelscope.solvers import PCG, Problem, Watch
from kernelscope.solvers.low_rank import nystrom, rpcholesky
from kernelscope.solvers.system import System
from kernelscope.tiles import Computed
from tests import tiled
from tests.laws import assert_close, random_like

ROOT = Path(__file__).parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
K = Laplacian(2.0)
X, Y = tiled.samples()
N = len(X)
WEIGHTS = torch.rand(N, generator=torch.Generator().manual_seed(3), dtype=torch.float64).index_fill(
    0, torch.arange(4), 0.0)
gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                          reason="this build of torch has no gloo")


def problem(ridge=(1e-3,), k=K, x=X, y=Y, tiles=None, **more):
    points = as_points(x)
    return Problem(k, points, y, points, ridge, tiles=tiles, **more)


def dense(gram, y, ridge, weights=None, intercept=False):
    """Coefficients and the constant, of the equations as they stand."""
    n = len(gram)
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights / weights.mean()
    some = w > 0
    g, v = gram[some][:, some] + torch.diag(n * ridge / w[some]), y[some]
    if intercept:
        one = torch.ones(len(v), 1, dtype=torch.float64)
        g = torch.cat([torch.cat([g, one], 1), torch.cat([one, torch.zeros(1, 1)], 0).T], 0)
        v = torch.cat([v, torch.zeros(1, y.shape[1])])
    found = torch.linalg.solve(g, v.double())
    alpha = torch.zeros(n, y.shape[1], dtype=torch.float64)
    alpha[some] = found[:int(some.sum())]
    return alpha, found[-1] if intercept else torch.zeros(y.shape[1], dtype=torch.float64)


# -- it is the solution ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [PCG(None), PCG(rank=20), PCG(), PCG("rpcholesky", rank=20)], ids=repr)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_solution_is_that_of_dense_algebra(solver, weights, intercept):
    tight = PCG(solver.preconditioner, rank=solver.rank, tolerance=1e-12)
    ridges = [1e-2, 1e-5]
    machine = ks.fit(K, X, Y, ridge=ridges, solver=tight, weights=weights, intercept=intercept, progress=False)
    for i, ridge in enumerate(ridges):
        alpha, b = dense(K(X), Y, ridge, weights, intercept)
        assert_close(machine.fitting.coefficients[i], alpha, 1e-9)
        assert_close(machine.fitting.intercepts[i], b, 1e-9, scale=1.0)
        w = torch.ones(N) if weights is None else weights / weights.mean()
        f = K(X) @ alpha + b
        objective = (w[:, None] * (f - Y).square()).mean(0).sum() + ridge * (alpha * (K(X) @ alpha)).sum()
        assert float(machine.fitting.objective[i]) == pytest.approx(float(objective), rel=1e-8)
    assert [note[:26] for note in machine.fitting.notes] == ["Without validation this is"]


def true_residual(gram, alpha, ridge):
    return float(((Y - gram @ alpha - N * ridge * alpha).norm(dim=0) / Y.norm(dim=0)).max())


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-10])
def test_single_precision_tiles_are_solved_to_any_residual_and_the_history_ends_with_the_true_one(tmp_path, tolerance):
    tiles = ks.Tiles(K, X, tmp_path / "tiles", side=64, dtype=torch.float32)
    found = PCG(rank=40, tolerance=tolerance).solve(problem(tiles=tiles))
    residual = true_residual(tiles.dense().double(), found.coefficients[0], 1e-3)
    assert residual <= tolerance
    assert found.history[-1] == pytest.approx(residual, rel=1e-3)
    assert not found.notes


def test_targets_that_are_nought_are_fitted_by_nought():
    found = PCG().solve(problem(y=torch.zeros(N, 2)))
    assert not found.coefficients.any()
    half = torch.cat([Y[:, :1], torch.zeros(N, 1)], 1)
    assert not PCG().solve(problem(y=half)).coefficients[0, :, 1].any()


@pytest.mark.parametrize("intercept", [False, True])
def test_targets_of_any_size_have_the_coefficients_in_proportion(intercept):
    one = ks.fit(K, X, Y, ridge=1e-3, intercept=intercept, solver=PCG(), progress=False)
    for size in (2.0**-660, 2.0**300):
        other = ks.fit(K, X, Y * size, ridge=1e-3, intercept=intercept, solver=PCG(), progress=False)
        assert torch.equal(other.coefficients, one.coefficients * size)
        assert torch.equal(other.fitting.intercepts, one.fitting.intercepts * size)
        assert [line["residual"] for line in other.fitting.history] == [
            line["residual"] for line in one.fitting.history]
    with pytest.raises(NonFiniteError, match="Targets are as large as .*e.200, and the sum of their squares"):
        ks.fit(K, X, Y * 1e200, ridge=1e-3, intercept=intercept, solver=PCG(), progress=False)


def test_the_history_of_targets_that_are_nought_ends_with_their_residual_too():
    machine = ks.fit(K, X, Y * 0, ridge=1e-3, solver=PCG(), progress=False)
    assert [line["residual"] for line in machine.fitting.history] == [0.0]
    assert not machine.coefficients.any()


def test_without_a_ridge_the_kernel_alone_is_solved():
    found = PCG(tolerance=1e-9).solve(problem((0.0,)))
    assert_close(found.coefficients[0], torch.linalg.solve(K(X), Y), 1e-6)
    smooth = PCG(passes=30, rank=10).solve(problem((0.0,), Gaussian(5.0)))
    assert "Without a ridge the matrix may have no inverse" in smooth.notes[0]


@pytest.mark.parametrize("memory", ["60KB", "400KB", "10MB"])
def test_little_memory_computes_the_matrix_again_and_finds_the_same(memory):
    solver = PCG(tolerance=1e-10, rank=8)
    found = ks.fit(K, X, Y[:, 0], ridge=1e-3, solver=solver, memory="300KB" if memory == "60KB" else memory,
                   progress=False)
    assert_close(found.coefficients[:, None], dense(K(X), Y[:, :1], 1e-3)[0], 1e-8)
    with pytest.raises(OutOfBudget, match="memory allows"):
        solver.solve(problem(memory=10_000))


# -- preconditioners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, WEIGHTS / WEIGHTS.mean()])
@pytest.mark.parametrize("made", [lambda s, r: nystrom(s, r, 0), lambda s, r: rpcholesky(s, r, 0)])
def test_an_approximation_is_below_the_matrix_and_nearly_as_good_as_the_best(made, weights):
    system = System(problem(weights=weights), Computed(K, X))
    true = system.times(torch.eye(N, dtype=torch.float64), exact=True)
    assert_close(system.columns(torch.arange(N)), true, 1e-12)
    assert_close(system.corner(torch.arange(N)), true, 1e-12)
    assert_close(system.diagonal(), true.diagonal(), 1e-12)
    low = made(system, 60)
    assert_close(low.vectors.T @ low.vectors, torch.eye(60, dtype=torch.float64), 1e-10)
    left = true - low.vectors * low.values @ low.vectors.T
    best = float(torch.linalg.eigvalsh(true)[:-60].sum())
    assert float(torch.linalg.eigvalsh(left)[0]) > -1e-9 * N
    assert best <= float(left.trace()) < 2 * best


def test_a_preconditioner_is_the_inverse_it_says_it_is():
    system = System(problem(), Computed(K, X))
    low, mus = nystrom(system, 30, 0), torch.tensor([0.1, 3.0], dtype=torch.float64)
    v = random_like((N, 2), X)
    for column, mu in enumerate(mus):
        p = torch.eye(N, dtype=torch.float64) + low.vectors * ((low.values + mu) / (low.values[-1] + mu) - 1
                                                               ) @ low.vectors.T
        assert_close(low.apply(v, mus)[:, column], torch.linalg.solve(p, v[:, column]), 1e-10)


def test_a_rank_that_was_not_asked_for_grows_where_the_iteration_takes_long(monkeypatch):
    monkeypatch.setattr("kernelscope.solvers.pcg.PATIENCE", 12)
    monkeypatch.setattr("kernelscope.solvers.pcg.LEAST", 4)
    monkeypatch.setattr(PCG, "_rank", lambda self, problem: 4)
    ranks = []

    def counted(system, rank, seed):
        ranks.append(rank)
        return nystrom(system, rank, seed)

    monkeypatch.setattr("kernelscope.solvers.pcg.nystrom", counted)
    found = PCG(tolerance=1e-10).solve(problem((1e-4,)))
    assert ranks[:3] == [4, 8, 16]
    assert true_residual(K(X), found.coefficients[0], 1e-4) <= 1e-10


# -- digits, as the literature measures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    d = ks.data.digits("all")
    x = d.x.double()
    y = torch.nn.functional.one_hot(d.y, 10).double() - 0.1
    k = tiled.DeepReLU(3)
    x = x - x.mean(0)
    ridge = 1e-4 * float(k.diagonal(x).mean()) / len(x)
    return k, x, y, ridge, k(x)


def digits_residual(digits, alpha, gram=None):
    _, x, y, ridge, true = digits
    rest = y - (true if gram is None else gram) @ alpha - len(x) * ridge * alpha
    return float((rest.norm(dim=0) / y.norm(dim=0)).max())


def test_a_deep_network_on_digits_takes_at_most_70_products(digits, capsys):
    k, x, y, ridge, _ = digits
    found = PCG(rank=256).solve(problem((ridge,), k, x, y))
    assert digits_residual(digits, found.coefficients[0]) <= 1e-6
    assert found.passes <= 70


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "most"), [
    (PCG(None), 450), (PCG(rank=64), 150), (PCG(rank=256), 70), (PCG("rpcholesky", rank=256), 88)], ids=repr)
def test_products_on_digits_are_no_more_than_were_measured_elsewhere(digits, solver, most):
    k, x, y, ridge, _ = digits
    found = solver.solve(problem((ridge,), k, x, y))
    assert digits_residual(digits, found.coefficients[0]) <= 1e-6
    assert found.passes <= most


def test_refinement_on_digits_reaches_1e_10_with_tiles_in_single_precision(digits, tmp_path):
    k, x, y, ridge, _ = digits
    tiles = ks.Tiles(k, x, tmp_path / "tiles", side=512, dtype=torch.float32)
    found = PCG(rank=256, tolerance=1e-10).solve(problem((ridge,), k, x, y, tiles))
    assert digits_residual(digits, found.coefficients[0], tiles.dense().double()) <= 1e-10
    assert found.passes <= 150


# -- what cannot be solved is told -----------------------------------------------------------------------------------


def test_a_matrix_that_is_not_positive_is_told_with_the_ridge_that_covers_it():
    values, vectors = torch.linalg.eigh(K(X))
    values[100] = -5.0
    gram = vectors * values @ vectors.T
    gram = (gram + gram.T) / 2
    k, x = ks.kernels.Precomputed(gram), torch.arange(N)
    for solver in (PCG(None), PCG("rpcholesky", rank=10), PCG()):
        with pytest.raises(DataError, match="not positive"):
            solver.solve(problem((1e-3,), k, x))
    with pytest.raises(DataError, match=r"has an eigenvalue of -[45].* or below.* ridge=.* covers it") as told:
        PCG(None).solve(problem((1e-3,), k, x))
    ridge = float(str(told.value).split("ridge=")[1].split()[0])
    assert ridge > 5.0 / N
    assert_close(PCG(None, tolerance=1e-10).solve(problem((ridge,), k, x)).coefficients[0], dense(gram, Y, ridge)[0],
                 1e-8)


class Broken(Kernel):
    """The kernel of two points is NaN."""

    def __call__(self, x, z=None):
        a, b = (self.points(t).part(0, len(self.points(t))).args[0] for t in (x, x if z is None else z))
        gram = K(a, b)
        gram[(a == X[7]).all(1)[:, None] & (b == X[200]).all(1)] = float("nan")
        gram[(a == X[200]).all(1)[:, None] & (b == X[7]).all(1)] = float("nan")
        return gram


def test_a_kernel_that_is_nan_somewhere_is_told_by_its_points(tmp_path):
    with pytest.raises(NonFiniteError, match="The kernel of points 200 and 7 is NaN"):
        PCG().solve(problem(k=Broken()))
    with pytest.raises(NonFiniteError, match=r"The kernel of (center|point)s? 7 and"):
        ks.fit(Broken(), X, Y, ridge=1e-3, tiles=tmp_path / "tiles", progress=False)


def test_what_it_cannot_solve_it_refuses(tmp_path):
    with pytest.raises(DataError, match="centers were given apart"):
        ks.fit(K, X, Y, centers=20, solver=PCG(), progress=False)
    with pytest.raises(DataError, match="Leave out centers, or tiles"):
        ks.fit(K, X, Y, centers=20, tiles=tmp_path / "tiles", progress=False)
    for solver in ("direct", "eigenpro", ks.solvers.Direct()):
        with pytest.raises(DataError, match="A kernel matrix in tiles is solved by"):
            ks.fit(K, X, Y, ridge=1e-3, solver=solver, tiles=tmp_path / "tiles", progress=False)
    tiles = ks.Tiles(K, X, tmp_path / "tiles")
    for other in (X + 1, X[:100]):
        with pytest.raises(DataError, match="which is not the matrix of"):
            ks.fit(K, other, Y[:len(other)], ridge=1e-3, tiles=tiles, progress=False)
    for settings in ({"rank": 0}, {"tolerance": 2}, {"passes": 0}, {"preconditioner": "ilu"}):
        with pytest.raises(DataError, match=next(iter(settings))):
            PCG(**settings)


def test_an_iteration_that_was_not_finished_says_so():
    few = PCG(None, passes=3).solve(problem((1e-5,)))
    assert "After 4 products the residual was" in few.notes[0]
    assert few.history[-1] == pytest.approx(true_residual(K(X), few.coefficients[0], 1e-5), rel=1e-9)
    floor = PCG(rank=150, tolerance=1e-15).solve(problem((1e-6,), Gaussian(3.0)))
    assert "rounding has the last word" in floor.notes[0]


# -- fit -------------------------------------------------------------------------------------------------------------


def test_fit_takes_it_by_name_with_tiles_and_where_dense_algebra_has_no_room(tmp_path):
    def name(ridge, solver, **more):
        return planned(problem(ridge, **more), solver, "")[1].name

    assert name((1e-3,), "cg") == "pcg"
    assert name((1e-3,), None) == "direct"
    assert name((1e-3, 0.0), "cg") == "cg"
    large = torch.linspace(0, 1, 20_000, dtype=torch.float64)[:, None]
    assert name((1e-3,), None, x=large, y=large) == "pcg"
    assert name((0.0,), None, x=large, y=large) != "pcg"
    free = Problem(K, as_points(X), Y, as_points(X[:20].clone()), (1e-3,))
    assert planned(free, "cg", "")[1].name == "cg"
    machine = ks.fit(K, X, Y, ridge=1e-3, tiles=tmp_path / "tiles", progress=False)
    assert machine.plan.name == "pcg"
    assert ks.Tiles(K, X, tmp_path / "tiles").missing == 0


def test_fits_to_more_and_more_points_read_the_same_tiles(tmp_path):
    tiles = ks.Tiles(K, X, tmp_path / "tiles", side=64)
    with pytest.raises(StoreError, match=r"Call tiles.build\(\) first"):
        ks.fit(K, X[:70], Y[:70], ridge=1e-3, tiles=tiles.leading(70), progress=False)
    tiles.build()
    for count in (50, 64, 70, 300):
        machine = ks.fit(K, X[:count], Y[:count], ridge=1e-3, tiles=tiles.leading(count), progress=False,
                         solver=PCG(tolerance=1e-10))
        assert_close(machine.coefficients, dense(K(X[:count]), Y[:count], 1e-3)[0], 1e-8)
    with pytest.raises(DataError, match="which is not the matrix of"):
        ks.fit(K, X[1:71], Y[1:71], ridge=1e-3, tiles=tiles.leading(70), progress=False)


def test_a_fit_with_validation_chooses_among_ridges_and_says_what_it_does(tmp_path, capsys):
    machine = ks.fit(K, X[:200], Y[:200], ridge=[1e-1, 1e-4], solver="cg", intercept=True, tiles=tmp_path / "tiles",
                     validation=(X[200:], Y[200:]))
    said = capsys.readouterr().out
    assert "kernel matrix: 1 of 1 tiles to compute, in " in said
    assert "products with the kernel matrix, which is computed once" in said
    assert f"{machine.fitting.passes:.0f} products, " in said
    assert "pass" not in said
    assert machine.fitting.ridge == 1e-4
    alpha, b = dense(K(X[:200]), Y[:200], 1e-4, None, True)
    assert_close(machine(X[200:]), K(X[200:], X[:200]) @ alpha + b, 1e-4)
    assert machine.fitting.history[-1]["validation"] is not None


class Stopping(Watch):
    def __init__(self, after):
        self.after, self.states = after, []

    def heard(self, state):
        self.states.append((state.passes, state.tensors(), state.coefficients()[0].clone()))
        return state.passes >= self.after


def test_a_watch_stops_it_and_gets_what_there_is():
    watch = Stopping(5)
    found = PCG(rank=10).solve(problem(), watch)
    assert found.passes == 5
    assert "Stopped after 5 products, as was asked" in found.notes[0]
    assert torch.equal(found.coefficients, watch.states[-1][2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_from_every_state_that_was_kept_it_goes_on_to_the_same_bits(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("kernelscope.solvers.pcg.PATIENCE", 12)
    monkeypatch.setattr(PCG, "_rank", lambda self, problem: 6)
    tiles = ks.Tiles(K, X, tmp_path / "tiles", side=64, dtype=dtype)
    posed = problem((1e-3, 1e-5), tiles=tiles, intercept=True)
    solver, watch = PCG(tolerance=1e-9), Stopping(10**9)
    whole = solver.solve(posed, watch)
    for _, tensors, _ in watch.states[::5]:
        again = Watch()
        again.kept = tensors
        found = solver.solve(posed, again)
        assert torch.equal(found.coefficients, whole.coefficients)
        assert found.history == whole.history
    other = Watch()
    other.kept = watch.states[0][1]
    with pytest.raises(DataError, match="not of this problem"):
        solver.solve(problem(), other)


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started():
    """Starts functions of ``tests.tiled`` in processes of their own, which need not import torch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiled"])
    begun = []

    def start(function, *arguments):
        process = context.Process(target=tiled.alone, args=(function, *arguments), daemon=True)
        process.start()
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.join()


def the_same(found, other):
    assert set(found) == set(other)
    for what, value in found.items():
        assert torch.equal(value, other[what]), what


def by_one(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: tiled.fitted(tmp_path / "alone", **more) for name, more in tiled.SETTINGS.items()}
    finally:
        torch.set_num_threads(threads)


@gloo
def test_two_processes_find_the_bits_of_one(tmp_path, started):
    ranks = [started("together", tmp_path / "found.pt", tmp_path / "store", rank, 2) for rank in range(2)]
    alone = by_one(tmp_path)
    for rank in ranks:
        rank.join(100)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    together = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, found in alone.items():
        the_same(found, together[name])


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3, 4, 9])
def test_processes_of_torchrun_find_the_bits_of_one(tmp_path, processes):
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
            str(ROOT / "tests" / "tiled.py"), "together", str(tmp_path / "found.pt")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=250, cwd=ROOT, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    together = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, found in by_one(tmp_path).items():
        the_same(found, together[name])


def run(started, folder, store=None, pause=0.01):
    """The long fit in one process, or in two that meet by a store."""
    return [started("killed", folder, pause, *more) for more in ([()] if store is None else [(store, 0), (store, 1)])]


def kill_and_go_on(started, folder, stores, kills, chance, whole=False):
    """Ends processes at random times, until a call has finished; says how often some were ended in the midst."""
    for count in range(100):
        for begun in folder.glob("begun-*"):
            begun.unlink()
        workers = run(started, folder, None if stores is None else stores / f"store-{count}")
        if count < kills:
            while len(list(folder.glob("begun-*"))) < len(workers) and all(w.is_alive() for w in workers):
                time.sleep(0.005)
            # Longer and longer, so that all parts of the work are met.
            time.sleep(chance.uniform(0.0, 0.2 + 0.1 * count))
            for worker in workers if whole else [chance.choice(workers)]:
                worker.kill()
        for worker in workers:
            worker.join(100)
        codes = [worker.exitcode for worker in workers]
        if set(codes) == {0}:
            return count
        # -9 was ended, 3 has said that another one was.
        assert set(codes) <= {-9, 3}
    raise AssertionError("it never came to an end")


def uninterrupted(started, folder):
    folder.mkdir()
    (worker,) = run(started, folder, pause=0.0)
    worker.join(100)
    return torch.load(folder / "found.pt", weights_only=True)


def test_a_fit_that_is_killed_goes_on_with_the_same_iterates(tmp_path, started):
    whole, folder = uninterrupted(started, tmp_path / "whole"), tmp_path / "killed"
    folder.mkdir()
    assert kill_and_go_on(started, folder, None, 2, random.Random(1)) >= 1
    the_same(torch.load(folder / "found.pt", weights_only=True), whole)


@gloo
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whole", [False, True])
def test_twenty_kills_of_one_process_or_of_all_change_no_bit(tmp_path, started, whole):
    true, count, chance = uninterrupted(started, tmp_path / "whole"), 0, random.Random(0)
    while count < 20:
        folder, stores = tmp_path / f"killed-{count}", tmp_path / f"stores-{count}"
        folder.mkdir()
        stores.mkdir()
        count += kill_and_go_on(started, folder, stores, 7, chance, whole)
        the_same(torch.load(folder / "found.pt", weights_only=True), true)
