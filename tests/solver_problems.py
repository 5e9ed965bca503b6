"""Problems for solvers, and the yardstick: dense least squares in a basis that is orthonormal in the kernel's space."""

import itertools
import math

import torch

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.kernels.base import Kernel
from kernelscope.solvers import Problem

KERNELS = {"Gaussian": ks.kernels.Gaussian, "Laplacian": ks.kernels.Laplacian}

#: The window whose number of pixels is next to a number of dimensions.
WINDOWS = {8: 3, 64: 9, 256: 15}


def synthetic(n, d, c=1, noise=0.3, seed=0):
    """Points near a curved surface, and a random function of where they are on it, with noise."""
    fixed = torch.Generator().manual_seed(1234)
    m = min(d, 64)
    draw = lambda generator, *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    scales = torch.arange(1, m + 1, dtype=torch.float64) ** -0.5
    mix, shift = 2 * draw(fixed, m, d) / math.sqrt(m), 0.3 * draw(fixed, d)
    places, heights = draw(fixed, 512, m) * scales, draw(fixed, 512, c)
    generator = torch.Generator().manual_seed(seed)
    u = draw(generator, n, m) * scales
    x = (torch.relu(u @ mix + shift) + 0.05 * draw(generator, n, d) - 0.5) / 0.75
    y = torch.exp(-2 * torch.cdist(u, places) / math.sqrt(m)) @ heights
    return x, (y - y.mean(0)) / y.std(0) + noise * draw(generator, n, c)


def photographs(n, d, seed=0):
    data = ks.data.patches("train", count=n, window=WINDOWS[d], seed=seed)
    return data.x.double(), data.y.double()


SOURCES = {"synthetic": synthetic, "photographs": photographs}

#: Source, dimensions, kernel, bandwidth in medians.
GRID = list(itertools.product(SOURCES, WINDOWS, KERNELS, (0.25, 1.0, 4.0)))


def kernel_of(name, x, factor=1.0):
    """A kernel with a multiple of the median bandwidth."""
    return KERNELS[name](factor * KERNELS[name]().fitted(x).bandwidth)


def posed(kernel, x, y, z=None, ridge=1e-4, **more):
    """The problem, with all points as centers if there are none."""
    points = as_points(x)
    ridges = ridge if isinstance(ridge, tuple) else (ridge,)
    return Problem(kernel, points, y, points if z is None else as_points(z), ridge=ridges, **more)


def case(source, d, name, factor, n, p, **more):
    """The problem of a place of the grid, with the first points as centers."""
    x, y = SOURCES[source](n, d)
    return posed(kernel_of(name, x, factor), x, y, x[:p], **more)


class Table(Kernel):
    """A kernel of numbers of rows and columns, whose values stand in a table."""

    def __init__(self, table):
        self.table = table

    def __call__(self, x, z=None):
        rows, columns = (self.points(t).part(0, len(self.points(t))).args[0][:, 0].long() for t in
                         (x, x if z is None else z))
        return self.table[rows][:, columns]


def matrices(problem):
    """K_xz and K_zz, in double precision."""
    return problem.kernel(problem.x, problem.z).double(), problem.kernel(problem.z).double()


def objective(problem, coefficients, intercepts, ridge):
    """What is minimised, as it is defined."""
    k, gram = matrices(problem)
    alpha, offset = coefficients.double(), intercepts.double()
    rest = k @ alpha + offset - problem.y.double()
    weights = torch.ones(len(rest)) if problem.weights is None else problem.weights
    return float((weights.double()[:, None] * rest**2).sum() / len(rest) + ridge * (alpha * (gram @ alpha)).sum())


def optimum(problem, ridge):
    """The smallest objective there is: least squares for the basis that rounding leaves, by the library's QR."""
    k, gram = matrices(problem)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-12 * values[-1]
    basis = vectors[:, kept] / values[kept].sqrt()
    n, size = len(k), int(kept.sum())
    root = (torch.ones(n) if problem.weights is None else problem.weights).double().div(n).sqrt()[:, None]
    constant = root if problem.intercept else root[:, :0]
    upper = torch.cat([root * (k @ basis), constant], 1)
    lower = torch.cat([math.sqrt(ridge) * torch.eye(size), torch.zeros(size, constant.shape[1])], 1)
    left = torch.cat([upper, lower.double()])
    right = torch.cat([root * problem.y.double(), torch.zeros(size, problem.y.shape[1], dtype=torch.float64)])
    return float((left @ torch.linalg.lstsq(left, right, driver="gels").solution - right).square().sum())


def excess(problem, solution, place=0):
    """By which share a solution's objective, as it is defined, exceeds the yardstick."""
    ridge, scale = problem.ridge[place], float(problem.y.double().square().mean(0).sum())
    found = objective(problem, solution.coefficients[place], solution.intercepts[place], ridge)
    best = optimum(problem, ridge)
    return (found - best) / max(best, 1e-9 * scale)
