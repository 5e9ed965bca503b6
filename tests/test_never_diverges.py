"""No problem, however bad its condition, makes a solver worse than doing nothing, or worse than it says."""

import itertools

import pytest
import torch

from kernelscope.data import patches
from kernelscope.data.points import as_points
from kernelscope.kernels import Gaussian
from kernelscope.solvers import ConjugateGradient, Direct, Problem, WarmStart
from tests.solver_problems import SOURCES, kernel_of, objective, posed

KERNELS, FACTORS, RIDGES, CENTERS = ("Gaussian", "Laplacian"), (0.25, 1.0, 4.0), (0.0, 1e-6, 1e-3), (60,)
PRECISIONS = (torch.float64, torch.float32)
WAYS = {"full": ConjugateGradient(passes=10), "two-level": ConjugateGradient("two-level", rank=10, passes=10)}

#: By how much of the objective at the start rounding may be wrong about where a solution is; processors differ by that.
SLACK = {torch.float64: 1e-7, torch.float32: 4e-3}


def diverged(problem, solution):
    """Whether a solution is not finite, is worse than none, or is not where it says."""
    nothing = float(problem.y.double().square().mean(0).sum())
    slack = SLACK[problem.y.dtype] * nothing
    for place, ridge in enumerate(problem.ridge):
        found = objective(problem, solution.coefficients[place], solution.intercepts[place], ridge)
        if not found <= nothing + slack or abs(found - solution.objective[place]) > slack:
            return True
    return not bool(solution.coefficients.isfinite().all())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("source", SOURCES)
def test_conjugate_gradients_never_diverge(source, dtype, way):
    x, y = SOURCES[source](300, 8)
    x, y = x.to(dtype), y.to(dtype)
    grid = list(itertools.product(KERNELS, FACTORS, CENTERS, RIDGES))
    assert len(grid) * len(SOURCES) * len(WAYS) * len(PRECISIONS) >= 100
    found = []
    for name, factor, p, ridge in grid:
        problem = posed(kernel_of(name, x, factor), x, y, x[:p], ridge=ridge)
        if diverged(problem, WAYS[way].solve(problem)):
            found.append((name, factor, p, ridge))
    assert not found


@pytest.mark.parametrize("bandwidth", [2.2, 8.8])
@pytest.mark.parametrize("ridge", [1e-4, 1e-6])
@pytest.mark.parametrize("solver", [ConjugateGradient("full"), ConjugateGradient("two-level"), WarmStart()], ids=repr)
def test_where_rounding_has_the_last_word_the_lowest_machine_is_given_and_a_note(bandwidth, ridge, solver):
    d = patches("train", count=2000, window=7)
    p = Problem(Gaussian(bandwidth), as_points(d.x), d.y, as_points(d.x[:300].clone()), (ridge,), None, True)
    found = solver.solve(p)
    rest = p.kernel(p.x, p.z) @ found.coefficients[0] + found.intercepts[0] - d.y
    x = d.x.double()
    exact = Problem(Gaussian(bandwidth), as_points(x), d.y.double(), as_points(x[:300].clone()), (ridge,), None, True)
    best, nothing = Direct().solve(exact).objective[0], float((d.y - d.y.mean(0)).square().mean(0).sum())
    assert float(rest.square().mean(0).sum()) <= found.objective[0] * 1.05
    assert best * 0.99 <= found.objective[0] <= nothing
    # Beyond the optimum, a note says why: rounding, or that it has not converged.
    why = ("rounding", "precision", "not converged")
    assert found.objective[0] <= best * 1.01 or any(word in note.lower() for note in found.notes for word in why)
