r"""Learning curves: how fast the test error of kernel machines falls with the number of samples.

Samples are taken in several random orders. The kernel matrix of all points that some order takes is computed once, and
for each order every number of samples is solved from one factor, with a ridge that is chosen by leaving samples out and
never by the test points.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import what_came
from ..errors import DataError, NonFiniteError
from ..kernels.base import Kernel
from ..kernels.infinite.kernels import Infinite
from ..kernels.precomputed import Precomputed
from ..machine.fit import fit
from ..machine.points import in_memory
from ..progress import counting
from ..solvers import PCG
from .curves.power_laws import resampled
from .curves.prefixes import on_prefixes
from .curves.result import LearningCurves
from .curves.task import Method, Task, checked_names, task_of

#: How small the residual is where machines are solved by conjugate gradients; errors are then right to fewer digits.
TOLERANCE = 1e-5


@torch.no_grad()
def learning_curves(kernels: Mapping[str, Kernel | Method], train: Any, test: Any, *, samples: Sequence[int],
                    ridge: float | Sequence[float] = 1e-6, repeats: int = 5, seed: int = 0, copies: int = 1,
                    intercept: bool = True, exact: int = 8_000, memory: int | str = "4GB") -> LearningCurves:
    r"""How fast the errors of kernel machines fall with the number of samples.

    For each kernel, each of some random orders, and each n, the machine on the first n samples of the order is

    .. math:: f(z) = k(z, x)\, (K + r \bar d I)^{-1} (y - b) + b

    with the mean :math:`\bar d` of the diagonal of K. Of several ridges r the one is taken that misses the samples
    least which are left out, each with all its copies, by the closed form.

    Args:
        kernels: Kernels by name. In place of one may stand any function of training points, their targets with shape
            (n, c) and test points that returns what it says of these, with shape (m, c): a null to compare with.
        train: The training points and targets, ``(x, y)`` or a data set of both. Whole numbers with shape (n,) are
            classes, which are fitted as columns of 0 and 1.
        test: The test points and targets.
        samples: The numbers of samples n.
        ridge: The ridge r, relative to the mean diagonal, or several to choose from.
        repeats: The number of orders.
        seed: What the orders are, and the draws of the intervals.
        copies: How many points in a row are copies of one sample. They are taken together and left out together, so
            that n counts samples, and ``copies * n`` points are fitted.
        intercept: Whether a constant b is fitted.
        exact: Up to how many points the factor of the matrix is taken; more are solved by conjugate gradients, with
            the ridge that the same order chose for the most points of which it was.
        memory: About how much the matrices may use, a number of bytes or a size such as ``"4GB"``.

    Returns:
        The :class:`~kernelscope.diagnostics.curves.result.LearningCurves`, with exponents and their intervals.

    Raises:
        DataError: If points, targets, sizes or ridges cannot be used, or no ridge is large enough for rounding.
        NonFiniteError: If a kernel gives NaN or an infinite value.
        OutOfBudget: If a kernel matrix does not fit into ``memory``.

    References:
        | Asymptotic Learning Curves of Kernel Methods (Spigler et al., 2020)

    Example:
        >>> import torch, kernelscope as ks
        >>> x = torch.rand(300, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> y = (9 * x[:, 0]).sin()
        >>> found = ks.learning_curves({"Laplacian": ks.kernels.Laplacian()}, (x[:200], y[:200]), (x[200:], y[200:]),
        ...                            samples=[12, 25, 50, 100], ridge=1e-10)
        >>> found.errors["error"].shape, bool(found.exponent("Laplacian").low > 0.5)
        (torch.Size([1, 4, 5]), True)
    """
    named = checked_names(kernels)
    task = task_of(named, train, test, samples, ridge, repeats, seed, copies, intercept, exact, memory)
    losses: dict[str, dict[str, Tensor]] = {}
    ridges: dict[str, Tensor] = {}
    costs: dict[str, tuple[float, float, float, float]] = {}
    with counting(len(named) * len(task.orders), "learning curves", "order") as done:
        for name, matrix, cross, seconds in _matrices(named, task):
            start = time.perf_counter()
            losses[name], ridges[name] = _by_kernel(matrix, cross, task, done)
            costs[name] = (seconds, time.perf_counter() - start, float(matrix.numel() + cross.numel()),
                           float(matrix.nbytes + cross.nbytes))
        for name, method in named.items():
            if not isinstance(method, Kernel):
                start = time.perf_counter()
                losses[name], ridges[name] = _by_function(method, task, done)
                costs[name] = (0.0, time.perf_counter() - start, 0.0, 0.0)
    stacked = {measure: torch.stack([losses[name][measure] for name in named]) for measure in task.measures}
    return LearningCurves(
        list(named), [repr(one) if isinstance(one, Kernel) else one.__name__ for one in named.values()], task.sizes,
        {measure: each.mean(-1) for measure, each in stacked.items()},
        {measure: resampled(each, task.seed) for measure, each in stacked.items()},
        torch.stack([ridges[name] for name in named]), sorted(task.ridges),
        torch.tensor([costs[name] for name in named], dtype=torch.float64),
        torch.stack(task.orders)[:, :task.sizes[-1]], len(task.whole) // task.copies, [task.copies] * len(named),
        len(task.test), {"seed": task.seed, "intercept": task.intercept, "exact": task.exact})


def _matrices(named: Mapping[str, Kernel | Method], task: Task) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """For each kernel the matrix of all points, that of points and test points, and the seconds they took."""
    groups: dict[int, list[str]] = {}
    for name, k in named.items():
        if isinstance(k, Kernel):
            # The two kernels of one network come from one pass.
            groups.setdefault(id(k.net if isinstance(k, Infinite) else k), []).append(name)
    for names in groups.values():
        kernels = [one for name in names if isinstance(one := named[name], Kernel)]
        start = time.perf_counter()
        infinite = [k for k in kernels if isinstance(k, Infinite)]
        if len(infinite) > 1:
            # The pass of the tangent kernel gives the other one too.
            tangent = next((k for k in infinite if k.which == "ntk"), infinite[0])
            square, wide = tangent.both(task.train), tangent.both(task.train, task.test)
            made = [(getattr(square, k.which), getattr(wide, k.which)) for k in infinite]
        else:
            made = [(k(task.train), k(task.train, task.test)) for k in (one.fitted(task.whole) for one in kernels)]
        seconds = (time.perf_counter() - start) / len(names)
        for name, (matrix, cross) in zip(names, made, strict=True):
            yield name, _checked(name, matrix), _checked(name, cross), seconds


def _by_kernel(matrix: Tensor, cross: Tensor, task: Task, done: Callable[[int], None]) -> tuple[dict[str, Tensor],
                                                                                                 Tensor]:
    """The losses of a kernel with shape (s, r, m), and the ridges that were chosen, with shape (s, r)."""
    scale = float(matrix.diagonal().double().mean())
    losses, chosen = task.empty()
    near = [n for n in task.sizes if n * task.copies <= task.exact]
    for j, order in enumerate(task.orders):
        least = [torch.inf] * len(near)
        places = task.places(order, near[-1] if near else 0)
        square, wide = matrix[places][:, places].double(), cross[places].double()
        for ridge in task.ridges if near else ():
            for i, found in enumerate(on_prefixes(square, wide, task.y[places], [n * task.copies for n in near],
                                                  ridge * scale, copies=task.copies, intercept=task.intercept)):
                if found.left_out < least[i]:
                    least[i], chosen[i, j] = found.left_out, ridge
                    task.put(losses, i, j, found.values)
        if any(value == torch.inf for value in least):
            raise DataError(f"With ridges up to {max(task.ridges):g} of its mean diagonal, a kernel matrix is not "
                            "positive in double precision. Offer a larger ridge, or pass points in float64.")
        for i in range(len(near), len(task.sizes)):
            n = task.sizes[i]
            if n * task.copies == len(task.whole) and j:
                # All there is, is the same in any order.
                chosen[i, j] = chosen[i, 0]
                for table in losses.values():
                    table[i, j] = table[i, 0]
                continue
            chosen[i, j] = chosen[len(near) - 1, j] if near else task.ridges[0]
            noise = scale * float(chosen[i, j])
            task.put(losses, i, j, _by_gradients(matrix, cross, task, task.places(order, n), noise))
        done(1)
    return losses, chosen


def _by_gradients(matrix: Tensor, cross: Tensor, task: Task, places: Tensor, noise: float) -> Tensor:
    """What the machine on many points says of the test points, by conjugate gradients."""
    # All points need no matrix of their own.
    whole = len(places) == len(matrix)
    places = places.sort().values if whole else places
    square = matrix if whole else matrix[places][:, places]
    machine = fit(Precomputed(square), torch.arange(len(places)), task.y[places].to(matrix.dtype),
                  ridge=noise / len(places), intercept=task.intercept, solver=PCG(tolerance=TOLERANCE),
                  memory=task.memory, progress=False)
    return cross[places].T.double() @ machine.coefficients.double() + machine.intercept.double()


def _by_function(method: Method, task: Task, done: Callable[[int], None]) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of what is no kernel."""
    losses, chosen = task.empty()
    test = in_memory(task.test)
    for j, order in enumerate(task.orders):
        for i, n in enumerate(task.sizes):
            places = task.places(order, n)
            values = method(in_memory(task.train.chosen(places.tolist())), task.y[places], test)
            if not isinstance(values, Tensor) or values.shape != task.t.shape:
                came = tuple(values.shape) if isinstance(values, Tensor) else what_came(values)
                raise DataError(f"A function in place of a kernel returns values of shape {tuple(task.t.shape)}, one "
                                f"row for each test point; {came} came. Give what it says of them, with a column for "
                                "each target or class.")
            task.put(losses, i, j, values.double())
        done(1)
    return losses, chosen


def _checked(name: str, matrix: Tensor) -> Tensor:
    """A kernel matrix of two axes without NaN."""
    if matrix.ndim != 2:
        raise DataError(f"Learning curves are those of kernels with one value for two points, and {name!r} gave shape "
                        f'{tuple(matrix.shape)}. Take the trace over outputs, as outputs="trace" does.')
    if not bool(matrix.isfinite().all()):
        bad = (~matrix.isfinite()).nonzero()[0].tolist()
        raise NonFiniteError(f"The kernel {name!r} is NaN or infinite for points {bad[0]} and {bad[1]}. Look at the "
                             "points, or at the parameters of the kernel.")
    return matrix
