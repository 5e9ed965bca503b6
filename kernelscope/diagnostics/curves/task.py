"""What learning curves are asked for, looked over once: points, targets, orders and ridges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...arguments import as_count, as_seed, as_switch, what_came
from ...budget import as_bytes, as_words
from ...data.points import Points
from ...errors import DataError, OutOfBudget
from ...kernels.base import Kernel
from ...kernels.stationary import Laplacian
from ...machine.reading import checked_ridges, points_and_targets

#: From training points, their targets with shape (n, c) and test points to what is said of these, with shape (m, c).
Method = Callable[[Any, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Task:
    """What all kernels are fitted to.

    Attributes:
        whole: All training points.
        train: Those that some order takes.
        test: The test points.
        y: The targets of ``train``, with shape (n, c), with columns of 0 and 1 for classes.
        t: The targets of the test points, with shape (m, c).
        classes: Whether targets are classes.
        sizes: The numbers of samples, ascending.
        orders: Each an order of all samples.
        where: The place of each sample among those that some order takes.
        copies: How many points a sample has.
        ridges: The ridges to choose from.
        intercept: Whether a constant is fitted.
        exact: Up to how many points the factor of the matrix is taken.
        memory: How many bytes may be used.
        seed: What orders and draws begin with.
    """

    whole: Points
    train: Points
    test: Points
    y: Tensor
    t: Tensor
    classes: bool
    sizes: list[int]
    orders: list[Tensor]
    where: Tensor
    copies: int
    ridges: tuple[float, ...]
    intercept: bool
    exact: int
    memory: int
    seed: int

    @property
    def measures(self) -> list[str]:
        """What is measured."""
        return ["error", "wrong"] if self.classes else ["error"]

    def places(self, order: Tensor, n: int) -> Tensor:
        """The points of the first n samples of an order."""
        return (self.where[order[:n, None]] * self.copies + torch.arange(self.copies)).flatten()

    def empty(self) -> tuple[dict[str, Tensor], Tensor]:
        """Room for losses at the test points, with shape (s, r, m), and for ridges, with shape (s, r)."""
        s, r = len(self.sizes), len(self.orders)
        return ({measure: torch.full((s, r, len(self.t)), torch.nan, dtype=torch.float64) for measure in self.measures},
                torch.full((s, r), torch.nan, dtype=torch.float64))

    def put(self, losses: dict[str, Tensor], i: int, j: int, values: Tensor) -> None:
        """Keeps the losses of what was said of the test points."""
        spread = (self.t - self.t.mean(0)).square().sum(1).mean()
        losses["error"][i, j] = (values - self.t).square().sum(1) / spread
        if self.classes:
            losses["wrong"][i, j] = (values.argmax(1) != self.t.argmax(1)).double()


def checked_names(kernels: Mapping[str, Kernel | Method]) -> dict[str, Kernel | Method]:
    """Kernels and functions by name.

    Raises:
        DataError: If they are none.
    """
    if not isinstance(kernels, Mapping) or not kernels:
        raise DataError(f"Kernels come by name; {what_came(kernels)} came. Pass for example "
                        '{"Laplacian": ks.kernels.Laplacian()}.')
    for name, one in kernels.items():
        if not isinstance(name, str) or not (isinstance(one, Kernel) or callable(one)):
            raise DataError(f"Kernels come by name; {what_came(name)} names {what_came(one)}. Pass for example "
                            '{"Laplacian": ks.kernels.Laplacian()}.')
    return dict(kernels)


def task_of(named: Mapping[str, Kernel | Method], train: Any, test: Any, samples: Sequence[int],
          ridge: float | Sequence[float], repeats: int, seed: int, copies: int, intercept: bool, exact: int,
          memory: int | str) -> Task:
    """Everything looked over before the work begins."""
    # Points are the same to all kernels, and to functions.
    some = next((k for k in named.values() if isinstance(k, Kernel)), Laplacian())
    points, y = _both(some, train)
    others, t = _both(some, test)
    if y.shape[1:] != t.shape[1:]:
        raise DataError(f"Training targets have shape {tuple(y.shape)} and test targets {tuple(t.shape)}. Pass targets "
                        "of the same outputs.")
    copies, repeats = as_count(copies, "copies", 1), as_count(repeats, "repeats", 1)
    if len(points) % copies:
        raise DataError(f"{len(points):,} points are no multiple of copies={copies}. Pass as many copies of each "
                        "sample, one after the other.")
    count, sizes = len(points) // copies, list(samples) if isinstance(samples, list | tuple | range) else []
    if not sizes or not all(isinstance(n, int) and not isinstance(n, bool) and 2 <= n <= count for n in sizes):
        raise DataError(f"samples must be a list of whole numbers from 2 to {count:,}; {samples!r} came. Pass for "
                        f"example samples=[{max(2, count // 8)}, {max(2, count // 4)}, {max(2, count // 2)}].")
    classes = not y.is_floating_point() and y.ndim == 1
    if classes:
        most = int(torch.cat([y, t.to(y.dtype)]).max()) + 1
        y, t = (torch.nn.functional.one_hot(labels.long(), most) for labels in (y, t))
    y, t = (values.double().reshape(len(values), -1) for values in (y, t))
    if not bool((t != t[:1]).any()):
        raise DataError("All test targets are the same, so that an error has nothing to be compared with. Pass test "
                        "points with different targets.")
    draws = torch.Generator().manual_seed(as_seed(seed))
    orders = [torch.randperm(count, generator=draws) for _ in range(repeats)]
    taken = torch.cat([order[:max(sizes)] for order in orders]).unique()
    where = torch.full((count,), -1).index_put((taken,), torch.arange(len(taken)))
    places = (taken[:, None] * copies + torch.arange(copies)).flatten()
    task = Task(points, points.chosen(places.tolist()), others, y[places], t, classes, sorted(set(sizes)), orders,
                where, copies, checked_ridges(ridge), as_switch(intercept, "intercept"), as_count(exact, "exact", 1),
                as_bytes(memory), as_seed(seed))
    most = len(places)
    needed = 8 * (most * (most + len(others)) + 4 * min(task.exact, most)**2)
    if any(isinstance(k, Kernel) for k in named.values()) and needed > task.memory:
        raise OutOfBudget(f"The kernel matrix of {most:,} points and its factors take about {as_words(needed)}, "
                          f"and memory allows {as_words(task.memory)}. Pass fewer points, or raise memory.")
    if task.sizes[0] * copies > task.exact and len(task.ridges) > 1:
        raise DataError(f"A ridge is chosen where the factor of the matrix is taken, for up to exact={task.exact:,} "
                        f"points, and the least number is {task.sizes[0] * copies:,}. Pass one ridge, a smaller number "
                        "of samples, or raise exact.")
    return task


def _both(k: Kernel, given: Any) -> tuple[Points, Tensor]:
    x, y = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
    return points_and_targets(k, x, y)
