"""Contribution and influence side by side: two questions about the same samples, and two answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import DataError
from ...ranks import spearman
from ...result import Check, CheckRow, Result
from ..result import Decomposition
from .result import Influence

if TYPE_CHECKING:
    import pandas as pd

#: What tells the two apart.
DIFFERENCE = (
    "A contribution is a share: what training on a sample added to the answer along this one run, exactly, so that all "
    "of them add up. An influence is counterfactual: how the answer would change, to first order, had the sample "
    "counted less in training."
)


@dataclass(frozen=True, eq=False, repr=False)
class ContributionAndInfluence(Result):
    """The contribution of each sample to one output of each query, and its influence on it.

    Attributes:
        decomposition: The ledger, with one output.
        influence: The influences on the same output of the same queries.
        names: A word for each query, or ``None``.
    """

    decomposition: Decomposition
    influence: Influence
    names: list[str] | None = None

    @property
    def agreement(self) -> Tensor:
        """The rank correlation over samples of contribution with influence, with shape (q,)."""
        return spearman(self.decomposition.contributions[:, 0], self.influence.influences[:, 0])

    def summary(self) -> str:
        """How alike the two rank samples, in one sentence."""
        ranks = self.agreement
        q, _, n = self.influence.influences.shape
        mean = float(ranks.mean()) if q else float("nan")
        return (f"ContributionAndInfluence(queries={q}, samples={n}: contribution (what a sample added along this run) "
                f"and influence (what its weight would do, {self.influence.method}, first order) have a rank "
                f"correlation of {mean:.2f} on average)")

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and sample, with the contribution and the influence in columns of their own."""
        frame = self.influence.to_frame()
        frame.insert(4, "contribution", self.decomposition.contributions.flatten().numpy())
        return frame

    def check(self) -> Check:
        """The checks of both, each under its name."""
        rows = [CheckRow(f"{name}: {row.name}", row.status, row.value, row.limit, row.sentence)
                for name, part in (("contribution", self.decomposition), ("influence", self.influence))
                for row in part.check().rows]
        return Check(tuple(rows))


def beside(decomposition: Decomposition, influence: Influence,
           names: list[str] | None = None) -> ContributionAndInfluence:
    """Sets the contributions of one run beside its influences.

    Raises:
        DataError: If they are of other queries, outputs or samples, or of several outputs.
    """
    one, other = tuple(decomposition.contributions.shape), tuple(influence.influences.shape)
    alike = one == other and torch.equal(decomposition.sample_ids, influence.sample_ids)
    if not alike or one[1] != 1 or not torch.allclose(decomposition.final, influence.values, rtol=1e-5, atol=1e-6):
        raise DataError(
            "Contribution and influence are set side by side for one output of the same queries and samples; shapes "
            f"{one} and {other} came. Compute both with the same run, x, output and targets."
        )
    return ContributionAndInfluence(decomposition, influence, names)
