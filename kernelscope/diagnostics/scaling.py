r"""What more centers bring, and what more data: model size and data size varied apart.

A kernel machine on all of its data has as many centers as samples, so the two sizes grow together. With free centers
they come apart: for each number of samples n and of centers p a machine is fitted, and its error measured on test
points.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.points import Points
from ..errors import DataError
from ..kernels.base import Kernel
from ..machine.fit import fit
from ..machine.reading import points_and_targets
from ..progress import counting
from ..result import Check, CheckRow, Result

if TYPE_CHECKING:
    import pandas as pd

    from ..solvers import Solver


@dataclass(frozen=True, eq=False, repr=False)
class Scaling(Result):
    """The test error of kernel machines of several sizes on several amounts of data.

    Attributes:
        kernel: The kernel in words.
        samples: The numbers of samples n, ascending.
        centers: The numbers of centers p, ascending.
        errors: The mean squared error on the test points for each n and p, with shape (a, b); NaN where p > n.
        objective: The objective of each fit, likewise.
        seconds: How long each fit took, likewise.
        passes: How many times it read its samples, likewise.
        solvers: The solver of each fit, by rows.
        variance: The error of the constant that fits the test points best.
        ridge: The ridge.
        tests: The number of test points.
    """

    kernel: str
    samples: list[int]
    centers: list[int]
    errors: Tensor
    objective: Tensor
    seconds: Tensor
    passes: Tensor
    solvers: list[list[str]]
    variance: float
    ridge: float
    tests: int

    def gain(self, of: str) -> tuple[int, int, float]:
        """By how much the largest of one size lowers the error, from its smallest, at the largest of the other size.

        Args:
            of: ``"centers"`` or ``"samples"``.

        Returns:
            The smallest and the largest size, and the share of the error that goes.
        """
        row = self.errors[-1] if of == "centers" else self.errors[:, -1]
        there = (~row.isnan()).nonzero().flatten().tolist()
        sizes = self.centers if of == "centers" else self.samples
        first, last = there[0], there[-1]
        # An error of nought has nowhere to fall.
        return sizes[first], sizes[last], 1 - float(row[last] / row[first]) if float(row[first]) else 0.0

    def rate(self, of: str) -> float:
        r"""The exponent b of an error like :math:`size^{-b}`, by least squares in logarithms; NaN for one size."""
        row = self.errors[-1] if of == "centers" else self.errors[:, -1]
        sizes = torch.tensor(self.centers if of == "centers" else self.samples, dtype=torch.float64)
        there = ~row.isnan()
        there &= row > 0
        x, y = sizes[there].log(), row[there].double().log()
        x, y = x - x.mean(), y - y.mean()
        return float(-(x @ y) / (x @ x)) if len(x) > 1 else math.nan

    def summary(self) -> str:
        """The answer in one sentence."""
        return f"Scaling({self.kernel}: {self.said()})"

    def said(self) -> str:
        """What more centers and what more samples did."""
        said = []
        for of, other in (("centers", "samples"), ("samples", "centers")):
            low, high, share = self.gain(of)
            fixed = (self.samples if other == "samples" else self.centers)[-1]
            if high > low:
                way = "lower" if share >= 0 else "raise"
                said.append(f"{high / low:.3g} times the {of} {way} the test error by {abs(share):.1%} at {fixed:,} "
                            f"{other}")
        return "; ".join(said) or "one size of each"

    def to_frame(self) -> pd.DataFrame:
        """One row for each fit."""
        import pandas as pd

        rows = [(n, p, float(self.errors[i, j]), float(self.objective[i, j]), float(self.seconds[i, j]),
                 float(self.passes[i, j]), self.solvers[i][j])
                for i, n in enumerate(self.samples) for j, p in enumerate(self.centers) if p <= n]
        return pd.DataFrame(rows, columns=["samples", "centers", "test error", "objective", "seconds", "passes",
                                           "solver"])

    def check(self) -> Check:
        """Whether every fit gave numbers, and one that is better than a constant."""
        there = self.errors[~self.errors.isnan()]
        wanted = sum(p <= n for n in self.samples for p in self.centers)
        worst = float(there.max()) / self.variance if len(there) and self.variance else math.nan
        return Check((
            CheckRow("fits", "pass" if len(there) == wanted else "fail", len(there), wanted,
                     f"{len(there)} of {wanted} fits gave an error that is a number."),
            CheckRow("constant", "pass" if worst < 1 else "warn", worst, 1.0,
                     f"The worst machine has {worst:.3g} of the error of the best constant."),
        ))


def scaling(k: Kernel, train: Any, test: Any, *, centers: Sequence[int], samples: Sequence[int], ridge: float = 1e-6,
            intercept: bool = True, solver: Solver | str | None = None, memory: int | str = "1GB",
            seed: int = 0) -> Scaling:
    """Fits a machine for each number of samples and of centers, and measures its error on test points.

    Samples are taken in their order, so that more of them are the same and others; they should come shuffled. Centers
    are drawn among the samples of each fit.

    Args:
        k: The kernel. One whose bandwidth is left open gets the median distance of all training points.
        train: The training points and targets, ``(x, y)`` or a data set of both.
        test: The test points and targets.
        centers: The numbers of centers p.
        samples: The numbers of samples n.
        ridge: The ridge of all fits.
        intercept: Whether a constant is fitted.
        solver: The solver, as in :func:`fit`.
        memory: About how much may be used.
        seed: Which samples become centers.

    Raises:
        DataError: If there are no such numbers of samples or centers, or test targets have other outputs.

    Example:
        >>> import torch, kernelscope as ks
        >>> x = torch.linspace(-1, 1, 400, dtype=torch.float64)[torch.randperm(400)][:, None]
        >>> both = (x, (5 * x[:, 0]).sin())
        >>> found = ks.scaling(ks.kernels.Gaussian(0.3), both, both, centers=[2, 8], samples=[100, 400])
        >>> found.errors.shape, bool(found.errors[1, 1] < found.errors[1, 0])
        (torch.Size([2, 2]), True)
    """
    points, y = _both(k, train)
    others, wanted = _both(k, test)
    sizes, models = _sizes(samples, "samples", len(points)), _sizes(centers, "centers", max(samples))
    if y.shape[1:] != wanted.shape[1:]:
        raise DataError(f"Training targets have shape {tuple(y.shape)} and test targets {tuple(wanted.shape)}. Pass "
                        "targets of the same outputs.")
    if getattr(solver, "loss", None) is not None:
        raise DataError(f"Errors are compared as mean squares, and {solver!r} minimises another loss. Take a solver of "
                        "the squared loss, or leave it out.")
    kernel = k.fitted(points) if hasattr(k, "fitted") else k
    shape = (len(sizes), len(models))
    errors, objective, seconds, passes = (torch.full(shape, math.nan, dtype=torch.float64) for _ in range(4))
    solvers = [["" for _ in models] for _ in sizes]
    with counting(sum(p <= n for n in sizes for p in models), "scaling", "fit") as done:
        for i, n in enumerate(sizes):
            some = points.chosen(range(n))
            for j, p in enumerate(models):
                if p > n:
                    continue
                begun = time.perf_counter()
                machine = fit(kernel, some, y[:n], centers=p, ridge=ridge, intercept=intercept, solver=solver,
                              memory=memory, seed=seed, progress=False)
                seconds[i, j] = time.perf_counter() - begun
                errors[i, j] = float((machine(others) - wanted).double().square().mean())
                fitting = machine.fitting
                if fitting is not None:
                    objective[i, j], passes[i, j] = float(fitting.objective[0]), fitting.passes
                    solvers[i][j] = str(fitting.plan["solver"])
                done(1)
    variance = float((wanted - wanted.mean(0)).double().square().mean())
    return Scaling(repr(kernel), sizes, models, errors, objective, seconds, passes, solvers, variance, float(ridge),
                   len(others))


def _both(k: Kernel, given: Any) -> tuple[Points, Tensor]:
    x, y = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    return points_and_targets(k, x, y)


def _sizes(given: Sequence[int], what: str, most: int) -> list[int]:
    whole = list(given) if isinstance(given, list | tuple | range) else []
    if not whole or not all(isinstance(s, int) and not isinstance(s, bool) and 1 <= s <= most for s in whole):
        raise DataError(f"{what} must be a list of whole numbers from 1 to {most:,}; {given!r} came. Pass for example "
                        f"{what}=[{max(1, most // 10)}, {most}].")
    return sorted(set(whole))
