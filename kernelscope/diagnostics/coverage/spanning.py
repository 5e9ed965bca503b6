"""The span of training features, from their products or from the features themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...budget import as_words
from ...errors import OutOfBudget
from ...features.gradient import GradientFeatures
from ...run.run import Run
from ..states import states
from .gradients import Products, products
from .seen import Seen
from .span import Span

#: Up to how many samples, or features, a matrix is taken apart whole.
DENSE = 4000


@dataclass(frozen=True, eq=False)
class Spanned:
    r"""Training features with their span, and queries beside them.

    Attributes:
        span: The span.
        rows: What :meth:`Span.energies` takes of the queries.
        kernel: k_x, with shape (q, n).
        diagonal: k(x, x), with shape (q,).
        layers: The products by each layer alone, where K was made.
        eps: The round-off of products.
        size: The number of features.
    """

    span: Span
    rows: Tensor
    kernel: Tensor
    diagonal: Tensor
    layers: dict[str, Products]
    eps: float
    size: int


def spanned(features: GradientFeatures, run: Run, moments: list[int], weights: list[dict[str, float]] | None,
            seen: Seen, layers: dict[str, list[str]], memory: int, done: Callable[[int], object]) -> Spanned:
    """Takes features apart: those of up to 4,000 samples through K, up to 4,000 features through their own products.

    Args:
        features: The gradients.
        run: The run.
        moments: The times of the run at which they are taken.
        weights: Those of a path kernel.
        seen: The queries and the samples.
        layers: The parameters of each layer.
        memory: How many bytes may be used.
        done: Is told of each time.

    Raises:
        OutOfBudget: If there are more of both, or they do not fit into memory.
    """
    n, q = len(seen.samples.inputs[0]), len(seen.queries.inputs[0])
    columns = 1 if features.targets else features.columns_of(seen.samples.points())
    size, eps = features.size * columns * len(moments), torch.finfo(features.dtype).eps
    if n > DENSE and (size > DENSE or weights is not None):
        raise OutOfBudget(
            f"Coverage takes the kernel of up to {DENSE:,} training samples apart, or the products of up to {DENSE:,} "
            f"features; there are {n:,} samples and {size:,} features. Pass samples={DENSE}, which are drawn evenly "
            'from the classes, or kernel="last layer".')
    # K by layer, its eigenvectors and their squares; the rows of queries.
    needed = 8 * (n * n * (len(layers) + 4) + 2 * q * n) if n <= DENSE else 8 * (2 * (n + q) * size + 3 * size**2)
    if needed > memory:
        raise OutOfBudget(
            f"The coverage of {q:,} queries by {n:,} training samples takes about {as_words(needed)}, and memory "
            f"allows {as_words(memory)}. Raise memory, pass fewer queries at a time, or samples={max(n // 2, 1)}, "
            "which are drawn evenly from the classes.")
    if n <= DENSE:
        found = products(features, run, moments, weights, seen.samples, seen.queries, layers, done)
        whole = _sum(list(found.values()))
        return Spanned(Span.of_kernel(whole.matrix, eps), whole.rows, whole.rows, whole.diagonal, found, eps, size)
    (_, state), = states(run, moments)
    at = features.at(state)
    one, other = (_rows(at, points) for points in (seen.samples.points(), seen.queries.points()))
    done(1)
    span = Span.of_features(one, eps)
    return Spanned(span, other, other @ one.T, other.square().sum(1), {}, eps, size)


def _rows(features: GradientFeatures, points: tuple[Tensor, ...]) -> Tensor:
    """The features, with shape (n, c p)."""
    given = features.points(points)
    return torch.cat([features.phi(given.chosen(range(part.start, part.stop))).flatten(1).double().cpu()
                      for part in features.steps(given)])


def _sum(parts: list[Products]) -> Products:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
