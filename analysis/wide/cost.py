"""About how long the study takes, from a few entries of each kernel and one small factor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

import kernelscope as ks

from .digits import SHIFTS, split
from .networks import both_kernels

if TYPE_CHECKING:
    from infinite_width_scaling import Sizes

#: How many products a fit by conjugate gradients takes, about.
PRODUCTS = 80


def estimate(sizes: Sizes) -> str:
    """The minutes of each part, in words."""
    (x, _), _ = split(0)
    large = ks.data.patches("train", count=1000, window=9).x.unflatten(1, (1, 9, 9))
    thin = ["fc3", "cnn3"]
    points = {"fc3": large, "cnn3": large, "myrtle5": x}
    # Of vectors each kernel takes a pass of its own; of pixels one pass gives both.
    seconds = {name: (2 if name == "fc3" else 1) * _seconds(both_kernels([name])[f"{name} NTK"], points[name])
               for name in points}
    solving, product, (tests, windows) = _factor(), _product(), sizes.tests

    def part(names: Sequence[str], counts: Sequence[int], copies: int, m: int, ridges: int, each: float = 1.0,
             more: int = 2) -> float:
        if not counts:
            return 0.0
        most = max(counts) * copies
        taken = min(sizes.repeats * most, 1200 * copies if m == tests else max(sizes.patches))
        entries = taken * taken / 2 + taken * m
        near = max((n * copies for n in counts if n * copies <= sizes.exact), default=0)
        far = [n * copies for n in counts if n * copies > sizes.exact]
        solved = ridges * sizes.repeats * near**3 * solving
        solved += sum(product * n * n * PRODUCTS * (1 if n == taken else sizes.repeats) for n in far)
        return sum(each * entries * seconds[name] for name in names) + (2 * len(names) + more) * solved

    parts = {"digits": part([*thin, "myrtle5"], sizes.digits, 1, tests, 4),
             "copies": part(thin, sizes.copied, sizes.copies, tests, 3),
             "copies with poolings": part(["myrtle5"], sizes.pooled, sizes.copies, tests, 3, more=0),
             "shifts": part(thin, sizes.shifted, 9, tests, 4, each=0.5, more=1),
             "averages": part(thin, sizes.shifted, 1, tests, 4, each=(len(SHIFTS) + 1)**2 / 2, more=1),
             "photographs": part(thin, sizes.patches, 1, windows, 3)}
    words = ", ".join(f"{name} {value / 60:.1f}" for name, value in parts.items())
    return f"About {sum(parts.values()) / 60:.1f} minutes: {words}."


def _seconds(kernel: ks.kernels.Kernel, x: torch.Tensor, least: float = 0.5) -> float:
    """The seconds of an entry, of so many that they take half a second."""
    n = 8
    while True:
        # The first call of a kind may compile what the second one runs.
        taken = min(_once(kernel, x[:n]) for _ in range(2))
        if taken > least or 2 * n > len(x):
            return taken / (n * (n + 1) / 2)
        n *= 2


def _once(kernel: ks.kernels.Kernel, x: torch.Tensor) -> float:
    begun = time.perf_counter()
    kernel(x)
    return time.perf_counter() - begun


def _factor(n: int = 1000) -> float:
    """The seconds of a factor and its inverse, over the cube of the number of points."""
    matrix = torch.eye(n, dtype=torch.float64) + 1
    begun = time.perf_counter()
    torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return (time.perf_counter() - begun) / n**3


def _product(n: int = 2000) -> float:
    """The seconds of a product with a matrix in memory, over the square of the number of points."""
    matrix, v = torch.ones(n, n), torch.ones(n, 10)
    begun = time.perf_counter()
    for _ in range(5):
        matrix @ v
    return (time.perf_counter() - begun) / 5 / n**2
