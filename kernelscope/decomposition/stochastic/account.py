"""The terms of the expected output while they are gathered, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ...result import as_float64
from .sampling import Sampling

#: The terms of the mean that samples have shares in, and those that they have none in.
SHARED, OTHERS = ("path", "curvature", "noise"), ("decay", "momentum", "buffers")


class Account:
    """Terms by step and by sample, of some queries with the outputs named."""

    def __init__(self, queries: int, outputs: int, size: int, steps: int, carried: bool, sampling: Sampling):
        self.outputs, self.sampling = outputs, sampling
        self.shares = {name: _zeros(queries, outputs, size) for name in SHARED}
        self.terms = {name: _zeros(queries, outputs) for name in (*SHARED, *OTHERS)}
        self.steps = {name: _zeros(queries, outputs, steps) for name in SHARED}
        self.path = _zeros(queries, outputs, steps + 1)
        #: The variance of what was estimated from some of the samples, or from pairs of batches.
        self.estimate_variance = _zeros(queries, outputs)
        #: What the variance of three things is made of: contribution rows, pushes carried to the end, their difference.
        self.variances = {name: _zeros(queries, outputs) for name in ("row", *(("carried", "mean") if carried else ()))}
        self.variance_steps = _zeros(queries, outputs, steps)
        self.variance_shares = _zeros(queries, outputs, size)
        self._epochs: dict[str, Tensor] = {}

    def _shaped(self, amounts: Tensor) -> Tensor:
        return as_float64(amounts).view(-1, self.outputs, *amounts.shape[1:])

    def see(self, rows: slice, k: int, values: Tensor) -> None:
        """Keeps the outputs at the start of step k."""
        self.path[rows, :, k] = as_float64(values)

    def book(self, term: str, rows: slice, amounts: Tensor, k: int | None = None) -> None:
        """Adds amounts, one for each query and output, to a term."""
        amounts = self._shaped(amounts)
        self.terms[term][rows] += amounts
        if k is not None:
            self.steps[term][rows, :, k] += amounts

    def share(self, term: str, rows: slice, k: int, columns: Tensor, shares: Tensor) -> None:
        """Adds the shares of samples at step k, with shape (queries x outputs, samples)."""
        amounts = self._shaped(shares)
        self.shares[term][rows].index_add_(2, columns, amounts)
        self.book(term, rows, shares.sum(1), k)

    def spread(self, rows: slice, k: int, columns: Tensor, met: dict[str, Tensor]) -> None:
        """Adds what step k does to the variances.

        Args:
            rows: Which queries.
            k: The step.
            columns: The columns of the samples.
            met: By name the products of directions with the gradients of all samples, (queries x outputs, n).
        """
        own, pair, m, n = self.sampling.own(k), self.sampling.pair, len(columns), self.sampling.population
        part = (n - 1) / (n * max(m - 1, 1))
        for name, products in met.items():
            centred = self._shaped(products - products.mean(1, keepdim=True))
            # What m samples drawn out of n tell of the variance of all.
            squares = centred.square() * part
            amounts = (own + pair) * squares
            if name == "row":
                self.estimate_variance[rows] += (1 / m - 1 / n) * n / max(n - 1, 1) * squares.sum(-1)
                self.variance_shares[rows].index_add_(2, columns, amounts)
            self.variances[name][rows] += amounts.sum(-1)
            if name == ("carried" if "carried" in self.variances else "row"):
                self.variance_steps[rows, :, k] += amounts.sum(-1)
            if pair:
                self._epochs[name] = centred + self._epochs.get(name, 0.0)
                if self.sampling.starts_epoch(k):
                    # Steps of one epoch have less than nothing in common: what was drawn once is not drawn again.
                    together = pair * part * self._epochs.pop(name).square()
                    self.variances[name][rows] -= together.sum(-1)
                    if name == "row":
                        self.variance_shares[rows].index_add_(2, columns, -together)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)
