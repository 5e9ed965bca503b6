r"""The expected output of a training run.

Over the choice of its batches a run ends on average at

.. math:: \mathbb E f_T(x) = f_0(x) + \text{path} + \text{curvature} + \text{noise} + \text{decay} + \dots

up to terms in :math:`T\eta^3`. The first three are sums over training samples. The result is read off one recorded run:
each term is taken along the path of this run, so it is itself one draw of a number whose mean is meant, and
``mean_error`` says how far off it may be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ...arguments import as_choice, as_count, as_place
from ...result import Check, CheckRow, Result, rows_of
from ..wording import counted
from .account import OTHERS, SHARED
from .ensemble import Ensemble
from .sampling import SCHEMES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Expected(Result):
    r"""The mean and the spread of a network's outputs over the choice of its training batches.

    Attributes:
        initial: :math:`f_0(x)`, with shape :math:`(q, c)`.
        final: :math:`f_T(x)` of the recorded run, :math:`(q, c)`.
        terms: For each of ``path, curvature, noise, decay, momentum, buffers`` its total, :math:`(q, c)`.
        shares: For each of ``path, curvature, noise`` the share of each training sample, :math:`(q, c, n)`; of
            ``noise`` only where it was found exactly.
        steps: For each of them what each step adds, :math:`(q, c, T)`.
        variance: The variance of the output over runs, :math:`(q, c)`: that of pushes carried to the end, or that of
            contribution rows where they were not carried.
        row_variance: The variance of contribution rows, which costs nothing, :math:`(q, c)`.
        mean_variance: The variance of ``mean`` itself, as one run gives it, :math:`(q, c)`; ``None`` if not carried.
        variance_shares: The share of each sample in ``row_variance``, :math:`(q, c, n)`.
        variance_steps: What each step adds to ``variance``, :math:`(q, c, T)`.
        estimate_error: The standard error of what was estimated from some samples or pairs of batches, :math:`(q, c)`.
        sampling: How batches were drawn: ``"replacement"``, ``"independent"``, ``"reshuffling"`` or ``"fixed"``.
        order: 1 for the path alone, 2 with curvature and noise.
        sample_ids: The id of each training sample, with shape :math:`(n,)`.
        labels: A word for each training sample, or ``None``.
        output_names: A word for each output.
        ensemble: The runs that were trained anew, if they were asked for.
        info: Provenance: run, estimator, dtype, cost, notes.
    """

    initial: Tensor
    final: Tensor
    terms: dict[str, Tensor]
    shares: dict[str, Tensor]
    steps: dict[str, Tensor]
    variance: Tensor
    row_variance: Tensor
    mean_variance: Tensor | None
    variance_shares: Tensor
    variance_steps: Tensor
    estimate_error: Tensor
    sampling: str
    order: int
    sample_ids: Tensor
    labels: list[str] | None
    output_names: list[str]
    ensemble: Ensemble | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """The expected output that this run tells, with shape :math:`(q, c)`."""
        return self.upto("noise")

    def upto(self, term: str) -> Tensor:
        """The expected output with the terms up to ``"path"``, ``"curvature"`` or ``"noise"``, :math:`(q, c)`."""
        names = SHARED[:SHARED.index(as_choice(term, "term", SHARED)) + 1]
        return self.initial + torch.stack([self.terms[name] for name in (*names, *OTHERS)]).sum(0)

    @property
    def fluctuation(self) -> Tensor:
        """What the recorded run has beyond the mean, with shape :math:`(q, c)`: what the draw of its batches did."""
        return self.final - self.mean

    @property
    def std(self) -> Tensor:
        """The standard deviation of the output over runs, with shape :math:`(q, c)`."""
        return self.variance.sqrt()

    @property
    def mean_error(self) -> Tensor | None:
        """The standard deviation of ``mean`` as one run gives it, with shape :math:`(q, c)`."""
        return None if self.mean_variance is None else self.mean_variance.sqrt()

    @property
    def adjusted(self) -> Tensor:
        r"""The best guess of the mean from this one run, with shape :math:`(q, c)`.

        Both ``mean`` and ``final`` miss the expected output by what the draw of batches did, in opposite directions
        where training forgets; this is the mixture of the two whose variance is least,
        :math:`f_T - b\,\text{fluctuation}` with :math:`b = \langle D, \psi\rangle_\Sigma / |\psi|_\Sigma^2` for
        pushes carried to the end D and contribution rows :math:`\psi`. Without carried pushes it is ``mean``.
        """
        return self.final - self._mixture * self.fluctuation

    @property
    def adjusted_error(self) -> Tensor | None:
        """The standard deviation of ``adjusted`` over runs, with shape :math:`(q, c)`; ``None`` if not carried."""
        if self.mean_variance is None:
            return None
        return (self.variance - self._mixture.square() * self.row_variance).clamp_min(0.0).sqrt()

    @property
    def _mixture(self) -> Tensor:
        if self.mean_variance is None:
            return torch.ones_like(self.final)
        both = (self.variance + self.row_variance - self.mean_variance) / 2
        return both / self.row_variance.clamp_min(torch.finfo(torch.float64).tiny)

    @property
    def contributions(self) -> Tensor:
        """The share of each training sample in the mean, with shape :math:`(q, c, n)`."""
        return torch.stack(list(self.shares.values())).sum(0)

    def top(self, k: int = 5, query: int = 0, output: int = 0) -> pd.DataFrame:
        """The ``k`` samples with the largest absolute share in the mean of one output of one query, by term."""
        import pandas as pd

        k = as_count(k, "k", least=1)
        q, c = self.place(query), self.place_of_output(output)
        shares = self.contributions[q, c]
        order = shares.abs().argsort(descending=True, stable=True)[:k]
        columns: dict[str, Any] = {"sample": self.sample_ids[order].tolist(), "share": shares[order].tolist()}
        columns |= {name: found[q, c][order].tolist() for name, found in self.shares.items()}
        columns["variance"] = self.variance_shares[q, c][order].tolist()
        columns["label"] = [None if self.labels is None else self.labels[i] for i in order.tolist()]
        return pd.DataFrame(columns)

    def __len__(self) -> int:
        return self.initial.shape[0]

    def __getitem__(self, queries: int | slice | list[int] | Tensor) -> Self:
        """The expected outputs of some of the queries."""
        rows = rows_of(queries, len(self))
        named = ("initial", "final", "variance", "row_variance", "variance_shares", "variance_steps", "estimate_error")
        tables: dict[str, Any] = {name: {key: values[rows] for key, values in getattr(self, name).items()}
                                  for name in ("terms", "shares", "steps")}
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in named},
            **tables,
            mean_variance=None if self.mean_variance is None else self.mean_variance[rows],
            ensemble=None if self.ensemble is None else self.ensemble.of_queries(rows),
        )

    def place(self, query: Any) -> int:
        """The number of a query from 0 on; raises if there is no such query."""
        return as_place(query, "query", len(self), "queries")

    def place_of_output(self, output: Any) -> int:
        """The number of an output from 0 on; raises if there is no such output."""
        return as_place(output, "output", len(self.output_names), "outputs")

    def summary(self) -> str:
        """The expected output in one sentence."""
        q, c = self.initial.shape
        second = self.upto("noise") - self.upto("path")
        return (
            f"Expected({counted(q, 'input')}, {counted(c, 'output')} of each, "
            f"{counted(len(self.sample_ids), 'sample')}, batches drawn {SCHEMES[self.sampling]}: runs end "
            f"{_typical(self.std):.3g} apart (one standard deviation)"
            + (f", curvature and noise move the mean by {_typical(second):.3g}" if self.order == 2 else "")
            + (f", this run tells the mean to {_typical(self.adjusted_error):.3g}"
               if self.adjusted_error is not None else "") + ")"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and output: initial, each term, mean, its error, standard deviation, final."""
        import pandas as pd

        q, c = self.initial.shape
        columns: dict[str, Any] = {
            "query": [i for i in range(q) for _ in range(c)],
            "output": [name for _ in range(q) for name in self.output_names],
            "initial": self.initial.flatten().tolist(),
        }
        columns |= {name: self.terms[name].flatten().tolist() for name in (*SHARED, *OTHERS)}
        columns["mean"] = self.mean.flatten().tolist()
        if self.mean_error is not None:
            columns["mean error"] = self.mean_error.flatten().tolist()
            columns["adjusted"] = self.adjusted.flatten().tolist()
        columns |= {"std": self.std.flatten().tolist(), "final": self.final.flatten().tolist()}
        if self.ensemble is not None:
            columns["measured mean"] = self.ensemble.mean.flatten().tolist()
            columns["measured std"] = self.ensemble.std.flatten().tolist()
        return pd.DataFrame(columns)

    def check(self) -> Check:
        """Whether the terms of higher order are small, the recorded run is a likely one, and seeds agree."""
        rows = []
        assumed = self.info.get("assumed", [])
        if assumed:
            rows.append(CheckRow("assumptions", "warn", float(len(assumed)), 0.0, " ".join(assumed)))
        if len(self) and self.order == 2:
            moved = (self.upto("path") - self.initial).abs().mean()
            second = _typical(self.upto("noise") - self.upto("path"))
            ratio = float(second / moved.clamp_min(torch.finfo(torch.float64).tiny))
            rows.append(CheckRow(
                "order", "pass" if ratio <= 0.2 else "warn", ratio, 0.2,
                f"Curvature and noise are {ratio:.1%} of the path term; where they are not small, terms of third order "
                "count too.",
            ))
        error = _typical(self.estimate_error)
        if error:
            limit = 0.1 * _typical(self.std)
            rows.append(CheckRow(
                "estimate", "pass" if error <= limit else "warn", error, limit,
                f"Estimates from some samples, or from pairs of batches, leave a standard error of {error:.2g}.",
            ))
        if len(self) and self.mean_variance is not None and self.sampling in ("replacement", "independent"):
            spread = (self.mean_variance + self.variance).sqrt()
            worst = float((self.fluctuation.abs() / spread).nan_to_num(0.0, posinf=0.0).max())
            rows.append(CheckRow(
                "fluctuation", "pass" if worst <= 5 else "warn", worst, 5.0,
                f"The recorded run lies at most {worst:.1f} standard deviations from the mean it tells.",
            ))
        if self.ensemble is not None:
            rows += self.ensemble.check().rows
        return Check(tuple(rows))


def _typical(values: Tensor) -> float:
    """The root of the mean square."""
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
